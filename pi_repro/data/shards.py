"""A sharded dataset, open for reading: any member of any sample is one pread.

Rule: nothing is trusted before it is checked. The index carries its own sha256 and is refused by
name when it differs; `verify` refuses a shard by name; a read that ends early names its shard.

A dataset folder holds (see `pi_repro.data.shardwriter`, which writes it):

    index.json           name, kind, layout, count, columns, members, shards, index_sha256, and home where
                         the shards lie elsewhere below the data root than in <name>/ (two sets can share them)
    index.safetensors    one row a sample, in shard order: `shard` int32, `<member>.offset` int64,
                         `<member>.size` int32 (bytes), and integer columns such as `label`
    shards/00000.tar     webdataset tars ("test/0.tar" in a set of a suite)
"""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, sha256_file

KINDS = ("pairs", "triplets", "classification", "retrieval")
LAYOUTS = ("shards", "suite")
INDEX = "index.json"
ROWS = "index.safetensors"

_FETCH_AGAIN = "fetch the dataset again"
#: Shards kept open at once: a large dataset has more shards than a process may open files.
_OPEN_SHARDS = 128
_TAR_BLOCK = 512


@dataclass(frozen=True)
class Shard:
    """One tar: its name, where it lies, its sha256, its size in bytes, and how many of its samples the set has."""

    name: str
    path: Path
    sha256: str
    bytes: int
    count: int


