"""One task's share of a dataset, such as the tar made of one parquet file: whole, or not there.

Rule: a part is made aside and named last. Its sidecar is written after its tars are on disk and says what they were
made from, so a part can be made again, by anyone and in any order, and is the same. `assembly` puts the index together
from sidecars alone, without reading a tar.

A home (a folder of shards) holds:

    <part>.tar                  the part's samples; <part>.0.tar, <part>.1.tar, ... where there are several
    .parts/<part>.json          what it was made from, its tars and their sha256, what could not be used and why
    .parts/<part>.safetensors   its rows, as the index will hold them, and its keys
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pi_repro.data.shards import KINDS
from pi_repro.data.tars import Rows, Tar, presized
from pi_repro.errors import StateError
from pi_repro.files import digest_of, read_json, sync_folder, write_atomic, write_json

SIDECARS = ".parts"
#: Samples of one tar, at most.
SHARD_SIZE = 10_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_PLACE_IN_MEMORY = re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>")
_KEYS = "keys"
#: The form of sidecars and tars; raised when they change, so that parts of an older form are made again.
_FORM = 2


@dataclass(frozen=True)
class PartTar:
    """One tar of a part: its name in the home, sha256, size in bytes and number of samples."""

    name: str
    sha256: str
    bytes: int
    count: int


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        home: the folder that its tars lie in.
        name: its name.
        identity: what it was made from, hex.
        tars: its tars in order; none where it has no sample.
        failures: (key, reason) of everything that could not be used.
        members: columns that are members of the tars.
        rows_sha256: of the file with its rows.
        about: what its maker noted, such as the source's sha256.
    """

    home: Path
    name: str
    identity: str
    tars: tuple[PartTar, ...]
    failures: tuple[tuple[str, str], ...]
    members: tuple[str, ...]
    rows_sha256: str
    about: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Samples."""
        return sum(tar.count for tar in self.tars)

    @property
    def bytes(self) -> int:
        """Size of the tars."""
        return sum(tar.bytes for tar in self.tars)

    @property
    def sha256(self) -> str:
        """Of the tar; of the list of their sha256 where there are several or none."""
        return self.tars[0].sha256 if len(self.tars) == 1 else digest_of([tar.sha256 for tar in self.tars])

    def rows(self, *columns: str) -> dict[str, np.ndarray]:
        """Columns of the part's rows, all where none is named; `shard` is the tar's number within the part.

        Raises:
            StateError: the sidecar is damaged or lacks a column.
        """
        path = _rows_path(self.home, self.name)
        try:
            content = path.read_bytes()
            # Places in a tar: one wrong bit, and a caption is another image's.
            if hashlib.sha256(content).hexdigest() != self.rows_sha256:
                raise _damaged(path, "its sha256 differs")
            table = load(content)
            found = {name: table[name] for name in columns or sorted(table.keys() - {_KEYS})}
        except (OSError, SafetensorError, KeyError) as error:
            raise _damaged(path, error) from None
        if any(len(values) != self.count for name, values in found.items() if name != _KEYS):
            raise _damaged(path, "its columns have another length")
        return found

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """The columns and their types."""
        return {name: values.dtype for name, values in self.rows().items()}

    def keys(self) -> list[str]:
        """The samples' keys, in the order of the rows.

        Raises:
            StateError: the sidecar is damaged.
        """
        return bytes(self.rows(_KEYS)[_KEYS]).decode().split() if self.count else []


class PartWriter:
    """Write a part; nothing of it is seen before `close`.

    Args:
        home: the folder of the dataset's shards, made where absent.
        name: the part's name: letters, digits, _ and -.
        kind: of the dataset: pairs, triplets, classification or retrieval.
        short_side: a card's `short_side`: larger images are made smaller; None keeps every file.
        identity: what the part is made from, hex; `finished` compares it.
        shard_size: samples of a tar, at most.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        kind: str,
        short_side: int | None = None,
        *,
        identity: str = "",
        shard_size: int = SHARD_SIZE,
    ) -> None:
        if not _NAME.fullmatch(name) or kind not in KINDS or shard_size < 1:
            raise ValueError(f"part {name!r}, kind {kind!r}, shard_size {shard_size}")
        self.home, self.name, self.kind = Path(home), name, kind
        self.identity, self.short_side, self.shard_size = identity, short_side, shard_size
        self.failures: list[tuple[str, str]] = []
        self._rows = Rows(f"part {name}", kind)
        self._keys: list[str] = []
        self._seen: set[str] = set()
        self._written: list[tuple[str, int, int]] = []
        self._file: BinaryIO | None = None
        self._tar: Tar | None = None
        (self.home / SIDECARS).mkdir(parents=True, exist_ok=True)
        self._aside = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".making", dir=self.home / SIDECARS))

    @property
    def count(self) -> int:
        """Samples so far."""
        return len(self._rows)

    def add(self, key: str, members: Mapping[str, bytes], extra: Mapping[str, int] | None = None) -> None:
        """Append a sample, as `ShardWriter.add` does; keys are unique in the whole part.

        Raises:
            Undecodable: an image that should be made smaller cannot be decoded.
            StateError: unusable or repeated key, or other columns than the samples before.
        """
        if self.short_side is not None:
            members = presized(f"part {self.name}, key {key!r}", members, self.short_side)
        tar = self._tar or self._open()
        self._rows.write(tar, len(self._written), key, members, extra or {}, self._seen)
        self._keys.append(key)
        if self.count == (len(self._written) + 1) * self.shard_size:
            self._finish()

    def fail(self, key: str, reason: str) -> None:
        """Note what could not be used and why; it is counted, and listed in the part."""
        # Pillow names an object's place in memory, which is another one in each run.
        plain = _PLACE_IN_MEMORY.sub("", " ".join(reason.split()))
        self.failures.append((key, plain[:300]))

    def _open(self) -> Tar:
        self._file = (self._aside / str(len(self._written))).open("wb")
        self._tar = Tar(self._file)
        return self._tar

    def _finish(self) -> None:
        if self._tar is None or self._file is None:
            return
        written = self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        count = self.count - sum(count for _, _, count in self._written)
        self._written.append((written.sha256, written.bytes, count))
        self._tar = self._file = None

    def close(self, about: Mapping[str, Any] | None = None) -> Part:
        """Put the part in its place: tars, then rows, then the sidecar that names them.

        Args:
            about: JSON values to be kept with it.
        """
        self._finish()
        tars = []
        for number, (sha256, size, count) in enumerate(self._written):
            name = f"{self.name}.tar" if len(self._written) == 1 else f"{self.name}.{number}.tar"
            os.replace(self._aside / str(number), self.home / name)
            tars.append({"name": name, "sha256": sha256, "bytes": size, "count": count})
        sync_folder(self.home)
        table = self._rows.table()
        keys = np.frombuffer("\n".join(self._keys).encode(), dtype=np.uint8)
        rows = save({**table, _KEYS: keys})
        write_atomic(_rows_path(self.home, self.name), rows)
        write_json(
            _sidecar(self.home, self.name),
            {
                "form": _FORM,
                "identity": self.identity,
                "tars": tars,
                "failures": self.failures,
                "members": self._rows.members,
                "rows_sha256": hashlib.sha256(rows).hexdigest(),
                "about": dict(about or {}),
            },
        )
        self.abandon()
        part = finished(self.home, self.name, self.identity)
        if part is None:
            raise StateError("part vanished while it was put in its place", where=str(self.home / self.name))
        return part

    def abandon(self) -> None:
        """Remove what was made aside."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._aside, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing is said, not implied: it takes what is to be noted.
        self.abandon()


def finished(home: Path, name: str, identity: str) -> Part | None:
    """The part, where it is whole and was made from just this; else None, and it is to be made.

    Sizes of tars are compared, not their contents, which `Shards.verify` reads.
    """
    try:
        found = read_json(_sidecar(home, name))
        if found["form"] != _FORM or found["identity"] != identity:
            return None
        tars = tuple(PartTar(tar["name"], tar["sha256"], tar["bytes"], tar["count"]) for tar in found["tars"])
        if any((home / tar.name).stat().st_size != tar.bytes for tar in tars):
            return None
        failures = tuple((str(key), str(reason)) for key, reason in found["failures"])
        members, digest = tuple(found["members"]), found["rows_sha256"]
        part = Part(Path(home), name, identity, tars, failures, members, digest, found["about"])
        return part if _rows_path(home, name).is_file() else None
    except (StateError, OSError, KeyError, TypeError, ValueError):
        return None


def clear(home: Path, name: str) -> None:
    """Remove what killed makers of a part left; only for who holds its lock."""
    for left in (home / SIDECARS).glob(f"{name}.*.making"):
        shutil.rmtree(left, ignore_errors=True)
    for kept in (_sidecar(home, name), _rows_path(home, name)):
        for left in kept.parent.glob(f".{kept.name}.*"):  # of `write_atomic`
            left.unlink(missing_ok=True)


def leftovers(home: Path) -> dict[str, list[Path]]:
    """By part, what lies beside the sidecars and is none: locks, source files, what killed makers left."""
    found: dict[str, list[Path]] = {}
    for path in (home / SIDECARS).iterdir() if (home / SIDECARS).is_dir() else ():
        name = path.name.removeprefix(".").partition(".")[0]
        if path not in (_sidecar(home, name), _rows_path(home, name)):
            found.setdefault(name, []).append(path)
    return found


def _sidecar(home: Path, name: str) -> Path:
    return Path(home) / SIDECARS / f"{name}.json"


def _rows_path(home: Path, name: str) -> Path:
    return Path(home) / SIDECARS / f"{name}.safetensors"


def _damaged(path: Path, why: object) -> StateError:
    return StateError(
        "rows of a part are damaged", where=str(path), given=str(why), todo="remove this file and fetch again"
    )
