"""The learning rate of each update.

Rule: a function of the update's number and nothing else. Linear warm-up, then cosine to zero or
constant; open_clip's formula, so the first update after the warm-up has the peak rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pi_repro.errors import RequestError
from pi_repro.spec.training import Schedule


@dataclass(frozen=True)
class LearningRate:
    """Learning rates of a training.

    Attributes:
        schedule: its form.
        peak: highest rate.
        total: updates of the training.
        accumulation: batches of an update, in which the lineage counts the cosine's length (`spec.training.Schedule`).

    Raises:
        RequestError: the warm-up is no shorter than the training.
    """

    schedule: Schedule
    peak: float
    total: int
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.schedule.warmup_updates >= self.total:
            raise RequestError(
                "the warm-up lasts as long as the training",
                where="schedule.warmup_updates",
                given=self.schedule.warmup_updates,
                allowed=f"fewer than its {self.total} updates",
            )

    def at(self, update: int) -> float:
        """The rate of an update, counted from 1."""
        done, warmup = update - 1, self.schedule.warmup_updates
        if done < warmup:
            return self.peak * (done + 1) / warmup
        if self.schedule.kind == "constant":
            return self.peak
        length = self.total * (self.accumulation if self.schedule.horizon == "micro_batches" else 1)
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (length - warmup))) * self.peak
