"""Two sources of micro-batches as one, for a training that learns from both.

Rule: rows are told apart by their number alone, so a loader and its workers need not know that there are two.
"""

from __future__ import annotations

from collections.abc import Sequence

from pi_repro.data.loader import Batch, Sample, Source


class Two:
    """Two sources as one: rows from `first` on are the second's, counted from there; a micro-batch is of one."""

    def __init__(self, one: Source, other: Source, first: int) -> None:
        self.one, self.other, self.first = one, other, first
        self.divide_caches(2)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """See `Source`."""
        if samples[0][1] < self.first:
            return self.one.batch(samples)
        return self.other.batch([(epoch, row - self.first) for epoch, row in samples])

    def divide_caches(self, processes: int) -> None:
        """See `Source`."""
        for source in (self.one, self.other):
            source.divide_caches(processes)

    def batch_bytes(self, samples: int) -> int:
        """See `Source`: of the larger."""
        return max(self.one.batch_bytes(samples), self.other.batch_bytes(samples))
