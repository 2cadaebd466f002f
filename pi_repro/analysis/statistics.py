"""Estimates with intervals, from results that are paired by item and by seed.

Rule: an interval covers both new items and new seeds, and every resampling draws from a counter-based
generator keyed by what is estimated, so that a number depends on its data alone.

The bootstrap is hierarchical: seeds are resampled, and items, the same for both arms and for all seeds,
which share them. As S seeds resampled fall short of their own variance by (S - 1) / S, the seeds' part is
widened by its root. tests/analysis/test_statistics.py simulates the coverage: above 95 % while items
dominate, near 90 % where three seeds differ by more than items explain, less with two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

REPLICATES = 2000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; the bounds are None where one seed allows none."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval excludes zero, else 0: no difference is established."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def ends(self) -> tuple[float, float]:
        """The bounds, or the value twice where there are none: what a line is drawn between."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit; factor > 0."""
        return Estimate(
            self.value * factor,
            None if self.low is None else self.low * factor,
            None if self.high is None else self.high * factor,
        )

    def within(self, low: float, high: float) -> Estimate:
        """Bounds cut to what the quantity can take, as [0, 1] for an accuracy."""
        if self.low is None or self.high is None:
            return self
        return Estimate(self.value, max(low, self.low), min(high, self.high))


@dataclass(frozen=True)
class Sample:
    """A mean over items, seen by S seeds, ready to be averaged with others or estimated.

    Attributes:
        seeds: [S] the value of each seed.
        deviations: [REPLICATES, S] value of each seed over resampled items minus its observed value.
    """

    seeds: Floats
    deviations: Floats

    @property
    def value(self) -> float:
        return float(self.seeds.mean())

    def estimate(self) -> Estimate:
        """The value with its percentile interval; of a single seed, over items alone."""
        count = len(self.seeds)
        weights = generator("seeds").multinomial(count, np.full(count, 1 / count), size=REPLICATES) / count
        deviations = (weights * self.deviations).sum(axis=1)
        if count > 1:
            deviations += np.sqrt(count / (count - 1)) * (weights @ (self.seeds - self.value))
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(deviations, [tail, 100 - tail])
        return Estimate(self.value, self.value + float(low), self.value + float(high))


def generator(*key: str) -> np.random.Generator:
    """A Philox generator whose key is the sha256 of some names."""
    digest = hashlib.sha256("\x1f".join(("pi_repro.analysis", *key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample(values: Integers, label: str, unit: float = 1.0) -> Sample:
    """Resample the items of one quantity.

    Args:
        values: [S, n] whole-numbered scores, one row a seed, the same items in the same order.
        label: names the quantity.
        unit: what 1 is worth: 1 for right or wrong, 0.5 for 2AFC scores in 0, 1, 2.

    Raises:
        ValueError: on another shape or without an item.
    """
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{label}: scores must be [seeds, items], not {list(values.shape)}")
    n = values.shape[1]
    # Items with the same scores in all seeds are alike, and there are few kinds: drawing how often each
    # kind occurs is the same as drawing the items one by one, at any number of items.
    kinds, occurrences = np.unique(values.astype(np.int64), axis=1, return_counts=True)
    drawn = generator("items", label).multinomial(n, occurrences / n, size=REPLICATES)
    seeds = kinds @ occurrences * (unit / n)
    return Sample(seeds, drawn @ kinds.T * (unit / n) - seeds)


def average(samples: Sequence[Sample]) -> Sample:
    """The unweighted mean of quantities over different items and the same seeds, as a family's mean is."""
    return Sample(
        np.mean([sample.seeds for sample in samples], axis=0),
        np.mean([sample.deviations for sample in samples], axis=0),
    )


def paired_sample(arm: Integers, baseline: Integers, label: str, unit: float = 1.0) -> Sample:
    """The difference of two arms over the same items ([S, n] each) and the same seeds.

    Raises:
        ValueError: when the shapes differ.
    """
    if arm.shape != baseline.shape:
        raise ValueError(f"{label}: {list(arm.shape)} and {list(baseline.shape)} can't be paired")
    return sample(arm.astype(np.int64) - baseline.astype(np.int64), label, unit)


def paired_bootstrap(arm: Integers, baseline: Integers, label: str, unit: float = 1.0) -> Estimate:
    """Difference of two arms with its interval; see `paired_sample`."""
    return paired_sample(arm, baseline, label, unit).estimate()


def over_seeds(values: Floats) -> Estimate:
    """Mean of one number a seed with Student's t interval; no interval from a single seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided sign test; ties are left out before. 1.0 when nothing is left."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def at_chance(accuracy: float, n: int, chance: float) -> bool:
    """True when the exact (Clopper-Pearson) 95 % interval of an accuracy over n items covers chance."""
    interval = stats.binomtest(round(accuracy * n), n).proportion_ci(LEVEL, method="exact")
    return bool(interval.low <= chance <= interval.high)
