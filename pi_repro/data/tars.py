"""A tar being written, and the rows of its samples: what every writer of shards is made of.

Rule: a tar says nothing about when, where or by whom it was written, so the same samples give the same bytes;
places and sha256 are known without reading it again. Names are such as webdataset reads them.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from pi_repro.errors import StateError

_IMAGES = ("png", "jpg", "jpeg", "webp")
#: webdataset cuts a member's name at the first dot; ustar headers hold 100 characters.
_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_NAME_LIMIT = 100
_MEMBER_LIMIT = 2**31 - 1
_SMALL = 4096


def column_of(extension: str) -> str | None:
    """The index column of a member: image for png, jpg, webp; text for txt; ref for ref.png; none for cls.

    A class number (`cls`) is kept in the tar for other readers; ours is the column `label`.
    """
    if extension in _IMAGES:
        return "image"
    return {"txt": "text", "cls": None}.get(extension, extension.split(".")[0])


@dataclass(frozen=True)
class Written:
    """A finished tar: its sha256 and its size in bytes."""

    sha256: str
    bytes: int


#: What all headers share: mode 644, owner, time and devices 0, type file; tarfile's, which takes longer to make one.
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_HEADER = _EMPTY[: _SUM.start] + b" " * 8 + _EMPTY[_SUM.stop :]


def header(name: str, size: int) -> bytes:
    """The ustar header of a file, as tarfile makes it.

    Args:
        name: ASCII, at most 100 characters.
        size: in bytes, less than 8 GiB.
    """
    block = bytearray(_HEADER)
    block[_NAME] = name.encode("ascii").ljust(100, b"\0")
    block[_SIZE] = b"%011o\0" % size
    block[_SUM] = b"%06o\0 " % sum(block)
    return bytes(block)


class Tar:
    """A tar that grows in an open file, hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0
        self._small = bytearray()

    def add(self, name: str, content: bytes) -> int:
        """Append a file; where its content begins, in bytes from the tar's start."""
        self._write(header(name, len(content)))
        begin = self._size
        self._write(content)
        if rest := len(content) % tarfile.BLOCKSIZE:
            self._write(bytes(tarfile.BLOCKSIZE - rest))
        return begin

    def close(self) -> Written:
        """End the tar as tarfile does; the file stays open."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        if rest := self._size % tarfile.RECORDSIZE:
            self._write(bytes(tarfile.RECORDSIZE - rest))
        self._put(self._small)
        return Written(self._hash.hexdigest(), self._size)

    def _write(self, content: bytes) -> None:
        # Small pieces go together: each that is hashed and written alone costs as much as some thousand bytes.
        self._size += len(content)
        if len(content) < _SMALL:
            self._small += content
            if len(self._small) < 16 * _SMALL:
                return
            content = b""
        self._put(self._small)
        self._small.clear()
        self._put(content)

    def _put(self, content: bytes | bytearray) -> None:
        self._file.write(content)
        self._hash.update(content)


class Rows:
    """The index's columns of samples while they are written.

    Args:
        where: the dataset or part, for messages.
        kind: of the dataset; decides how small a label is stored.
    """

    def __init__(self, where: str, kind: str) -> None:
        self._where, self._kind = where, kind
        self._shard = array("i")
        self._offsets: dict[str, array[int]] = {}
        self._sizes: dict[str, array[int]] = {}
        self._extra: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def members(self) -> list[str]:
        """Columns of members, sorted."""
        return sorted(self._offsets)

    @property
    def extra(self) -> list[str]:
        """Integer columns, sorted."""
        return sorted(self._extra)

    def write(
        self, tar: Tar, shard: int, key: str, members: Mapping[str, bytes], extra: Mapping[str, int], seen: set[str]
    ) -> None:
        """Append a sample to a tar and to the rows.

        Args:
            tar: where its members go.
            shard: the tar's number.
            key: the sample's key.
            members: file contents by extension.
            extra: integer columns.
            seen: the tar's keys; this one is added.

        Raises:
            StateError: unusable or repeated key, or other columns than the samples before.
        """
        columns = {extension: column_of(extension) for extension in sorted(members)}
        self._check(key, members, columns, extra, seen)
        seen.add(key)
        self._shard.append(shard)
        for extension, column in columns.items():
            offset = tar.add(f"{key}.{extension}", members[extension])
            if column is not None:
                self._offsets[column].append(offset)
                self._sizes[column].append(len(members[extension]))
        for column, value in extra.items():
            self._extra[column].append(value)

    def _check(
        self,
        key: str,
        members: Mapping[str, bytes],
        columns: Mapping[str, str | None],
        extra: Mapping[str, int],
        seen: set[str],
    ) -> None:
        where = f"{self._where}, key {key!r}"
        longest = max((len(key) + 1 + len(extension) for extension in members), default=0)
        if not _KEY.fullmatch(key) or longest > _NAME_LIMIT:
            allowed = f"letters, digits, _ - and /, at most {_NAME_LIMIT} characters with the extension"
            raise StateError("key cannot be used in a shard", where=where, given=key, allowed=allowed)
        if key in seen:
            raise StateError("key is there twice", where=where)
        if max(len(content) for content in members.values()) > _MEMBER_LIMIT:
            raise StateError("member is larger than 2 GiB", where=where)
        indexed = [column for column in columns.values() if column is not None]
        if not len(self):
            self._offsets = {column: array("q") for column in indexed}
            self._sizes = {column: array("i") for column in indexed}
            self._extra = {column: array("q") for column in extra}
        expected = sorted([*self._offsets, *self._extra])
        if sorted([*indexed, *extra]) != expected:
            given = ", ".join(sorted([*members, *extra]))
            raise StateError(
                "sample has other columns than the first one", where=where, given=given, allowed=", ".join(expected)
            )

    def table(self) -> dict[str, np.ndarray]:
        """The columns as index.safetensors holds them.

        Raises:
            StateError: an integer column does not fit its type.
        """
        table: dict[str, np.ndarray] = {"shard": np.array(self._shard, dtype=np.int32)}
        for column, offsets in self._offsets.items():
            table[f"{column}.offset"] = np.array(offsets, dtype=np.int64)
            table[f"{column}.size"] = np.array(self._sizes[column], dtype=np.int32)
        for column, values in self._extra.items():
            table[column] = self._fit(column, values)
        return table

    def _fit(self, column: str, values: array[int]) -> np.ndarray:
        small = column in ("split", "votes") or (column == "label" and self._kind == "triplets")
        dtype = np.uint8 if small else np.int32 if column == "label" else np.int64
        found = np.array(values, dtype=np.int64)
        if len(found) and (found.min() < np.iinfo(dtype).min or found.max() > np.iinfo(dtype).max):
            raise StateError(f"column {column} does not fit {np.dtype(dtype)}", where=self._where)
        return found.astype(dtype)


class Undecodable(StateError):
    """An image that should be made smaller cannot be decoded; a writer that raises it has written nothing of it."""


def presized(where: str, members: Mapping[str, bytes], short_side: int) -> dict[str, bytes]:
    """The members with larger images made smaller, which are then called jpg.

    Raises:
        Undecodable: an image that cannot be decoded.
    """
    # Pillow and torch, which a writer that keeps its files need not wait for.
    from pi_repro.data.presize import presize

    result = {}
    for extension, content in members.items():
        try:
            smaller = presize(content, short_side) if extension.split(".")[-1] in _IMAGES else None
        except StateError as error:
            raise Undecodable(error.problem, where=f"{where}, {extension}", given=error.given) from None
        result[extension if smaller is None else re.sub(r"\w+$", "jpg", extension)] = smaller or content
    return result
