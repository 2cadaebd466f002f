"""Double-blind review: what would tell who computed, where, or which public commit, and the search for it.

Rule: nothing is cut out of a person's files; a file that names somebody is refused, with its line. Only what
this package wrote itself is rewritten (`provenance`). Recognition by content stays possible: who has the
same results, published elsewhere, can compare digests.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pi_repro.errors import StateError
from pi_repro.files import files_under
from pi_repro.provenance import git

#: Names that half of all machines have tell nobody.
_COMMON: Final = frozenset(
    [
        "root",
        "user",
        "users",
        "admin",
        "ubuntu",
        "debian",
        "ec2-user",
        "centos",
        "runner",
        "jovyan",
        "docker",
        "vagrant",
        "nobody",
        "localhost",
    ]
)
_SHORTEST: Final = 3
#: Fields of CITATION.cff that lead to whoever publishes.
LINKS: Final = ("repository-code", "url", "repository", "repository-artifact", "doi")
#: A home folder of whatever machine a file came from; not the middle of a URL.
_HOME: Final = re.compile(r"(?<![\w.:/~-])/(?:home|Users)/[\w.-]+")
#: Ten digits tell a commit from the eight-digit checksums of a ledger.
_HEX: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{10,40}(?![0-9a-f])")


@dataclass(frozen=True)
class Secrets:
    """What must not be found.

    Attributes:
        words: (what it is, the text), compared without regard to case, as whole words.
        commits: ids of all commits of the workspace, 40 hex digits each.
    """

    words: tuple[tuple[str, str], ...]
    commits: frozenset[str] = frozenset()


def gather(workspace: Path, citation: Mapping[str, Any]) -> Secrets:
    """What this machine, the checkout's git and its CITATION.cff say of people and places.

    Common names of accounts and machines, and those under three letters, are searched as part of a home
    folder only.

    Args:
        workspace: the checkout.
        citation: content of CITATION.cff; the authors of the software, not those of the paper it cites.
    """
    words: list[tuple[str, str]] = []
    host = socket.gethostname()
    words += [("the host's name", host), ("the host's name", host.split(".")[0]), ("the user's name", _user())]
    words += [("the home folder", str(Path.home())), ("the workspace", str(workspace))]
    for field in ("name", "email"):
        words += [(f"git's user.{field}", line) for line in _git(workspace, "config", f"user.{field}")]
    for line in sorted(set(_git(workspace, "log", "--all", "--format=%an%n%ae%n%cn%n%ce"))):
        words.append(("an author of a commit", line))
    for line in _git(workspace, "config", "--get-regexp", r"remote\..*\.url"):
        words += [("a git remote", url) for url in _remote(line.partition(" ")[2])]
    for author in citation.get("authors", []):
        words += [("an author of CITATION.cff", name) for name in _names(author)]
    words += [("the repository of CITATION.cff", str(citation[key])) for key in LINKS if citation.get(key)]
    kept = {text: what for what, text in reversed(words) if len(text) >= _SHORTEST and text.lower() not in _COMMON}
    commits = frozenset(_git(workspace, "rev-list", "--all"))
    return Secrets(tuple((what, text) for text, what in sorted(kept.items())), commits)


def search(text: str, secrets: Secrets) -> tuple[int, str, str] | None:
    """The first thing found: its line, what it is, and the text; None when there is nothing."""
    for what, word in secrets.words:
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
        if found:
            return _line(text, found), what, found.group()
    if found := _HOME.search(text):
        return _line(text, found), "a home folder", found.group()
    short = {commit[:10] for commit in secrets.commits}
    for found in _HEX.finditer(text):
        word = found.group()
        if word[:10] in short and any(commit.startswith(word) for commit in secrets.commits):
            return _line(text, found), "a commit", word
    return None


def check(folder: Path, secrets: Secrets) -> None:
    """Search the names of all files below a folder and the content of those that are text.

    Raises:
        StateError: naming the first file and line that gives somebody away.
    """
    for path in files_under(folder):
        name = path.relative_to(folder).as_posix()
        for where, text in ((f"the name of {name}", name), (name, _text(path))):
            if found := search(text, secrets):
                line, what, word = found
                raise StateError(
                    f"not anonymous: it holds {what}",
                    where=where if where != name else f"{name}:{line}",
                    given=word,
                    todo="take it out where it comes from and package again",
                )


def provenance(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Provenance without what can be looked up.

    Commits and image digests become numbers in order of appearance, which tell only who shares one: a hash
    of a commit would be found by hashing the commits of every public repository. SLURM's ids are dropped.
    """
    known: dict[str, str] = {}

    def alias(kind: str, value: str | None) -> str | None:
        if value is None:
            return None
        number = 1 + sum(name.startswith(kind) for name in known.values())
        return known.setdefault(value, f"{kind}-{number}")

    return [
        {
            **record,
            "git": {**record.get("git", {}), "commit": alias("commit", record.get("git", {}).get("commit"))},
            "image": alias("image", record.get("image")),
            "slurm": {},
        }
        for record in records
    ]


def _names(author: Mapping[str, Any]) -> list[str]:
    given, family = str(author.get("given-names", "")).strip(), str(author.get("family-names", "")).strip()
    full = [f"{given} {family}", f"{family}, {given}"] if given and family else []
    single = [str(author[key]) for key in ("name", "alias", "email", "orcid", "website") if author.get(key)]
    return full + single


def _remote(url: str) -> list[str]:
    """A remote's address and its owner/name part."""
    path = re.sub(r"\.git/?$", "", re.sub(r"^[\w+.-]+://[^/]*/|^[^/:]+:", "", url.strip())).strip("/")
    return [url.strip(), *([path] if "/" in path else [])]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _git(workspace: Path, *arguments: str) -> list[str]:
    lines = (git.output(workspace, *arguments) or b"").decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
