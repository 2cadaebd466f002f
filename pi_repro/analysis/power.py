"""How many seeds it takes to see an effect of a given size.

Rule: the two-sided paired t over seeds, by the noncentral t; the spread is the pilot's standard deviation of paired
differences, and as a few seeds know it badly, the answer is given for the ends of its 80 % interval too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from .statistics import LEVEL, Floats

POWER = 0.8
#: More seeds than anybody trains.
MOST = 10_000
#: Level of the interval of the pilot's standard deviation.
SPREAD_LEVEL = 0.8


@dataclass(frozen=True)
class Need:
    """Seeds for one effect; None stands for more than `MOST`.

    Attributes:
        effect: the true difference to be seen.
        seeds: at the pilot's standard deviation.
        fewest: at the lower end of its 80 % interval.
        most: at the upper end.
    """

    effect: float
    seeds: int | None
    fewest: int | None
    most: int | None


def power(effect: float, sd: float, seeds: int, level: float = LEVEL) -> float:
    """Chance that a two-sided paired t over some seeds sees an effect; sd > 0."""
    if seeds < 2:
        return 0.0
    bound = float(special.stdtrit(seeds - 1, (1 + level) / 2))
    away = float(abs(effect) / sd * np.sqrt(seeds))
    found = 1 - float(special.nctdtr(seeds - 1, away, bound)) + float(special.nctdtr(seeds - 1, away, -bound))
    # Far out scipy knows no number: there the answer is 0 or 1.
    return min(1.0, max(0.0, found)) if np.isfinite(found) else float(away > bound)


def seeds_needed(effect: float, sd: float, wanted: float = POWER, level: float = LEVEL) -> int | None:
    """Fewest seeds with at least the wanted power; None when `MOST` don't do."""
    if not effect or power(effect, sd, MOST, level) < wanted:
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, sd, middle, level) >= wanted else (middle, high)
    return high


def detectable(seeds: int, sd: float, wanted: float = POWER, level: float = LEVEL) -> float:
    """Smallest effect that some seeds (two or more) see with the wanted power."""
    low, high = 0.0, sd
    while power(high, sd, seeds, level) < wanted:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, sd, seeds, level) >= wanted else (middle, high)
    return high


def spread(values: Floats, level: float = SPREAD_LEVEL) -> tuple[float, float, float]:
    """Standard deviation over seeds with its chi-square interval.

    Raises:
        ValueError: from fewer than two seeds.
    """
    freedom = len(values) - 1
    if freedom < 1:
        raise ValueError("one seed has no spread")
    sd = float(values.std(ddof=1))
    ends = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom)
    low, high = sd * np.sqrt(freedom / ends)
    return sd, float(low), float(high)


def needs(pilot: Floats, effects: Iterable[float]) -> tuple[Need, ...]:
    """Seeds for several effects, from a pilot's paired differences [S]; S >= 2, not all equal.

    Raises:
        ValueError: when the pilot has no spread.
    """
    sd, low, high = spread(pilot)
    if not sd:
        raise ValueError("the pilot's seeds don't differ")
    return tuple(Need(e, seeds_needed(e, sd), seeds_needed(e, low), seeds_needed(e, high)) for e in effects)
