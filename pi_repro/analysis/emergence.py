"""The epoch from which a gain lasts, with what is known of it.

Rule: the epochs that tests can't rule out as the first of a lasting gain are the interval of the onset (a confidence
set by inversion of tests); it needs no model of the curve. An epoch is ruled out as too early by any later one that
lies below the threshold, which are many chances to be wrong: those intervals hold together (Bonferroni over epochs).
It is ruled out as too late by the one before it, by that one's own interval. Between kept epochs nothing is known.
Coverage: tests/analysis/test_coverage.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import Estimate


@dataclass(frozen=True)
class Onset:
    """From when on a difference exceeds a threshold, in kept epochs; None stands for: not within training.

    Attributes:
        epoch: first epoch from which every difference exceeds it.
        low: earliest epoch, kept or not, that the intervals allow; None when even the last is established below.
        high: first epoch from which every interval lies above it; None when the last does not.
    """

    epoch: int | None
    low: int | None
    high: int | None

    @property
    def established(self) -> bool:
        """Whether there is a lasting gain at all."""
        return self.high is not None


def onset(
    epochs: Sequence[int], differences: Sequence[Estimate], joint: Sequence[Estimate], threshold: float = 0.0
) -> Onset:
    """Find it.

    Args:
        epochs: kept epochs, ascending.
        differences: the difference at each, with its interval.
        joint: the same, with intervals that hold at all epochs together.
        threshold: what a gain has to exceed.
    """
    low = _since(epochs, [d.high is None or d.high > threshold for d in joint])
    before = [epoch for epoch in epochs if low is not None and epoch < low]
    return Onset(
        epoch=_since(epochs, [d.value > threshold for d in differences]),
        low=before[-1] + 1 if before else low,
        high=_since(epochs, [d.low is not None and d.low > threshold for d in differences]),
    )


def _since(epochs: Sequence[int], holds: Sequence[bool]) -> int | None:
    """First epoch from which on a condition holds to the end."""
    found = None
    for epoch, good in zip(reversed(epochs), reversed(holds), strict=True):
        if not good:
            break
        found = epoch
    return found
