"""Intervals that keep their level with few seeds: seeds, sets and items as crossed random factors.

Rule: whatever was drawn and could have come out otherwise has a variance of its own, estimated from the table of
values, and its own Student's t: the half width is the root of the summed squares of each factor's half width
(MOVER: Zou and Donner, Statistics in Medicine 27, 2008). Two seeds know little of their spread, and the interval says
so; that they happen to agree does not make it narrower than the noise of their items. tests/analysis/test_coverage.py
simulates the coverage. The bootstrap, for statistics without such a formula,
draws from a generator keyed by what is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special, stats

from .statistics import LEVEL, REPLICATES, Estimate, Floats, generator


@dataclass(frozen=True)
class Part:
    """The mean of one quantity over items, as S seeds saw it; parts are averaged, subtracted and estimated.

    Attributes:
        seeds: [S] value of each seed.
        items: variance that the choice of items gives the mean over all seeds.
        n: items.
        rest: variance of that mean by what is neither of a seed nor of an item; seeds can't differ by less.
    """

    seeds: Floats
    items: float
    n: int
    rest: float = 0.0

    @property
    def value(self) -> float:
        return float(self.seeds.mean())

    def scaled(self, factor: float) -> Part:
        """In another unit."""
        return Part(self.seeds * factor, self.items * factor**2, self.n, self.rest * factor**2)

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value with its interval over new seeds and new items; of a single seed, over items alone."""
        return _estimate(self, level)

    def p(self) -> float:
        """Two-sided p of the value being 0: the level at which the interval stops covering it."""
        if self.value == 0:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.estimate(1 - middle).sign == 0 else (low, middle)
        return high


def part(values: Floats) -> Part:
    """Split the spread of [S, n] values (one row a seed, the same items) into that of seeds and of items.

    A two-way layout without replication: mean squares of seeds, items and rest, as in any analysis of variance.

    Raises:
        ValueError: on another shape or without a value.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"values must be [seeds, items], not {list(table.shape)}")
    seeds, n = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    if n == 1:
        return Part(rows, 0.0, n)
    items, rest = float(columns.var(ddof=1)) / n, 0.0
    if seeds > 1:
        away = table - rows[:, None] - columns[None, :] + table.mean()
        rest = float((away**2).sum()) / ((seeds - 1) * (n - 1)) / (seeds * n)
    return Part(rows, max(0.0, items - rest), n, rest)


def counts(values: Floats) -> Part:
    """A whole number a seed: seeds that agree on it can still differ as rounding does, whose variance is 1/12."""
    seeds = len(values)
    if seeds < 2:
        return Part(values, 0.0, 1)
    wider = float(special.stdtrit(seeds - 1, (1 + LEVEL) / 2) / special.ndtri((1 + LEVEL) / 2))
    return Part(values, 0.0, 1, wider**2 / (12 * seeds))


def rare(one: Part) -> Part:
    """The same of right and wrong answers (0 to 1 an item) where hardly any item tells two arms apart.

    No such item among n still allows 3.7 in n of them (exact, two-sided 95 %): no half width is smaller than that.
    """
    least = (-np.log((1 - LEVEL) / 2) / special.ndtri((1 + LEVEL) / 2) / one.n) ** 2
    return replace(one, items=max(one.items, float(least) - one.rest))


def mean(parts: Sequence[Part]) -> Part:
    """The unweighted mean of quantities of the same seeds over different items: sets are taken as given."""
    count = len(parts)
    return Part(
        np.mean([one.seeds for one in parts], axis=0),
        sum(one.items for one in parts) / count**2,
        min(one.n for one in parts),
        sum(one.rest for one in parts) / count**2,
    )


def over_sets(parts: Sequence[Part], level: float = LEVEL) -> Estimate:
    """The mean over sets as drawn from more sets like these: seeds, sets and items are all new.

    Items lie within sets, so their variance is part of that between sets, which can't be the smaller one.
    """
    drawn, given = part(np.stack([one.seeds for one in parts], axis=1)), mean(parts)
    items, rest = max(drawn.items, given.items), max(drawn.rest, given.rest)
    return Part(drawn.seeds, items, drawn.n, rest).estimate(level)


def _estimate(one: Part, level: float) -> Estimate:
    count, freedom, tail = len(one.seeds), one.n - 1, (1 + level) / 2
    if freedom < 1 and (count == 1 or not (one.rest or _differ(one.seeds))):
        # One number a seed, and all the same: no spread is no evidence of none.
        return Estimate(one.value, None, None)
    square = float(special.stdtrit(freedom, tail)) ** 2 * one.items if freedom > 0 else 0.0
    if count > 1:
        seeds = float(special.stdtrit(count - 1, tail)) ** 2 * float(one.seeds.var(ddof=1)) / count
        square += max(seeds, float(special.ndtri(tail)) ** 2 * one.rest)
    half = float(np.sqrt(square))
    return Estimate(one.value, one.value - half, one.value + half)


def _differ(values: Floats) -> bool:
    """Whether values differ by more than rounding."""
    return float(np.ptp(values)) > 1e-12 * float(np.abs(values).max())


def bootstrap(
    values: Floats,
    statistic: Callable[[Floats], Floats],
    label: str,
    method: Literal["percentile", "bca"] = "bca",
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Estimate:
    """Resample independent units: seeds, or sets.

    BCa is Efron's bias-corrected and accelerated interval (JASA 82, 1987), the acceleration by jackknife.

    Args:
        values: [n, ...] one row a unit.
        statistic: [..., n, ...] -> [...]: a number of each resample, over the units' axis, which is axis 1 of what
            it is given ([replicates, n, ...]).
        label: names the quantity.

    Raises:
        ValueError: from fewer than two units.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{label}: nothing can be resampled from {n} unit")
    observed = float(statistic(values[None])[0])
    drawn = generator("bootstrap", label).integers(0, n, size=(replicates, n))
    found = np.sort(statistic(values[drawn]))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca" and found[0] < found[-1]:
        below = ((found < observed).sum() + (found <= observed).sum()) / 2 / replicates
        bias = stats.norm.ppf(np.clip(below, 0.5 / replicates, 1 - 0.5 / replicates))
        left = np.stack([np.delete(values, unit, axis=0) for unit in range(n)])
        jack = statistic(left)
        away = jack.mean() - jack
        spread = float((away**2).sum()) ** 1.5
        acceleration = float((away**3).sum()) / (6 * spread) if spread else 0.0
        z = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(found, tails)
    return Estimate(observed, float(low), float(high))
