"""Writing of a sharded dataset: the same samples in the same order give the same bytes.

Rule: a tar says nothing about when, where or by whom it was written, and the index is computed
from the tar while it is written. index.json comes last, so a folder with one is whole.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from safetensors.numpy import save

from pi_repro.data.shards import INDEX, KINDS, LAYOUTS, ROWS
from pi_repro.errors import StateError
from pi_repro.files import sha256_file, write_atomic, write_json

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

_IMAGES = ("png", "jpg", "jpeg", "webp")
#: webdataset cuts a member's name at the first dot; ustar headers hold 100 characters.
_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_NAME_LIMIT = 100
_TAR_BLOCK = 512
_MEMBER_LIMIT = 2**31 - 1


def column_of(extension: str) -> str | None:
    """The index column of a member: image for png, jpg, webp; text for txt; ref for ref.png; none for cls.

    A class number (`cls`) is kept in the tar for other readers; ours is the column `label`.
    """
    if extension in _IMAGES:
        return "image"
    return {"txt": "text", "cls": None}.get(extension, extension.split(".")[0])


class ShardWriter:
    """Write samples to tars and, on `close`, the index.

    Args:
        folder: the dataset's folder, made where absent.
        name: the dataset's name; site data is found by it (data_root/<name>/).
        kind: pairs, triplets, classification or retrieval.
        shard_size: samples a shard.
        layout: "shards" for shards/00000.tar, "suite" for test/0.tar with test/nshards.txt.
        shards_at: where the tars go instead of the dataset's folder, for site data.
        short_side: a card's `short_side`: larger images are made smaller (`presize`); None keeps every file.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        kind: str,
        shard_size: int = 1000,
        layout: str = "shards",
        shards_at: Path | None = None,
        short_side: int | None = None,
    ) -> None:
        if kind not in KINDS or layout not in LAYOUTS or shard_size < 1:
            raise ValueError(f"kind {kind!r}, layout {layout!r}, shard_size {shard_size}")
        self.folder, self.name, self.kind, self.layout = Path(folder), name, kind, layout
        self.shard_size, self.short_side = shard_size, short_side
        self.count = 0
        self._home = shards_at or (self.folder / "shards" if layout == "shards" else self.folder)
        self._shards: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._tar: TarWriter | None = None
        self._file: BinaryIO | None = None
        self._offsets: dict[str, array[int]] = {}
        self._sizes: dict[str, array[int]] = {}
        self._extra: dict[str, array[int]] = {}
        self._shard = array("i")

    def add(self, key: str, members: Mapping[str, bytes], extra: Mapping[str, int] | None = None) -> None:
        """Append a sample.

        Args:
            key: letters, digits, _ and - (folders by /), unique in its shard.
            members: file contents by extension: {"png": ..., "txt": ...} or {"ref.png": ...}.
            extra: integer columns: label, split, votes or any other.

        Raises:
            StateError: unusable or repeated key, other columns than the samples before, or an image that
                should be made smaller and cannot be decoded.
        """
        extra = extra or {}
        if self.short_side is not None:
            members = self._presized(key, members, self.short_side)
        columns = {column: ext for ext in sorted(members) if (column := column_of(ext)) is not None}
        self._check(key, members, columns, extra)
        if not self._keys:
            self._open_shard()
        self._keys.add(key)
        self._shard.append(len(self._shards) - 1)
        if self._tar is None:
            raise RuntimeError("no shard is open")
        for ext in sorted(members):
            self._tar.write({"__key__": key, ext: members[ext]})
            if (column := column_of(ext)) is not None:
                size = len(members[ext])
                padded = -(-size // _TAR_BLOCK) * _TAR_BLOCK
                self._offsets[column].append(self._tar.tarstream.offset - padded)
                self._sizes[column].append(size)
        for column, value in extra.items():
            self._extra[column].append(value)
        self.count += 1
        if len(self._keys) == self.shard_size:
            self._close_shard()

    def _presized(self, key: str, members: Mapping[str, bytes], short_side: int) -> dict[str, bytes]:
        # Pillow and torch, which a writer that keeps its files need not wait for.
        from pi_repro.data.presize import presize

        result = {}
        for ext, content in members.items():
            try:
                smaller = presize(content, short_side) if ext.split(".")[-1] in _IMAGES else None
            except StateError as error:
                raise StateError(
                    error.problem, where=f"dataset {self.name}, key {key!r}, {ext}", given=error.given
                ) from None
            result[ext if smaller is None else re.sub(r"\w+$", "jpg", ext)] = smaller or content
        return result

    def _check(
        self, key: str, members: Mapping[str, bytes], columns: Mapping[str, str], extra: Mapping[str, int]
    ) -> None:
        where = f"dataset {self.name}, key {key!r}"
        longest = max((len(f"{key}.{ext}") for ext in members), default=0)
        if not _KEY.fullmatch(key) or longest > _NAME_LIMIT:
            allowed = f"letters, digits, _ - and /, at most {_NAME_LIMIT} characters with the extension"
            raise StateError("key cannot be used in a shard", where=where, given=key, allowed=allowed)
        if key in self._keys:
            raise StateError("key is there twice", where=where)
        if max(len(content) for content in members.values()) > _MEMBER_LIMIT:
            raise StateError("member is larger than 2 GiB", where=where)
        if self.count == 0:
            self._offsets = {column: array("q") for column in columns}
            self._sizes = {column: array("i") for column in columns}
            self._extra = {column: array("q") for column in extra}
        expected = sorted([*self._offsets, *self._extra])
        indexed = sum(column_of(ext) is not None for ext in members)
        if sorted([*columns, *extra]) != expected or len(columns) != indexed:
            given = ", ".join(sorted([*members, *extra]))
            raise StateError(
                "sample has other columns than the first one",
                where=where,
                given=given,
                allowed=", ".join(expected),
            )

    def _open_shard(self) -> None:
        # webdataset imports torch, which a reader of this module's constants need not wait for.
        from webdataset.writer import TarWriter

        number = len(self._shards)
        name = f"{number:05d}.tar" if self.layout == "shards" else f"test/{number}.tar"
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._tar = TarWriter(self._file, user="", group="", mode=0o644, mtime=0, encoder=False)
        self._shards.append({"name": name})

    def _close_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.close()
        path = Path(self._file.name)
        entry = {"sha256": sha256_file(path), "bytes": path.stat().st_size, "count": len(self._keys)}
        self._shards[-1].update(entry)
        self._keys.clear()
        self._tar = self._file = None

    def close(self) -> None:
        """Finish the last shard and write index.safetensors, then index.json.

        Raises:
            StateError: not one sample was added.
        """
        if self.count == 0:
            raise StateError("dataset has no sample", where=f"dataset {self.name}")
        self._close_shard()
        rows: dict[str, np.ndarray] = {"shard": np.array(self._shard, dtype=np.int32)}
        for column, offsets in self._offsets.items():
            rows[f"{column}.offset"] = np.array(offsets, dtype=np.int64)
            rows[f"{column}.size"] = np.array(self._sizes[column], dtype=np.int32)
        for column, values in self._extra.items():
            rows[column] = self._fit(column, values)
        if self.layout == "suite":
            write_atomic(self._home / "test" / "nshards.txt", f"{len(self._shards)}\n".encode())
        write_atomic(self.folder / ROWS, save(rows))
        index = {
            "name": self.name,
            "kind": self.kind,
            "layout": self.layout,
            "count": self.count,
            "members": sorted(self._offsets),
            "columns": sorted(self._offsets) + sorted(self._extra),
            "shards": self._shards,
            "index_sha256": sha256_file(self.folder / ROWS),
        }
        write_json(self.folder / INDEX, index)

    def _fit(self, column: str, values: array[int]) -> np.ndarray:
        small = column in ("split", "votes") or (column == "label" and self.kind == "triplets")
        dtype = np.uint8 if small else np.int32 if column == "label" else np.int64
        found = np.array(values, dtype=np.int64)
        if found.min() < np.iinfo(dtype).min or found.max() > np.iinfo(dtype).max:
            raise StateError(f"column {column} does not fit {np.dtype(dtype)}", where=f"dataset {self.name}")
        return found.astype(dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None and self._file is not None:
            # Without an index the folder is plainly unfinished.
            self._tar.close()
            self._file.close()
