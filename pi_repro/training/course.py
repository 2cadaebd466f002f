"""The arithmetic of a training: which samples an update sees, where epochs end.

Rule: a function of the data's index and the spec. The samples that fill no update are left out of
their epoch, others in each.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from pi_repro.data.order import Order, steps_per_epoch
from pi_repro.errors import RequestError

Sample = tuple[int, int]  # epoch, row


@dataclass(frozen=True)
class Course:
    """All updates of a training, counted from 1.

    Attributes:
        order: of the samples.
        epochs: passes through the data.
        batch: samples of a batch.
        micro_batch: samples of a forward pass.
        accumulation: batches of an update.
        extra: updates before the first epoch begins to count; they see the data in the same order as all others.

    Raises:
        RequestError: the data does not fill one update.
    """

    order: Order
    epochs: int
    batch: int
    micro_batch: int
    accumulation: int = 1
    extra: int = 0

    def __post_init__(self) -> None:
        if self.order.count < self.samples:
            raise RequestError(
                "the data does not fill one update",
                where="batch",
                given=f"{self.batch} x {self.accumulation} samples an update",
                allowed=f"at most {self.order.count}",
            )

    @property
    def samples(self) -> int:
        """Samples of an update."""
        return self.batch * self.accumulation

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch."""
        return steps_per_epoch(self.order.count, self.samples)

    @property
    def total(self) -> int:
        """Updates of the training."""
        return self.extra + self.epochs * self.per_epoch

    def ended_epoch(self, update: int) -> int | None:
        """The epoch (counted from 1) that an update ends; 0 before the first update; None inside an epoch."""
        if 0 < update <= self.extra:
            return None
        epoch, rest = divmod(max(0, update - self.extra), self.per_epoch)
        return None if rest else epoch

    def sample_hash(self, update: int) -> str:
        """16 hex digits of the row numbers that an update sees, in order."""
        _, rows = self.order.update(update - 1, self.samples)
        return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]

    def micro_batches(self, done: int, end: int, mine: range) -> Iterator[list[Sample]]:
        """The samples of each micro-batch that one process owns.

        Args:
            done: updates done.
            end: the last update wanted.
            mine: numbers of the micro-batches of a batch that it owns.
        """
        order = copy.copy(self.order)  # it caches a block, and a loader runs ahead of the ledger
        for update in range(done, end):
            epoch, rows = order.update(update, self.samples)
            for batch in range(0, self.samples, self.batch):
                for number in mine:
                    start = batch + number * self.micro_batch
                    yield [(epoch, int(row)) for row in rows[start : start + self.micro_batch]]


@dataclass(frozen=True)
class Accompanied(Course):
    """A training whose every update sees a batch of other data after its own.

    Attributes:
        other: which samples of the other data when; it is followed for as many updates as this one has.
        first: number by which its first row is known, so that one source can tell them apart (`data.joined.Two`).
    """

    other: Course = field(kw_only=True)
    first: int = field(kw_only=True)

    def sample_hash(self, update: int) -> str:
        """16 hex digits of the row numbers that an update sees, its own and the other's."""
        both = super().sample_hash(update) + self.other.sample_hash(update)
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    def micro_batches(self, done: int, end: int, mine: range) -> Iterator[list[Sample]]:
        """As `Course.micro_batches`: of each update its own, then the other's."""
        own = super().micro_batches(done, end, mine)
        other = self.other.micro_batches(done, end, mine)
        for _ in range(done, end):
            yield from islice(own, self.accumulation * len(mine))
            for samples in islice(other, len(mine)):
                yield [(epoch, self.first + row) for epoch, row in samples]
