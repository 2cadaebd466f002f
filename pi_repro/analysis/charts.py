"""What happens along training: curves, power laws, and where a difference to the baseline emerges.

Rule: an arm that only finetunes has no curve of its own; its one point stands where its start arm ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import scaling
from .results import Arm, Results
from .statistics import Estimate, Floats
from .suite import Benchmark

CLASSIFICATION_MEASURES = ("top1", "top5")
RETRIEVAL_MEASURES = ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")


@dataclass(frozen=True)
class Curve:
    """A measure along training.

    Attributes:
        samples: [C] pairs seen; a finetuned arm has one point, at its start arm's last.
        accuracy: [S, C]
        along: False for the single point of a finetuned arm.
    """

    samples: tuple[int, ...]
    epochs: tuple[int, ...]
    accuracy: Floats
    along: bool


@dataclass(frozen=True)
class Chart:
    """Curves of all arms for one family, or retrieval set, and one measure; with fits for families."""

    name: str
    measure: str
    chance: float
    curves: Mapping[str, Curve]
    fits: Mapping[str, scaling.Fit]


@dataclass(frozen=True)
class Emergence:
    """The headline set's top-1 difference to the baseline along pretraining.

    Attributes:
        first: first epoch whose interval excludes zero.
        lasting: first epoch from which every interval excludes zero with the same sign.
    """

    epochs: tuple[int, ...]
    samples: tuple[int, ...]
    differences: tuple[Estimate, ...]
    first: int | None
    lasting: int | None


def measures(benchmark: Benchmark) -> tuple[str, ...]:
    """What is measured on a set; top-5 not under five classes."""
    if benchmark.task == "retrieval":
        return RETRIEVAL_MEASURES
    return CLASSIFICATION_MEASURES if benchmark.has_top5 else CLASSIFICATION_MEASURES[:1]


def chance(results: Results, benchmark: Benchmark, measure: str) -> float:
    """Accuracy of guessing under a measure."""
    return min(1.0, results.chance(benchmark) * int(measure[-1]))


def _accuracy(results: Results, arm: str, position: int, benchmark: Benchmark, measure: str) -> Floats:
    hits, unit = results.hits(arm, position, benchmark, measure)
    return np.asarray(hits.mean(axis=1) * unit)


def _curve(results: Results, arm: Arm, members: list[Benchmark], measure: str) -> Curve:
    positions = range(len(results.checkpoints[arm.name])) if arm.pretrains else [results.last(arm.name)]
    accuracy = np.array(
        [np.mean([_accuracy(results, arm.name, p, b, measure) for b in members], axis=0) for p in positions]
    ).T
    source = arm.name if arm.pretrains or arm.start == "draw" else arm.start
    points = results.checkpoints[source] if arm.pretrains else results.checkpoints[source][-1:]
    return Curve(tuple(p.samples for p in points), tuple(p.epoch for p in points), accuracy, arm.pretrains)


def charts(results: Results) -> tuple[Chart, ...]:
    suite = results.suite
    groups: list[tuple[str, list[Benchmark], tuple[str, ...]]] = [
        (family, list(suite.members(family)), CLASSIFICATION_MEASURES) for family in suite.families
    ]
    groups += [(b.id, [b], RETRIEVAL_MEASURES) for b in suite.retrieval]
    return tuple(
        chart(results, name, members, measure)
        for name, benchmarks, shown in groups
        for measure in shown
        if (members := [b for b in benchmarks if measure in measures(b)])
    )


def chart(results: Results, name: str, members: list[Benchmark], measure: str) -> Chart:
    curves = {arm: _curve(results, results.arms[arm], members, measure) for arm in results.arms}
    fits = _fits(results, curves) if members[0].task == "classification" else {}
    return Chart(name, measure, float(np.mean([chance(results, b, measure) for b in members])), curves, fits)


def _fits(results: Results, curves: Mapping[str, Curve]) -> dict[str, scaling.Fit]:
    along = {arm: curve for arm, curve in curves.items() if curve.along}
    base = None
    if results.baseline in along:
        base = scaling.fit(along[results.baseline].samples, along[results.baseline].accuracy)
    found = {}
    for arm, curve in along.items():
        fitted = scaling.fit(curve.samples, curve.accuracy, None if arm == results.baseline else base)
        if fitted:
            found[arm] = fitted
    return found


def emergence(results: Results, arm: str) -> Emergence:
    benchmark = results.suite.headline
    base = {p.epoch: number for number, p in enumerate(results.checkpoints[results.baseline])}
    points, differences = [], []
    for number, point in enumerate(results.checkpoints[arm]):
        if point.epoch not in base or not results.arms[results.baseline].pretrains:
            continue
        points.append(point)
        differences.append(
            results.estimator.paired(
                results.hits(arm, number, benchmark, "top1")[0],
                results.hits(results.baseline, base[point.epoch], benchmark, "top1")[0],
                f"{benchmark.id}/top1/{arm}-{results.baseline}/epoch {point.epoch}",
            ).estimate()
        )
    signs = [d.sign for d in differences]
    first = next((p.epoch for p, s in zip(points, signs, strict=True) if s), None)
    lasting = None
    for point, sign in zip(reversed(points), reversed(signs), strict=True):
        if not sign or sign != signs[-1]:
            break
        lasting = point.epoch
    return Emergence(
        tuple(p.epoch for p in points), tuple(p.samples for p in points), tuple(differences), first, lasting
    )
