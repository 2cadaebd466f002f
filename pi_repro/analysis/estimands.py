"""What a claim's test computes: one number with its interval for everything that the claim is about.

Rule: a component is a paired difference (the perceptual arm minus the one it is compared with) in the claim's unit,
with two intervals: its own at 95 %, by which it passes, and one that holds together with those of the claim's other
components (Bonferroni), by which the claim fails when a single one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pi_repro.spec.claims import Measure, Test

from . import gating, intervals, scaling
from .effects import MARGINS, Pair, Side, measured, since
from .emergence import Onset
from .intervals import Part
from .statistics import LEVEL, Estimate, Floats
from .suite import Benchmark, Suite

#: "After a few epochs": the last kept one up to this, and before the end.
EARLY = 5


@dataclass(frozen=True)
class Component:
    """One number of a claim.

    Attributes:
        name: what it is of.
        estimate: value and 95 % interval.
        joint: the same with an interval that holds together with all the claim's others.
        p: two-sided, of `null`.
        spread: standard deviation over seeds; None of one.
        null: the value of no effect: no difference, or half of the sets.
    """

    name: str
    estimate: Estimate
    joint: Estimate
    p: float
    spread: float | None
    null: float = 0.0


@dataclass(frozen=True)
class Computed:
    """What a test gave: components, or onsets by name; and what kept it from being computed."""

    components: tuple[Component, ...] = ()
    onsets: tuple[tuple[str, Onset], ...] = ()
    sets: int = 0
    lacking: str = ""


def compute(test: Test, pair: Pair) -> Computed:
    """Everything that a claim's test asks for, from the results of two arms."""
    suite = pair.arm.results.suite
    if test.quantity == "unrecorded":
        return Computed(lacking="evaluation does not record it for all queries")
    if test.over == "retrieval" and not suite.retrieval:
        return Computed(lacking="no retrieval set was judged")
    along = test.at != "last" or test.quantity in ("onset", "onsets", "growth", "exponent", "speed")
    if along and len(_after_start(pair)) == 0:
        return Computed(lacking="the arms have no common epoch after the start")
    if any(m in MARGINS and not _recorded(pair, m) for m in test.measures):
        return Computed(lacking="evaluation recorded no margins")
    return _QUANTITIES[test.quantity](test, pair, suite)


def _gain(test: Test, pair: Pair, suite: Suite) -> Computed:
    epochs = _epochs(test, pair)
    if not epochs:
        return Computed(lacking=f"no epoch up to {EARLY} was kept before the end")
    if test.at == "each" and len(epochs) < 2:
        return Computed(lacking="of the epochs after the start the end alone was kept")
    parts = [
        (_name(group, measure, epoch, len(epochs)), _scaled(_mean(pair, members, measure, epoch), measure))
        for epoch in epochs
        for measure in test.measures
        for group, members in _groups(test, suite, measure)
    ]
    return Computed(_components(parts)) if parts else Computed(lacking="no set has the measure")


def _wins(test: Test, pair: Pair, suite: Suite) -> Computed:
    (measure,) = test.measures
    counted = [b for b in suite.classification if b.disjoint and measured(b, measure)]
    table = np.stack([pair.part(b, measure).seeds for b in counted], axis=1)
    wins = np.array(gating.wins_of_seeds(table))
    parts = [(f"wins of {len(counted)}", intervals.counts(wins))]
    return Computed(_components(parts, len(counted) / 2), sets=len(counted))


def _onset(test: Test, pair: Pair, suite: Suite) -> Computed:
    return Computed(onsets=((suite.headline.id, since(pair, suite.headline, test.measures[0])),))


def _onsets(test: Test, pair: Pair, suite: Suite) -> Computed:
    members = [b for b in suite.classification if b.disjoint]
    level = 1 - (1 - LEVEL) / len(members)
    found = [(b.id, since(pair, b, test.measures[0], level)) for b in members if measured(b, test.measures[0])]
    return Computed(onsets=tuple(found))


def _growth(test: Test, pair: Pair, suite: Suite) -> Computed:
    epochs = _after_start(pair)
    if len(epochs) < 2:
        return Computed(lacking="two epochs after the start make a slope; fewer were kept")
    groups = [(measure, group) for measure in test.measures for group in _groups(test, suite, measure)]
    parts = [
        (_name(name, measure, None, 1), _scaled(pair.growth(members, measure, epochs), measure))
        for measure, (name, members) in groups
    ]
    return Computed(_components(parts))


