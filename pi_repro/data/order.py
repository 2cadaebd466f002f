"""The order of samples: which row comes at (seed, epoch, position) is computed, never remembered.

Rule: an epoch visits every row once. The shards are permuted (keyed by seed and epoch) and cut
into blocks of `block` shards; inside a block the rows are permuted (keyed by seed, epoch and block
number). So reads stay within a block of shards, which is all that is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pi_repro.data.randomness import permutation


class _Epoch(NamedTuple):
    number: int
    shards: np.ndarray  # shard numbers in the order of this epoch
    ends: np.ndarray  # position behind the last row of each block


class Order:
    """Shuffled rows of a sharded dataset, or of a part of it.

    Args:
        counts: samples of each shard, in shard order.
        seed: of the shuffle.
        block: shards shuffled together.
        rows: for a part of a dataset, its rows in rising order; `counts` then counts these.
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int, block: int, rows: np.ndarray | None = None):
        self._counts = np.asarray(counts, dtype=np.int64)
        if block < 1 or (self._counts < 0).any():
            raise ValueError(f"block {block}, counts {counts}")
        self.count = int(self._counts.sum())
        if rows is not None and len(rows) != self.count:
            raise ValueError(f"{len(rows)} rows where the counts say {self.count}")
        self.seed = seed
        self.block = block
        self._rows = rows
        self._starts = np.cumsum(self._counts) - self._counts
        self._epoch: _Epoch | None = None
        self._block: tuple[int, int, np.ndarray] | None = None

    @classmethod
    def of_part(cls, counts: Sequence[int] | np.ndarray, chosen: np.ndarray, seed: int, block: int) -> Order:
        """The order of the rows chosen by a mask, bool [sum of counts]; they keep their row numbers."""
        counts = np.asarray(counts, dtype=np.int64)
        shard = np.repeat(np.arange(len(counts)), counts)
        kept = np.bincount(shard[chosen], minlength=len(counts))
        return cls(kept, seed, block, np.flatnonzero(chosen))

    def row(self, epoch: int, position: int) -> int:
        """The row at a position of an epoch, both counted from 0."""
        return int(self.rows(epoch, position, position + 1)[0])

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The rows at positions start to stop - 1 of an epoch, int64.

        Raises:
            IndexError: a position outside the epoch.
        """
        if not 0 <= start <= stop <= self.count or epoch < 0:
            raise IndexError(f"epoch {epoch}, positions {start} to {stop} of {self.count}")
        ends = self._layout(epoch).ends
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            number = int(np.searchsorted(ends, start, side="right"))
            begin = int(ends[number - 1]) if number else 0
            end = min(stop, int(ends[number]))
            parts.append(self._shuffled(epoch, number)[start - begin : end - begin])
            start = end
        return np.concatenate(parts)

    def update(self, update: int, samples: int) -> tuple[int, np.ndarray]:
        """Epoch and rows [samples] of an update counted from 0 over the whole training.

        The rest of an epoch that fills no update is left out, another one in each epoch.
        """
        epoch, step = divmod(update, steps_per_epoch(self.count, samples))
        return epoch, self.rows(epoch, step * samples, (step + 1) * samples)

    def _layout(self, epoch: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != epoch:
            shards = permutation(len(self._counts), "order", self.seed, epoch)
            sizes = [int(self._counts[part].sum()) for part in self._cut(shards)]
            self._epoch = _Epoch(epoch, shards, np.cumsum(sizes))
        return self._epoch

    def _cut(self, shards: np.ndarray) -> list[np.ndarray]:
        return [shards[i : i + self.block] for i in range(0, len(shards), self.block)]

    def _shuffled(self, epoch: int, number: int) -> np.ndarray:
        if self._block is None or self._block[:2] != (epoch, number):
            shards = self._layout(epoch).shards[number * self.block : (number + 1) * self.block]
            places = np.concatenate([self._starts[s] + np.arange(self._counts[s]) for s in shards])
            rows = places if self._rows is None else self._rows[places]
            self._block = epoch, number, rows[permutation(len(rows), "order", self.seed, epoch, number)]
        return self._block[2]


class Repeated(Order):
    """A part of a dataset, gone through again and again, so that an epoch is as long as that of the whole.

    Position p of epoch e is position (e x length + p) of the part's own epochs in a row; each of these is shuffled
    as any epoch is, and every row comes up equally often, up to one. A row that comes up twice in an epoch is
    augmented alike both times, for augmentation is keyed by epoch and row.

    Args:
        part: the order of the part.
        length: samples of an epoch.
    """

    def __init__(self, part: Order, length: int) -> None:
        if part.count < 1 or length < part.count:
            raise ValueError(f"{part.count} rows, epochs of {length}")
        self._part = part
        self.count = length
        self.seed, self.block = part.seed, part.block

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """See `Order.rows`."""
        if not 0 <= start <= stop <= self.count or epoch < 0:
            raise IndexError(f"epoch {epoch}, positions {start} to {stop} of {self.count}")
        place, end = epoch * self.count + start, epoch * self.count + stop
        parts = [np.empty(0, dtype=np.int64)]
        while place < end:
            number, begin = divmod(place, self._part.count)
            here = min(self._part.count - begin, end - place)
            parts.append(self._part.rows(number, begin, begin + here))
            place += here
        return np.concatenate(parts)


def epoch_rows(counts: Sequence[int] | np.ndarray, seed: int, epoch: int, block: int) -> np.ndarray:
    """All rows of an epoch in order, int64 [sum of counts]."""
    order = Order(counts, seed, block)
    return order.rows(epoch, 0, order.count)


def steps_per_epoch(n: int, samples_per_update: int) -> int:
    """Updates of one epoch: those that `n` samples fill.

    Raises:
        ValueError: they fill none.
    """
    steps = n // samples_per_update
    if steps == 0:
        raise ValueError(f"{n} samples fill no update of {samples_per_update}")
    return steps
