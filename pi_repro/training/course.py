"""The arithmetic of a training: which samples an update sees, where epochs end.

Rule: a function of the data's index and the spec. The samples that fill no update are left out of
their epoch, others in each.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

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

    Raises:
        RequestError: the data does not fill one update.
    """

    order: Order
    epochs: int
    batch: int
    micro_batch: int
    accumulation: int = 1

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
        return self.epochs * self.per_epoch

    def ended_epoch(self, update: int) -> int | None:
        """The epoch (counted from 1) that an update ends; 0 before the first update; None inside an epoch."""
        epoch, rest = divmod(update, self.per_epoch)
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
