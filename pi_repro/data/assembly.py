"""The index of a dataset that is made of parts.

Rule: it is put together from sidecars alone, column by column and part by part, so its memory hangs on neither the
number of parts nor that of rows. A dataset has its parts' rows, or a choice of them (`view`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi_repro.data.indexfile import write_index
from pi_repro.data.parts import Part
from pi_repro.data.shards import KINDS, LAYOUTS
from pi_repro.errors import StateError
from pi_repro.files import write_atomic


def assemble(
    parts: Sequence[Part],
    folder: Path,
    name: str,
    kind: str,
    *,
    layout: str = "shards",
    home_name: str | None = None,
    keep: Sequence[np.ndarray] | None = None,
) -> None:
    """Write the index of a dataset that is made of parts, in their order.

    Args:
        parts: finished parts.
        folder: the dataset's folder.
        name: its name.
        kind: pairs, triplets, classification or retrieval.
        layout: "shards" or "suite".
        home_name: where the shards lie, below the site's data root; None: they are linked into the folder.
        keep: for each part a boolean a row, true where the dataset has it (`view`); None: it has all.

    Raises:
        StateError: the dataset has no sample, its parts have not the same columns, or one is damaged.
    """
    if kind not in KINDS or layout not in LAYOUTS:
        raise ValueError(f"kind {kind!r}, layout {layout!r}")
    masks = [np.ones(part.count, bool) for part in parts] if keep is None else list(keep)
    used = [(part, mask) for part, mask in zip(parts, masks, strict=True) if mask.any()]
    if not used:
        raise StateError("dataset has no sample", where=f"dataset {name}")
    dtypes = used[0][0].dtypes()
    shards: list[dict[str, Any]] = []
    for part, mask in used:
        if part.members != used[0][0].members or part.dtypes() != dtypes:
            raise StateError("parts have other columns than the first one", where=f"{part.home}, part {part.name}")
        ends = np.cumsum([tar.count for tar in part.tars])[:-1]
        counts = [int(each.sum()) for each in np.split(mask, ends)]
        kept = [(tar, count) for tar, count in zip(part.tars, counts, strict=True) if count]
        shards += [{"name": tar.name, "sha256": tar.sha256, "bytes": tar.bytes, "count": count} for tar, count in kept]
        if home_name is None:
            _link(part.home, folder / "shards" if layout == "shards" else folder, [tar.name for tar, _ in kept])

    def pieces(column: str) -> Iterator[np.ndarray]:
        if column == "shard":
            yield from (np.full(shard["count"], number, np.int32) for number, shard in enumerate(shards))
            return
        for part, mask in used:
            yield part.rows(column)[column][mask]

    about = {"name": name, "kind": kind, "layout": layout, **({"home": home_name} if home_name else {})}
    if layout == "suite" and home_name is None:
        write_atomic(folder / "test" / "nshards.txt", f"{len(shards)}\n".encode())
    write_index(folder, about, shards, used[0][0].members, dtypes, pieces)


def _link(home: Path, target: Path, names: Sequence[str]) -> None:
    """Hard links where the file system has them, copies elsewhere."""
    if home.resolve() == target.resolve():
        return
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(home / name, place)
        except OSError:
            shutil.copyfile(home / name, place)
