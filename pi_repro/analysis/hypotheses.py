"""Tests of a paired difference, of many at once, and of two groups of runs.

Rule: the unit of replication is a training run, so that tests over seeds are the ones to trust; tests over sets take
sets as independent, which sets judged by the same networks are not: their size is far above the nominal one
(tests/analysis/test_size.py simulates by how much), and they are given with `effective_sets` beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from .statistics import Estimate, Floats, generator, sign_test

#: Up to this many units all sign patterns are counted (2^16); beyond, so many are drawn.
EXACT_UNITS = 16
DRAWN_PATTERNS = 20_000
#: A spread below this share of the values is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Outcome:
    """A test of no difference: two-sided p, and how many units it rests on (ties left out where it does that)."""

    name: str
    p: float
    units: int


def paired_t(values: Floats) -> Outcome:
    """Student's t of paired differences; p is 1 from fewer than two units."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if spread <= _ROUNDING * float(np.abs(values).max()):
        # Equal differences: no spread is no evidence of none; two units that agree to the last bit are the same run.
        return Outcome("paired t", 1.0, len(values))
    t = abs(float(values.mean())) / spread * np.sqrt(len(values))
    return Outcome("paired t", 2 * float(special.stdtr(len(values) - 1, -t)), len(values))


def sign(values: Floats) -> Outcome:
    """Exact sign test; zeros are left out."""
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    return Outcome("exact sign", sign_test(wins, losses), wins + losses)


def wilcoxon(values: Floats) -> Outcome:
    """Wilcoxon's signed ranks; zeros are left out, ranks of equal sizes averaged.

    Exact by counting sign patterns of the ranks at hand, ties or not, up to `EXACT_UNITS`; beyond by the normal
    approximation with tie and continuity correction.
    """
    kept = values[values != 0]
    if not len(kept):
        return Outcome("Wilcoxon", 1.0, 0)
    # Means of seeds that are equal may differ in the last bits: ties all the same.
    kept = np.sign(kept) * np.round(np.abs(kept), 12)
    ranks = stats.rankdata(np.abs(kept))
    if len(kept) <= EXACT_UNITS:
        return Outcome("Wilcoxon", _patterns(ranks * np.sign(kept)), len(kept))
    found = stats.wilcoxon(kept, method="asymptotic", correction=True)
    return Outcome("Wilcoxon", float(found.pvalue), len(kept))


def sign_flip(values: Floats, label: str) -> Outcome:
    """Permutation test of the mean: under no effect every difference could as well have the other sign.

    Exact up to `EXACT_UNITS` units; its smallest p is 2 / 2^units, so that five seeds can't reach 0.05.
    """
    if len(values) <= EXACT_UNITS:
        return Outcome("sign flips", _patterns(values), len(values))
    flips = generator("flips", label).integers(0, 2, size=(DRAWN_PATTERNS, len(values))) * 2 - 1
    extreme = np.abs(flips @ values) >= abs(values.sum()) * (1 - 1e-12)
    return Outcome("sign flips", float((1 + extreme.sum()) / (1 + DRAWN_PATTERNS)), len(values))


def _patterns(values: Floats) -> float:
    """Share of sign patterns whose sum is at least as far from zero as the one at hand."""
    sums = np.zeros(1)
    for size in np.abs(values):
        sums = np.concatenate([sums - size, sums + size])
    bound = abs(float(values.sum()))
    return float((np.abs(sums) >= bound - 1e-9 * max(bound, 1e-300)).mean())


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p of each, in the order given: below 0.05 means that one false claim among all has chance <= 5 %.

    Holm's step-down, valid under any dependence (Scandinavian Journal of Statistics 6, 1979).
    """
    order = np.argsort(ps, kind="stable")
    found = np.empty(len(ps))
    largest = 0.0
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, float(ps[at]) * (len(ps) - place)))
        found[at] = largest
    return tuple(float(p) for p in found)


def benjamini_hochberg(ps: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p of each: below q, at most a share q of what is claimed is expected to be false.

    Valid for independent and for positively dependent tests (Benjamini and Yekutieli, Annals of Statistics 29, 2001).
    """
    order = np.argsort(ps, kind="stable")[::-1]
    found = np.empty(len(ps))
    smallest = 1.0
    for place, at in enumerate(order):
        smallest = min(smallest, float(ps[at]) * len(ps) / (len(ps) - place))
        found[at] = smallest
    return tuple(float(p) for p in found)


def effective_sets(table: Floats) -> float | None:
    """To how many independent sets K sets amount, by how differences move together from seed to seed.

    Args:
        table: [S, K] difference of each seed and set.

    Returns:
        Mean variance of a set over seeds by the variance of the seeds' mean over sets, between 1 and K; None from
        fewer than three seeds, which can't tell, or without any spread. Rough below ten seeds.
    """
    seeds, sets = table.shape
    if seeds < 3:
        return None
    joint = float(table.mean(axis=1).var(ddof=1))
    single = float(table.var(axis=0, ddof=1).mean())
    return min(float(sets), max(1.0, single / joint)) if joint > 0 else None


@dataclass(frozen=True)
class Groups:
    """Two groups of runs compared: the difference of their means (second minus first) and what is known of it.

    Attributes:
        difference: with its 95 % interval by Welch.
        p_different: two-sided p of equal means (Welch).
        p_equivalent: p of means that differ by the margin or more (two one-sided tests, Schuirmann 1987).
    """

    difference: Estimate
    p_different: float
    p_equivalent: float


def groups(first: Floats, second: Floats, margin: float, level: float = 0.95) -> Groups:
    """Welch's test and equivalence within a margin, variances not taken as equal.

    A group of one run has no variance of its own: then it is given that of the other, and the degrees of freedom too.

    Raises:
        ValueError: when both have one run.
    """
    one, two = len(first), len(second)
    if max(one, two) < 2:
        raise ValueError("two groups of one run each can't be compared")
    shared = float((first if one > 1 else second).var(ddof=1)), float((second if two > 1 else first).var(ddof=1))
    parts = shared[0] / one, shared[1] / two
    error = float(np.sqrt(sum(parts)))
    value = float(second.mean() - first.mean())
    if min(one, two) < 2:
        freedom = float(max(one, two) - 1)
    else:
        pieces = parts[0] ** 2 / (one - 1) + parts[1] ** 2 / (two - 1)
        freedom = sum(parts) ** 2 / pieces if pieces else float(one + two - 2)
    if error <= _ROUNDING * float(max(np.abs(first).max(), np.abs(second).max())):
        value = round(value, 12)
        return Groups(Estimate(value, value, value), float(value == 0), float(abs(value) >= margin))
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    different = 2 * float(special.stdtr(freedom, -abs(value) / error))
    equivalent = float(special.stdtr(freedom, (abs(value) - margin) / error))
    return Groups(Estimate(value, value - half, value + half), different, equivalent)
