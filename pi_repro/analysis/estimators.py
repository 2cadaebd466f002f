"""Which intervals a report shows: one way for all its numbers, chosen by its settings.

Rule: a report whose spec has a `report` section shows intervals over new seeds and new items that keep their level
with few seeds (intervals.py); one without it shows the percentile bootstrap (statistics.py), and stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from . import intervals, statistics
from .statistics import Estimate, Floats, Integers


class Spread(Protocol):
    """A mean over items as seeds saw it, ready to be averaged or estimated."""

    @property
    def seeds(self) -> Floats:
        """[S] value of each seed."""
        ...

    @property
    def value(self) -> float:
        """Mean over seeds."""
        ...

    def estimate(self) -> Estimate:
        """The value with its 95 % interval."""
        ...


class Estimator(Protocol):
    """Makes spreads of scores [S, n], which are whole numbers worth `unit` each."""

    def sample(self, values: Integers, label: str, unit: float = 1.0) -> Spread:
        """Of one arm."""
        ...

    def paired(self, arm: Integers, baseline: Integers, label: str, unit: float = 1.0) -> Spread:
        """Of the difference of two."""
        ...

    def average(self, spreads: Sequence[Any]) -> Spread:
        """The unweighted mean over sets."""
        ...


class Bootstrap:
    """Percentiles of resampled seeds and items."""

    def sample(self, values: Integers, label: str, unit: float = 1.0) -> Spread:
        return statistics.sample(values, label, unit)

    def paired(self, arm: Integers, baseline: Integers, label: str, unit: float = 1.0) -> Spread:
        return statistics.paired_sample(arm, baseline, label, unit)

    def average(self, spreads: Sequence[Any]) -> Spread:
        return statistics.average(spreads)


class Crossed:
    """Seeds and items as crossed random factors; takes no label, as nothing is drawn."""

    def sample(self, values: Integers, label: str, unit: float = 1.0) -> Spread:
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(f"{label}: scores must be [seeds, items], not {list(values.shape)}")
        return intervals.part(values.astype(np.float64) * unit)

    def paired(self, arm: Integers, baseline: Integers, label: str, unit: float = 1.0) -> Spread:
        if arm.shape != baseline.shape:
            raise ValueError(f"{label}: {list(arm.shape)} and {list(baseline.shape)} can't be paired")
        return self.sample(np.subtract(arm, baseline, dtype=np.int64), label, unit)

    def average(self, spreads: Sequence[Any]) -> Spread:
        return intervals.mean(spreads)


def chosen(settings: Mapping[str, Any]) -> Estimator:
    """What a report's settings ask for."""
    return Crossed() if settings.get("report") else Bootstrap()
