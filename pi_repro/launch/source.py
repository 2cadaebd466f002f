"""The code of a commit, as an archive in a crate: who has no clone can compute the experiment again.

Rule: what a rebuild needs and no more, taken from git and not from the checkout, so that the archive is the
commit's and nothing else's. It holds no commit id, author or date.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pi_repro.errors import StateError
from pi_repro.provenance import git

from . import anonymity
from .archive import write_zip

_NEEDED: Final = {
    *(".dvc", ".dvcignore", ".gitignore", "LICENSE", "Makefile", "README.md", "dvc.yaml", "params.json"),
    *("pi_repro", "pyproject.toml", "requirements-dev.lock", "requirements.lock", "specs", "tools"),
}


def pack(
    workspace: Path, commits: Mapping[str, str], folder: Path, secrets: anonymity.Secrets | None
) -> dict[str, str]:
    """Write an archive for each commit that the checkout's git still has.

    Args:
        workspace: the checkout.
        commits: name in the crate (the id itself, or an alias) -> id.
        folder: of the crate.
        secrets: what must not be found in the code; None when nobody asks.

    Returns:
        name -> path of its archive in the crate.

    Raises:
        StateError: when the code names somebody.
    """
    found = {}
    for name, commit in commits.items():
        scratch = folder / ".code"
        try:
            if not _extract(workspace, commit, scratch):
                continue
            if secrets:
                _check(scratch, secrets, name)
            path = f"code/pi_repro-{name[:12]}.zip"
            (folder / "code").mkdir(exist_ok=True)
            write_zip(scratch, folder / path)
            found[name] = path
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found


def _check(folder: Path, secrets: anonymity.Secrets, name: str) -> None:
    """Take out DVC's remotes, which name a bucket or a host and which no rebuild needs; then search the rest."""
    config = folder / ".dvc" / "config"
    if config.is_file():
        config.write_text(_without_remotes(config.read_text()))
    try:
        anonymity.check(folder, secrets)
    except StateError as error:
        raise StateError(
            error.problem,
            where=f"{error.where}, in the code of {name}",
            given=error.given,
            todo="commit the code without it and `pirepro run SPEC --force`: a crate holds the code that ran",
        ) from None


def _without_remotes(config: str) -> str:
    kept, skipping = [], False
    for line in config.splitlines(keepends=True):
        if line.startswith("["):
            skipping = "remote" in line
        if not skipping and not line.strip().startswith("remote ="):
            kept.append(line)
    return "".join(kept)


def _extract(workspace: Path, commit: str, folder: Path) -> bool:
    listed = git.output(workspace, "ls-tree", "--name-only", "-z", commit)
    names = sorted(_NEEDED & set((listed or b"").decode().split("\0")))
    content = git.output(workspace, "archive", "--format=tar", commit, "--", *names) if names else None
    if content is None:
        return False
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        # By hand, because extractall has no filter before Python 3.11.4; a link in the code is left out.
        for member in archive:
            target = folder / member.name
            if member.isfile() and target.resolve().is_relative_to(folder.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    return True
