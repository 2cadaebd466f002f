"""Wins that mean something: a set on which neither arm can be told from chance is nobody's win.

Rule: the bar of a set is the best that needs no image: one in the number of classes, always naming the commonest
class, or DataComp's random_score, whichever is highest. An arm is above it when two tests say so, one-sided at 2.5 %:
the exact binomial of the mean over seeds taken as one run's, and Student's t over seeds. A network that knows no name
still sorts its images, and its sorts meet classes by luck, a luck that all images of a run share: thousands of images
make the binomial sure of it, other seeds don't repeat it. The count is given raw, gated, and split by whether the
set's categories made NIGHTS's images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from scipy import stats

from .statistics import Estimate, Floats, Integers, over_seeds, sign_test

ALPHA = 0.025
#: Differences closer to zero are ties: accuracies are means of whole numbers, equal up to the last bits.
TIE = 1e-12

Overlap = Literal["named", "derived", "none", "not listed"]
OVERLAPS: tuple[Overlap, ...] = ("named", "derived", "none", "not listed")


@dataclass(frozen=True)
class Chance:
    """Top-1 of answers that need no image; None where it is not known.

    Attributes:
        uniform: one in the number of classes.
        commonest: share of the commonest class among the set's own labels.
        published: DataComp's random_score.
    """

    uniform: float
    commonest: float | None
    published: float | None

    @property
    def bar(self) -> float:
        """What an arm has to exceed."""
        return max(self.uniform, self.commonest or 0.0, self.published or 0.0)


def chance(name: str, uniform: float, labels: Integers | None) -> Chance:
    """The levels of a set.

    Args:
        name: the set's id; known are those of the paper's suite.
        uniform: one in the number of classes, or what the evaluation recorded.
        labels: [n] class of each image, or None.
    """
    share = float(np.bincount(labels).max() / len(labels)) if labels is not None and len(labels) else None
    return Chance(uniform, share, _known()["random_score"].get(name))


def above(seeds: Floats, n: int, bar: float) -> bool:
    """Whether accuracies [S] over n images exceed a bar: the images say so, and the seeds where there are several."""
    hits = int(np.floor(seeds.mean() * n + 1e-9))
    if stats.binom.sf(hits - 1, n, min(1.0, bar)) >= ALPHA:
        return False
    low = over_seeds(seeds).low
    return low is None or low > bar


def overlap(name: str) -> Overlap:
    """How a set's categories are related to those that NIGHTS was generated from."""
    return next((kind for kind in OVERLAPS[:3] if name in _known()["overlap"][kind]), "not listed")


@cache
def _known() -> Mapping[str, Any]:
    text = resources.files("pi_repro.analysis").joinpath("sets.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@dataclass(frozen=True)
class Bout:
    """Two arms on one set.

    Attributes:
        name: the set's id.
        difference: top-1 of the arm minus the other's.
        seeds: [S] the same of each seed.
        chance: the levels to exceed.
        above: whether the arm is above chance, and the other.
        overlap: of its categories with NIGHTS's.
    """

    name: str
    difference: Estimate
    seeds: tuple[float, ...]
    chance: Chance
    above: tuple[bool, bool]
    overlap: Overlap

    @property
    def sign(self) -> int:
        """+1 won, -1 lost, 0 tied, whatever the interval says."""
        return _sign(self.difference.value)

    @property
    def counts(self) -> bool:
        """Whether the one that is ahead is above chance; a tie counts when either is."""
        return self.above[0] if self.sign > 0 else self.above[1] if self.sign < 0 else any(self.above)


@dataclass(frozen=True)
class Tally:
    """A count of wins.

    Attributes:
        dropped: sets whose winner is at chance; 0 in a raw count.
        p: exact sign test over sets, which takes them as independent.
        seeds: wins of each seed (a tie counts half) among the sets counted.
    """

    wins: int
    losses: int
    ties: int
    dropped: int
    p: float
    seeds: tuple[float, ...]

    @property
    def sets(self) -> int:
        """Sets counted."""
        return self.wins + self.losses + self.ties


@dataclass(frozen=True)
class Count:
    """The win count of two arms: raw, gated, and gated by overlap with NIGHTS's categories."""

    raw: Tally
    gated: Tally
    split: Mapping[Overlap, Tally]


def count(bouts: Sequence[Bout]) -> Count:
    """Count wins all three ways; a part of the split without a set is left out."""
    return Count(
        raw=tally(bouts, gate=False),
        gated=tally(bouts, gate=True),
        split={
            kind: tally(part, gate=True) for kind in OVERLAPS if (part := [one for one in bouts if one.overlap == kind])
        },
    )


def tally(bouts: Sequence[Bout], *, gate: bool) -> Tally:
    """Count wins over some sets."""
    counted = [bout for bout in bouts if bout.counts or not gate]
    signs = [bout.sign for bout in counted]
    wins, losses = signs.count(1), signs.count(-1)
    return Tally(
        wins=wins,
        losses=losses,
        ties=signs.count(0),
        dropped=len(bouts) - len(counted),
        p=sign_test(wins, losses),
        seeds=tuple(wins_of_seeds(np.array([bout.seeds for bout in counted]).T)) if counted else (),
    )


def wins_of_seeds(table: Floats) -> list[float]:
    """[S, K] differences -> wins of each seed over K sets, a tie counting half."""
    signs = np.where(np.abs(table) > TIE, np.sign(table), 0)
    return [float(row) for row in (signs.sum(axis=1) + table.shape[1]) / 2]


def _sign(value: float) -> int:
    return int(value > TIE) - int(value < -TIE)
