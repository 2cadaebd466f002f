"""What was published: every file of an output with its digests, checked whenever it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import files_under, tree_digest


@dataclass(frozen=True)
class Entry:
    """One file: POSIX path inside the output, size in bytes, sha256 (ours) and md5 (DVC's)."""

    path: str
    bytes: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class Manifest:
    """The files of an output in order of their paths."""

    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Content digest, as fingerprints of later stages hash it."""
        return tree_digest((entry.path, entry.sha256) for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.entries)

    def check(self, folder: Path, what: str) -> None:
        """Read every file and compare.

        Raises:
            StateError: naming the first file that is missing, too much, or differs.
        """
        found = {path.relative_to(folder).as_posix() for path in files_under(folder)} if folder.is_dir() else set()
        for entry in self.entries:
            path = folder / entry.path
            if entry.path not in found:
                raise StateError(f"a file of {what} is missing", where=str(path))
            if read(path, entry.path) != entry:
                raise StateError(
                    f"damaged: not the bytes that {what} published",
                    where=str(path),
                    allowed=f"sha256 {entry.sha256}",
                    todo="`pirepro gc --damaged` removes what is damaged; run again and it is rebuilt",
                )
        strangers = sorted(found - {entry.path for entry in self.entries})
        if strangers:
            raise StateError(f"a file that {what} never published", where=str(folder / strangers[0]), todo="remove it")

    def to_plain(self) -> list[dict[str, Any]]:
        """As JSON holds it."""
        return [vars(entry) for entry in self.entries]


def read(path: Path, name: str) -> Entry:
    """Digests of one file, read once."""
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return Entry(name, size, sha.hexdigest(), md5.hexdigest())


def of_folder(folder: Path) -> Manifest:
    """The manifest of a folder as it is.

    Raises:
        StateError: when it holds anything but plain files.
    """
    return Manifest(tuple(read(path, path.relative_to(folder).as_posix()) for path in files_under(folder)))


def from_plain(rows: Iterable[Mapping[str, Any]]) -> Manifest:
    """A manifest from its JSON form."""
    return Manifest(tuple(Entry(row["path"], row["bytes"], row["sha256"], row["md5"]) for row in rows))


def dvc_md5(files: Iterable[tuple[str, str]]) -> str:
    """DVC's hash of a folder from its (relative path, md5) rows (dvc_data.hashfile.tree.Tree)."""
    rows = [{"md5": md5, "relpath": path} for path, md5 in sorted(files)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