class Shards:
    """Samples by row number, 0 to `count` - 1, in shard order.

    Reading is safe after a fork and the object may be sent to a spawned process; one object is
    for one thread at a time.

    Attributes:
        folder: the dataset's folder.
        name: its name.
        kind: one of `KINDS`.
        count: number of samples.
        columns: all columns: the readable members, then the integer columns.
        members: the columns that `read` knows, such as "image" and "text".
        shards: the tars in order.
        sha256: of index.json, which vouches for everything else: the dataset's identity.
    """

    def __init__(self, folder: Path, index: dict[str, Any], sha256: str, shards: tuple[Shard, ...]) -> None:
        self.folder = folder
        self.sha256 = sha256
        self.shards = shards
        self.name = str(index["name"])
        self.kind = str(index["kind"])
        self.count = int(index["count"])
        self.columns = tuple(index["columns"])
        self.members = tuple(index["members"])
        self._rows_sha256 = str(index["index_sha256"])
        self._rows = self._load_rows()
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, folder: Path, data_root: Path | None = None) -> Shards:
        """Open a dataset and check its index; the shards themselves are checked by `verify`.

        Args:
            folder: the folder with index.json.
            data_root: the site's data root; shards that are not in the dataset's folder are
                looked for in data_root/<home>/, by default data_root/<name>/.

        Raises:
            StateError: index missing or damaged, by name.
        """
        folder = Path(folder)
        where = folder / INDEX
        index = read_json(where)
        try:
            if index["kind"] not in KINDS or index["layout"] not in LAYOUTS:
                raise ValueError(f"kind {index['kind']!r}, layout {index['layout']!r}")
            beside = folder / "shards" if index["layout"] == "shards" else folder
            home = beside
            if data_root is not None and not (beside / index["shards"][0]["name"]).exists():
                home = Path(data_root) / index.get("home", index["name"])
            shards = tuple(
                Shard(s["name"], home / s["name"], s["sha256"], int(s["bytes"]), int(s["count"]))
                for s in index["shards"]
            )
            if sum(shard.count for shard in shards) != index["count"]:
                raise ValueError("the shards' counts do not add up to the count")
            return cls(folder, index, sha256_file(where), shards)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StateError(
                "index is damaged",
                where=str(where),
                given=f"{type(error).__name__}: {error}",
                todo=_FETCH_AGAIN,
            ) from None

    def _load_rows(self) -> dict[str, np.ndarray]:
        path = self.folder / ROWS
        if not path.is_file():
            raise StateError("index is missing", where=str(path), todo=_FETCH_AGAIN)
        found = sha256_file(path)
        if found != self._rows_sha256:
            raise StateError(
                "index is damaged: its sha256 differs from the one in index.json",
                where=str(path),
                given=found,
                allowed=self._rows_sha256,
                todo=_FETCH_AGAIN,
            )
        try:
            rows: dict[str, np.ndarray] = load(path.read_bytes())
        except SafetensorError as error:
            raise StateError("index is damaged", where=str(path), given=str(error)) from None
        starts = np.repeat(np.arange(len(self.shards)), self.counts)
        lengths = {len(column) for column in rows.values()}
        if lengths != {self.count} or not np.array_equal(rows["shard"], starts):
            raise StateError("index does not fit index.json", where=str(path), todo=_FETCH_AGAIN)
        return rows

    @property
    def counts(self) -> np.ndarray:
        """Samples in each shard, int64 [shards]."""
        return np.array([shard.count for shard in self.shards], dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """An integer column, [count]; not to be written to.

        Raises:
            RequestError: the dataset has no such column.
        """
        if name not in self._rows:
            have = ", ".join(sorted(self._rows))
            raise RequestError("no such column", where=f"dataset {self.name}", given=name, allowed=have)
        column = self._rows[name]
        column.flags.writeable = False
        return column

    def shard_of(self, row: int) -> Shard:
        """The shard that holds a row."""
        return self.shards[int(self._rows["shard"][row])]

    def read(self, member: str, row: int) -> bytes:
        """The bytes of one member of one sample, such as the PNG file of ("image", 3).

        Raises:
            RequestError: no such member.
            StateError: the shard is missing or ends too early, by name.
        """
        if member not in self.members:
            have = ", ".join(self.members)
            raise RequestError("no such member", where=f"dataset {self.name}", given=member, allowed=have)
        return self._pread(row, int(self._rows[f"{member}.size"][row]), int(self._rows[f"{member}.offset"][row]))

    def key(self, row: int) -> str:
        """The sample's key inside its shard, read off the tar header before its first member."""
        offset = min(int(self._rows[f"{member}.offset"][row]) for member in self.members)
        header = self._pread(row, _TAR_BLOCK, offset - _TAR_BLOCK)
        try:
            path = tarfile.TarInfo.frombuf(header, "utf-8", "strict").name
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            shard = self.shard_of(row)
            raise StateError("shard is damaged", where=str(shard.path), given=f"row {row}: {error}") from None
        folder, slash, name = path.rpartition("/")
        return folder + slash + name.split(".", 1)[0]

    def describe(self, row: int) -> str:
        """Shard, key and row of a sample, for messages."""
        return f"{self.shard_of(row).path}, key {self.key(row)} (row {row})"

    def verify(self, *, contents: bool = True) -> None:
        """Check every shard against the index; meant to run before step 0.

        Args:
            contents: compare sha256, which reads everything; otherwise only presence and size.

        Raises:
            StateError: a shard is missing, cut or altered, by name.
        """
        for shard in self.shards:
            self._check_size(shard)
            if contents and (found := sha256_file(shard.path)) != shard.sha256:
                raise StateError(
                    "shard is damaged: its sha256 differs from the index",
                    where=str(shard.path),
                    given=found,
                    allowed=shard.sha256,
                    todo=_FETCH_AGAIN,
                )

    def _check_size(self, shard: Shard) -> None:
        try:
            size = shard.path.stat().st_size
        except OSError as error:
            raise _unreadable(shard, error) from None
        if size != shard.bytes:
            raise StateError(
                "shard is damaged: its size differs from the index",
                where=str(shard.path),
                given=f"{size} bytes",
                allowed=f"{shard.bytes} bytes",
                todo=_FETCH_AGAIN,
            )

    def _pread(self, row: int, size: int, offset: int) -> bytes:
        number = int(self._rows["shard"][row])
        shard = self.shards[number]
        parts: list[bytes] = []
        try:
            file = self._file(number)
            while size > 0 and (part := os.pread(file, size, offset)):
                parts.append(part)
                size -= len(part)
                offset += len(part)
        except OSError as error:
            raise _unreadable(shard, error) from None
        if size:
            raise StateError("shard is damaged: it ends too early", where=str(shard.path), todo=_FETCH_AGAIN)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _file(self, number: int) -> int:
        # pread has no shared file position, so a forked worker may use inherited descriptors.
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if len(self._files) >= _OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = os.open(self.shards[number].path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[number]

    def close(self) -> None:
        """Close the open shards; a later read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        # A spawned process reads the index and opens the shards for itself.
        return {key: value for key, value in vars(self).items() if key not in ("_files", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._files = OrderedDict()
        self._rows = self._load_rows()


def _unreadable(shard: Shard, error: OSError) -> StateError:
    problem = "shard is missing" if isinstance(error, FileNotFoundError) else "shard cannot be read"
    return StateError(problem, where=str(shard.path), given=error.strerror, todo=_FETCH_AGAIN)
