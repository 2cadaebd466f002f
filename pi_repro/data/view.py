"""Which rows of a set of parts a dataset has: hold-out, subset, and what was taken down.

Rule: a row is drawn by a hash of its key, never by its place, so a draw depends on no order of files, a smaller
subset lies in a larger one, and a row that is excluded changes nothing about the others. Hold-out and training rows
never meet: the hold-out is drawn first, the subset from the rest, and excluded rows are taken from both afterwards.
Shards are not touched: an excluded pair is in no index, but its bytes stay in its shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from pi_repro.errors import StateError

#: An integer column by which rows may be excluded, too, where the source has it.
PHOTO_ID = "photo_id"


class Keyed(Protocol):
    """What is asked of a part (`parts.Part`)."""

    @property
    def count(self) -> int: ...
    def keys(self) -> list[str]: ...
    def dtypes(self) -> dict[str, np.dtype[Any]]: ...
    def rows(self, *columns: str) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class View:
    """A choice of rows.

    Attributes:
        holdout: rows that no training sees, of which `holdout_seed` decides which.
        holdout_seed: see there.
        side: the rows for training, or the hold-out itself.
        subset: that many of the rows for training; None: all.
        subset_seed: decides which.
        exclude: keys or photo ids that are in no dataset any more.
    """

    holdout: int = 0
    holdout_seed: int = 0
    side: Literal["train", "holdout"] = "train"
    subset: int | None = None
    subset_seed: int = 0
    exclude: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Chosen:
    """The rows of a view: a boolean array a part, and which entries of the exclude list were met."""

    keep: tuple[np.ndarray, ...]
    excluded: int
    unknown: tuple[str, ...]

    @property
    def count(self) -> int:
        """Rows kept."""
        return sum(int(mask.sum()) for mask in self.keep)


def keyed(keys: Sequence[str], purpose: str, seed: int) -> np.ndarray:
    """The keys' draws, uint64: the first 8 bytes of sha256 of "purpose,seed,key"."""
    prefix = f"{purpose},{seed},".encode()
    digests = b"".join(hashlib.sha256(prefix + key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def choose(parts: Sequence[Keyed], view: View) -> Chosen:
    """The rows of a view. Memory: a byte a row, and 16 bytes for each row of the subset.

    Raises:
        StateError: the hold-out leaves nothing.
    """
    total = sum(part.count for part in parts)
    if view.holdout and view.holdout >= total:
        raise StateError("the hold-out leaves no pair for training", given=view.holdout, allowed=f"less than {total}")

    def drawn(purpose: str, seed: int) -> Callable[[], Iterator[np.ndarray]]:
        return lambda: (keyed(part.keys(), purpose, seed) for part in parts)

    everything = [np.ones(part.count, bool) for part in parts]
    held = lowest(drawn("hold-out", view.holdout_seed), view.holdout, everything)
    if view.side == "holdout":
        keep = held
    else:
        keep = [~mask for mask in held]
        if view.subset is not None:
            keep = lowest(drawn("subset", view.subset_seed), view.subset, keep)
    excluded, met = 0, set[str]()
    for part, mask in zip(parts, keep, strict=True):
        for row, entries in _excluded(part, view.exclude):
            met |= entries
            excluded += int(mask[row])
            mask[row] = False
    return Chosen(tuple(keep), excluded, tuple(sorted(view.exclude - met)))


def lowest(draws: Callable[[], Iterable[np.ndarray]], count: int, among: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The `count` rows with the lowest draws among some, as booleans; all of these where there are no more.

    Args:
        draws: gives the draws of each part in turn, as often as asked.
        count: rows wanted.
        among: for each part a boolean a row.
    """
    if count >= sum(int(mask.sum()) for mask in among):
        return [mask.copy() for mask in among]
    if count == 0:
        return [np.zeros(len(mask), bool) for mask in among]
    best = np.empty(0, np.uint64)
    for values, mask in zip(draws(), among, strict=True):
        best = np.concatenate([best, values[mask]])
        if len(best) > 2 * count + 1_000_000:
            best = np.partition(best, count - 1)[:count]
    best = np.partition(best, count - 1)[:count]
    last = best.max()
    equal = int((best == last).sum())
    keep = []
    for values, mask in zip(draws(), among, strict=True):
        found = mask & (values < last)
        # Draws of 64 bits hardly ever meet; if they do, the earlier row is taken.
        ties = np.flatnonzero(mask & (values == last))[:equal]
        equal -= len(ties)
        found[ties] = True
        keep.append(found)
    return keep


def _excluded(part: Keyed, exclude: frozenset[str]) -> Iterator[tuple[int, set[str]]]:
    if not exclude or not part.count:
        return
    ids = part.rows(PHOTO_ID)[PHOTO_ID].tolist() if PHOTO_ID in part.dtypes() else [None] * part.count
    for row, (key, photo) in enumerate(zip(part.keys(), ids, strict=True)):
        entries = {key, str(photo)} & exclude
        if entries:
            yield row, entries
