"""Writing of a sharded dataset by one process: the same samples in the same order give the same bytes.

Rule: the index is computed from the tars while they are written and comes last, so a folder with one is whole.
Datasets too large for one process are made of `parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pi_repro.data.indexfile import write_index
from pi_repro.data.shards import KINDS, LAYOUTS
from pi_repro.data.tars import Rows, Tar, presized
from pi_repro.errors import StateError
from pi_repro.files import write_atomic


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
        self._home = shards_at or (self.folder / "shards" if layout == "shards" else self.folder)
        self._shards: list[dict[str, Any]] = []
        self._rows = Rows(f"dataset {name}", kind)
        self._keys: set[str] = set()
        self._file: BinaryIO | None = None
        self._tar: Tar | None = None

    @property
    def count(self) -> int:
        """Samples so far."""
        return len(self._rows)

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
        if self.short_side is not None:
            members = presized(f"dataset {self.name}, key {key!r}", members, self.short_side)
        tar = self._tar or self._open_shard()
        self._rows.write(tar, len(self._shards) - 1, key, members, extra or {}, self._keys)
        if len(self._keys) == self.shard_size:
            self._close_shard()

    def _open_shard(self) -> Tar:
        number = len(self._shards)
        name = f"{number:05d}.tar" if self.layout == "shards" else f"test/{number}.tar"
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._tar = Tar(self._file)
        self._shards.append({"name": name})
        return self._tar

    def _close_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        written = self._tar.close()
        self._file.close()
        self._shards[-1].update(sha256=written.sha256, bytes=written.bytes, count=len(self._keys))
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
        if self.layout == "suite":
            write_atomic(self._home / "test" / "nshards.txt", f"{len(self._shards)}\n".encode())
        table = self._rows.table()
        write_index(
            self.folder,
            {"name": self.name, "kind": self.kind, "layout": self.layout},
            self._shards,
            self._rows.members,
            {column: values.dtype for column, values in table.items()},
            lambda column: [table[column]],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            # Without an index the folder is plainly unfinished.
            self._file.close()