def _exponent(test: Test, pair: Pair, suite: Suite) -> Computed:
    epochs = _after_start(pair)
    samples = [pair.samples(epoch) for epoch in epochs]
    parts = []
    for measure in test.measures:
        for name, members in _groups(test, suite, measure):
            curves = np.stack([pair.accuracy(side, members, measure, epochs) for side in _sides(pair)])
            # An epoch without a right answer in one arm is left out of both: exponents are of the same stretch.
            curves[:, :, (curves == 0).any(axis=(0, 1))] = 0.0
            fits = [scaling.fit(samples, curve) for curve in curves]
            if fits[0] is None or fits[1] is None:
                return Computed(lacking="a power law takes three epochs after the start with some right answers")
            difference = np.array(fits[0].betas) - np.array(fits[1].betas)
            parts.append((_name(name, measure, None, 1), Part(difference, 0.0, 1)))
    return Computed(_components(parts))


def _speed(test: Test, pair: Pair, suite: Suite) -> Computed:
    epochs = _after_start(pair)
    if len(epochs) < 2:
        return Computed(lacking="two epochs after the start make a curve; fewer were kept")
    x = np.log2([pair.samples(epoch) for epoch in epochs])
    curves = [pair.accuracy(side, [suite.headline], test.measures[0], epochs) for side in _sides(pair)]
    saved = np.array([doublings_saved(x, one, two) for one, two in zip(*curves, strict=True)])
    return Computed(_components([(_name(suite.headline.id, test.measures[0], None, 1), Part(saved, 0.0, 1))]))


_QUANTITIES: dict[str, Callable[[Test, Pair, Suite], Computed]] = {
    "gain": _gain,
    "wins": _wins,
    "onset": _onset,
    "onsets": _onsets,
    "growth": _growth,
    "exponent": _exponent,
    "speed": _speed,
}


def doublings_saved(x: Floats, arm: Floats, other: Floats) -> float:
    """How many doublings of samples earlier an arm reaches the other's final accuracy.

    Args:
        x: [C] log2 of samples.
        arm, other: [C] accuracies; between checkpoints they are taken as straight in x.

    Returns:
        Where the arm ends below the other, minus what the other saves against it; 0 where both end level.
    """
    if arm[-1] < other[-1]:
        return -doublings_saved(x, other, arm)
    reached = int(np.argmax(arm >= other[-1]))
    if reached == 0:
        return float(x[-1] - x[0])
    low, high = float(arm[reached - 1]), float(arm[reached])
    at = float(x[reached - 1] + (other[-1] - low) / (high - low) * (x[reached] - x[reached - 1]))
    return float(x[-1]) - at


def _components(parts: Sequence[tuple[str, Part]], null: float = 0.0) -> tuple[Component, ...]:
    level = 1 - (1 - LEVEL) / len(parts)
    return tuple(
        Component(
            name=name,
            estimate=one.estimate(),
            joint=one.estimate(level),
            p=replace(one, seeds=one.seeds - null).p(),
            spread=float(one.seeds.std(ddof=1)) if len(one.seeds) > 1 else None,
            null=null,
        )
        for name, one in parts
    )


def _mean(pair: Pair, members: list[Benchmark], measure: str, epoch: int | None) -> Part:
    parts = [pair.part(b, measure, epoch) for b in members]
    return intervals.mean(parts if measure in MARGINS else [intervals.rare(one) for one in parts])


def _scaled(one: Part, measure: str) -> Part:
    """Accuracies in percentage points, cosines as they are."""
    return one if measure in MARGINS else one.scaled(100.0)


def _groups(test: Test, suite: Suite, measure: str) -> Iterator[tuple[str, list[Benchmark]]]:
    groups: dict[str, list[Benchmark]] = {
        "headline": [suite.headline],
        "suite": [b for b in suite.classification if b.disjoint],
        "retrieval": list(suite.retrieval),
    }
    families = [(family, list(suite.members(family))) for family in suite.families]
    for name, members in families if test.over == "families" else [("", groups[test.over])]:
        if kept := [b for b in members if measured(b, measure)]:
            yield name, kept


def _epochs(test: Test, pair: Pair) -> Sequence[int | None]:
    if test.at == "last":
        return [None]
    after = _after_start(pair)
    if test.at == "each":
        return after
    early = [epoch for epoch in after[:-1] if epoch <= EARLY]
    return early[:1] if test.at == "first" else early[-1:]


def _after_start(pair: Pair) -> list[int]:
    return [epoch for epoch in pair.epochs if epoch]


def _sides(pair: Pair) -> tuple[Side, Side]:
    return pair.arm, pair.other


def _recorded(pair: Pair, measure: Measure) -> bool:
    names = [b.id for b in pair.arm.results.suite.retrieval]
    return all(
        side.results.has_array(side.arm, side.results.last(side.arm), name, MARGINS[measure])
        for side in _sides(pair)
        for name in names
    )


def _name(group: str, measure: str, epoch: int | None, epochs: int) -> str:
    words = [group, measure, f"epoch {epoch}" if epochs > 1 else ""]
    return ", ".join(word for word in words if word)
