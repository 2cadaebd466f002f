"""All numbers of a report, computed once; tables, figures and sentences only show them.

Rule: every comparison is with the baseline, paired by item and by seed, at the last checkpoint unless it
says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import charts, statistics
from .charts import CLASSIFICATION_MEASURES, Chart, Emergence
from .estimators import Spread
from .results import Arm, Held, Results
from .statistics import Estimate
from .suite import Benchmark


@dataclass(frozen=True)
class Row:
    """One measure of one set, or its mean over a family, at the last checkpoint.

    Attributes:
        arms: arm -> accuracy.
        seeds: arm -> accuracy of each seed.
        differences: arm -> arm minus baseline, without the baseline.
        chance: accuracy of guessing (mean over the sets of a family).
        at_chance: arms whose accuracy can't be told from chance (top-1 of one set only).
        sets: how many sets the row averages.
    """

    name: str
    family: str
    measure: str
    arms: Mapping[str, Estimate]
    seeds: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, Estimate]
    chance: float
    at_chance: tuple[str, ...]
    sets: int


@dataclass(frozen=True)
class Wins:
    """Sets on which an arm's top-1 is above, below or equal to the baseline's; p by exact sign test."""

    wins: int
    losses: int
    ties: int
    p: float


@dataclass(frozen=True)
class Choice:
    """2AFC on one split of one triplet set.

    Attributes:
        n: triplets.
        pixel: accuracy of pixel error on the same triplets.
        untrained: of the network as drawn; None when no arm was judged there.
        courses: arm -> [(step, estimate)], steps being "start", "epoch 4", ..., "finetuned".
        raised: arm with a stage 1 -> accuracy right after it minus the untrained network's.
        kept: arm -> accuracy at its end minus the untrained network's.
        learned: arm that only finetunes -> accuracy at its end minus that of the weights it began with.
    """

    held: Held
    n: int
    pixel: float
    untrained: Estimate | None
    courses: Mapping[str, tuple[tuple[str, Estimate], ...]]
    raised: Mapping[str, Estimate]
    kept: Mapping[str, Estimate]
    learned: Mapping[str, Estimate]


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows."""

    rows: tuple[Row, ...]
    families: tuple[Row, ...]
    wins: Mapping[str, Wins]
    counted: int
    guesses: tuple[str, ...]
    charts: tuple[Chart, ...]
    headline_chart: Chart
    emergence: Mapping[str, Emergence]
    choices: tuple[Choice, ...]
    headline: Row
    multiples: Mapping[str, Estimate]


def find(results: Results) -> Findings:
    """Compute everything."""
    samples = {
        (benchmark.id, measure): _at_end(results, benchmark, measure)
        for benchmark in results.suite.benchmarks
        for measure in charts.measures(benchmark)
    }
    rows = tuple(_row(results, [b], m, samples) for b in results.suite.benchmarks for m in charts.measures(b))
    families = tuple(
        _row(results, members, measure, samples, family)
        for measure in CLASSIFICATION_MEASURES
        for family in results.suite.families
        if (members := [b for b in results.suite.members(family) if measure in charts.measures(b)])
    )
    headline = next(r for r in rows if r.name == results.suite.headline.id and r.measure == "top1")
    counted = [b.id for b in results.suite.classification if b.disjoint]
    contest = [r for r in rows if r.measure == "top1" and r.name in counted]
    return Findings(
        rows=rows,
        families=families,
        wins={arm.name: _wins(arm, contest) for arm in results.others},
        counted=len(contest),
        guesses=tuple(r.name for r in contest if set(r.at_chance) == set(results.arms)),
        charts=charts.charts(results),
        headline_chart=charts.chart(results, results.suite.headline.id, [results.suite.headline], "top1"),
        emergence={a.name: charts.emergence(results, a.name) for a in results.others if a.pretrains},
        choices=tuple(_choice(results, held) for held in results.held),
        headline=headline,
        multiples={arm: e.scaled(1 / headline.chance) for arm, e in headline.arms.items()},
    )


Samples = dict[tuple[str, str], dict[str, tuple[Spread, Spread]]]


