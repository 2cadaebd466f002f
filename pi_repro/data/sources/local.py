"""A copy that somebody has already: held against every digest that is known, then linked, never copied or altered.

What a copy says of itself counts too: the hub's client keeps the digest and commit of each file beside it or in its
name, so a truncated shard of such a copy is found without a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import sync_folder
from pi_repro.spec.card import Source

from .downloads import Pin
from .origin import UNWATCHED, Obtained, RemoteFile, Watch, checked_name, git_digest, record_of
from .pins import Pins

_CHUNK = 8 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LocalOrigin:
    """Files below a folder, or one file.

    Attributes:
        root: the folder, or the file; not recorded.
        single: the name of the one file: as the source itself calls it; None for a folder.
    """

    source: Source
    root: Path
    pins: Pins
    single: str | None

    @classmethod
    def at(cls, source: Source, root: Path, pins: Pins) -> LocalOrigin:
        """The copy at `root` in place of the source. A folder with the one file of an http source counts as that.

        Raises:
            StateError: nothing is there; it is of another commit than the card's.
        """
        wanted = unquote(urlsplit(source.locator).path.rsplit("/", 1)[-1]) if "://" in source.locator else ""
        one = source.kind in ("http", "objects") and bool(wanted)
        if root.is_dir() and one and (root / wanted).is_file():
            root = root / wanted
        if not root.exists():
            raise StateError("the local copy is not there", where=f"source {source.name}", given=str(root))
        if root.is_file():
            return cls(source, root, pins, wanted if one else root.name)
        commit = root.name if root.parent.name == "snapshots" else ""  # as the hub's client lays out its cache
        if _COMMIT.fullmatch(commit) and _COMMIT.fullmatch(source.revision) and commit != source.revision:
            raise _other_commit(source, str(root), commit)
        return cls(source, root, pins, None)

    @property
    def record(self) -> Mapping[str, object]:
        return {**record_of(self.source, self.source.revision), "from": "a local copy"}

    def _walk(self) -> Iterator[str]:
        seen = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:  # a link back up
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                if not name.startswith(".") and Path(folder, name).is_file():
                    yield Path(folder, name).relative_to(self.root).as_posix()

    def files(self) -> tuple[RemoteFile, ...]:
        if self.single is not None:
            return (self.file(self.single),)
        return tuple(self.file(name) for name in sorted(self._walk()))

    def _path(self, name: str) -> Path:
        path = self.root if name == self.single else self.root / checked_name(name)
        if self.single not in (None, name) or not path.is_file():
            raise StateError("the local copy has no such file", where=f"source {self.source.name}", given=name)
        return path.resolve()

    def file(self, name: str) -> RemoteFile:
        path = self._path(name)
        card = Pin.parse(self.source.digest) if self.single is not None else None
        if card is not None and card.algorithm == "sha256":
            return RemoteFile(name, path.stat().st_size, card.hexdigest)
        pinned, said = self.pins.get(name), self._said(name, path)
        known = pinned.sha256 if pinned else said if said and _SHA256.fullmatch(said) else None
        return RemoteFile(name, path.stat().st_size, known)

    def _said(self, name: str, path: Path) -> str | None:
        """What the hub's client, which made this copy, noted as the file's digest: sha256, or git's of a small file."""
        if path.parent.name == "blobs" and (_SHA256.fullmatch(path.name) or _COMMIT.fullmatch(path.name)):
            return path.name
        note = self.root / ".cache" / "huggingface" / "download" / f"{name}.metadata"
        if self.single is not None or not note.is_file():
            return None
        commit, digest = [*note.read_text(errors="replace").split(), "", ""][:2]
        if _COMMIT.fullmatch(commit) and _COMMIT.fullmatch(self.source.revision) and commit != self.source.revision:
            raise _other_commit(self.source, name, commit)
        return digest if _SHA256.fullmatch(digest) or _COMMIT.fullmatch(digest) else None

    def obtain(self, file: RemoteFile, target: Path, watch: Watch = UNWATCHED) -> Obtained:
        path, expected = self._path(file.name), self._expected(file)
        found = _digests(path, {kind for kind, _ in expected} | {"sha256"}, watch)
        for kind, value in sorted(expected):
            if found[kind] != value:
                raise StateError(
                    "the local copy is not what is expected; it is truncated, damaged or another version",
                    where=str(path),
                    given=f"{kind} {found[kind]}",
                    allowed=f"{kind} {value}",
                    todo="copy it again, or fetch without --from",
                )
        self.pins.check(file.name, int(found["bytes"]), found["sha256"])
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(path, target)
        return Obtained(target, int(found["bytes"]), found["sha256"], linked=True)

    def _expected(self, file: RemoteFile) -> set[tuple[str, str]]:
        """What must be true of a file: (bytes, git or a digest's name, value). What only an earlier fetch found is
        not among it; see Pins.check."""
        pinned = self.pins.get(file.name)
        expected = set() if file.bytes is None else {("bytes", str(file.bytes))}
        if file.sha256 is not None and (pinned is None or pinned.sha256 != file.sha256):
            expected.add(("sha256", file.sha256))
        if self.single is not None:
            card = Pin.parse(self.source.digest)
            expected |= {(card.algorithm, card.hexdigest)} if card is not None else set()
            expected |= {("bytes", str(self.source.bytes))} if self.source.bytes is not None else set()
        said = self._said(file.name, self._path(file.name))
        if said is not None:
            expected.add(("sha256" if _SHA256.fullmatch(said) else "git", said))
        for entry in self.pins.listing() or ():  # what the hub itself said at an earlier fetch
            if entry["name"] == file.name and entry.get("sha256"):
                expected.add(("sha256", entry["sha256"]))
        return expected

    def read(self, name: str, start: int, length: int) -> bytes:
        with self._path(name).open("rb") as file:
            file.seek(start)
            return file.read(length)


def _other_commit(source: Source, where: str, commit: str) -> StateError:
    return StateError(
        "the local copy is of another revision",
        where=where,
        given=commit,
        allowed=source.revision,
        todo="give a copy of the card's revision, or fetch without --from",
    )


def _digests(path: Path, kinds: set[str], watch: Watch) -> dict[str, str]:
    """Size and digests of a file, read once; "git" is what git calls it."""
    size = path.stat().st_size
    sums = {kind: hashlib.new(kind) for kind in kinds - {"bytes", "git"}}
    if "git" in kinds:
        sums["git"] = git_digest(size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop while it checked a local copy", where=str(path))
            for digest in sums.values():
                digest.update(chunk)
            watch.advance(len(chunk))
    return {"bytes": str(size), **{kind: digest.hexdigest() for kind, digest in sums.items()}}


def _link(path: Path, target: Path) -> None:
    """A hard link where the file system makes one, else a symbolic link; whatever lay there gives way at once."""
    if target.exists() and target.samefile(path):
        return
    aside = target.with_name(f".{target.name}.link-{secrets.token_hex(4)}")
    try:
        os.link(path, aside)
    except OSError:  # another file system, or one that lets only owners link
        os.symlink(path, aside)
    os.replace(aside, target)
    sync_folder(target.parent)