def _at_end(results: Results, benchmark: Benchmark, measure: str) -> dict[str, tuple[Spread, Spread]]:
    """arm -> (its accuracy, its difference to the baseline)."""
    label = f"{benchmark.id}/{measure}"
    base, _ = results.hits(results.baseline, results.last(results.baseline), benchmark, measure)
    found = {}
    for arm in results.arms:
        hits, unit = results.hits(arm, results.last(arm), benchmark, measure)
        found[arm] = (
            results.estimator.sample(hits, f"{label}/{arm}", unit),
            results.estimator.paired(hits, base, f"{label}/{arm}-{results.baseline}", unit),
        )
    return found


def _row(results: Results, members: list[Benchmark], measure: str, samples: Samples, family: str = "") -> Row:
    name = family or members[0].id
    own = {arm: results.estimator.average([samples[b.id, measure][arm][0] for b in members]) for arm in results.arms}
    paired = {
        arm.name: results.estimator.average([samples[b.id, measure][arm.name][1] for b in members])
        for arm in results.others
    }
    chance = float(np.mean([charts.chance(results, b, measure) for b in members]))
    guessing: tuple[str, ...] = ()
    if measure == "top1" and not family:
        guessing = tuple(a for a, s in own.items() if statistics.at_chance(s.value, members[0].n, chance))
    return Row(
        name=name,
        family=members[0].family,
        measure=measure,
        arms={arm: sample.estimate().within(0, 1) for arm, sample in own.items()},
        seeds={arm: tuple(float(v) for v in sample.seeds) for arm, sample in own.items()},
        differences={arm: sample.estimate() for arm, sample in paired.items()},
        chance=chance,
        at_chance=guessing,
        sets=len(members),
    )


def _wins(arm: Arm, contest: list[Row]) -> Wins:
    # Accuracies are means of whole numbers over one count: equal ones may differ in the last bit.
    signs = [round(row.differences[arm.name].value, 12) for row in contest]
    wins, losses = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
    return Wins(wins, losses, len(signs) - wins - losses, statistics.sign_test(wins, losses))


def _untrained_arm(results: Results) -> str | None:
    """An arm whose first checkpoint is the network as drawn; all arms of a seed share that draw."""
    for name in (results.baseline, *results.arms):
        arm = results.arms[name]
        if arm.stages == ("pretrain",) and results.checkpoints[name][0].epoch == 0:
            return name
    return None


def _choice(results: Results, held: Held) -> Choice:
    drawn = _untrained_arm(results)
    raw = results.two_afc(drawn, 0, held) if drawn else None
    courses, raised, kept, learned = {}, {}, {}, {}
    for name, arm in results.arms.items():
        steps = []
        for number, point in enumerate(results.checkpoints[name]):
            scores = results.two_afc(name, number, held)
            step = ("start" if not point.epoch else f"epoch {point.epoch}") if arm.pretrains else "finetuned"
            if not arm.pretrains and number < results.last(name):
                continue
            label = f"{held.id}/{name}/{step}"
            steps.append((step, results.estimator.sample(scores, label, 0.5).estimate().within(0, 1)))
            if not arm.pretrains:
                began = results.two_afc(name, 0, held)
                learned[name] = results.estimator.paired(scores, began, f"{label}/learned", 0.5).estimate()
            if raw is None:
                continue
            if point.epoch == 0 and arm.pretrains and "initialize" in arm.stages:
                raised[name] = results.estimator.paired(scores, raw, f"{label}/raised", 0.5).estimate()
            if number == results.last(name):
                kept[name] = results.estimator.paired(scores, raw, f"{label}/kept", 0.5).estimate()
        courses[name] = tuple(steps)
    pixel = results.two_afc(results.baseline, 0, held, "pixel")
    untrained = None
    if raw is not None:
        untrained = results.estimator.sample(raw, f"{held.id}/untrained", 0.5).estimate().within(0, 1)
    return Choice(held, pixel.shape[1], float(pixel[0].mean()) / 2, untrained, courses, raised, kept, learned)
