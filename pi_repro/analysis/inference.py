"""Everything that can be said of two arms beyond their difference: tests, gated wins, onsets, forms, power.

Rule: each arm is compared with the baseline over the sets that share no item (those counted as wins), at the last
checkpoint; what rests on seeds stands apart from what takes sets as independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import charts, claims, gating, hypotheses, intervals, laws, power, tradeoff
from .claims import Judged
from .effects import Pair, measured, pair, since
from .emergence import Onset
from .findings import Findings
from .hypotheses import Outcome
from .laws import Rivals
from .power import Need
from .results import Results
from .statistics import Estimate
from .suite import Benchmark
from .tradeoff import Tradeoff

#: Differences in mean top-1, percentage points, for which seeds are counted.
EFFECTS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class SetTest:
    """An arm against the other on one set, top-1.

    Attributes:
        bout: the difference, chance, and who is above it.
        p: of no difference, over new seeds and images.
        holm: adjusted for all sets (family-wise error).
        bh: adjusted for all sets (false discovery rate).
    """

    bout: gating.Bout
    p: float
    holm: float
    bh: float


@dataclass(frozen=True)
class Contest:
    """One arm against another over the counted sets.

    Attributes:
        sets: set by set.
        count: wins raw, gated and split.
        mean: mean difference in top-1, sets as given.
        over_sets: the same as if the sets were drawn from more like them.
        by_seeds: tests that rest on seeds: mean difference, number of wins.
        by_sets: tests that take sets as independent; their p are too small.
        effective: to how many independent sets they amount; None where too few seeds tell.
        wins: expected wins of a seed, with its interval over seeds.
        needs: seeds to see some differences in mean top-1 (percentage points).
        detectable: what these seeds see with 80 % power, percentage points; None of one seed.
    """

    sets: tuple[SetTest, ...]
    count: gating.Count
    mean: Estimate
    over_sets: Estimate
    by_seeds: tuple[Outcome, ...]
    by_sets: tuple[Outcome, ...]
    effective: float | None
    wins: Estimate
    needs: tuple[Need, ...]
    detectable: float | None


@dataclass(frozen=True)
class Inference:
    """All of it, for the report.

    Attributes:
        contests: arm -> against the baseline.
        onsets: arm -> set -> from when on its top-1 gain lasts; the arms that pretrain.
        rivals: (family, measure, arm) -> power law against saturating form, where there are checkpoints enough.
        claims: verdicts.
        tradeoff: settings of alignment after pretraining, where there are several; the one chosen stands for it.
    """

    contests: Mapping[str, Contest]
    onsets: Mapping[str, Mapping[str, Onset]]
    rivals: Mapping[tuple[str, str, str], Rivals]
    claims: tuple[Judged, ...]
    tradeoff: Tradeoff | None

    @property
    def posthoc(self) -> str | None:
        """The arm that stands for alignment after pretraining where it was chosen among several."""
        return self.tradeoff.chosen if self.tradeoff else None

    def by_seeds(self, arm: str) -> tuple[Outcome, ...]:
        """An arm's tests that rest on seeds, the first also as one of as many comparisons as there are arms."""
        first, *others = self.contests[arm].by_seeds
        adjusted = hypotheses.holm([one.by_seeds[0].p for one in self.contests.values()])
        p = dict(zip(self.contests, adjusted, strict=True))[arm]
        return first, Outcome(f"{first.name}, adjusted for all arms (Holm)", p, first.units), *others


def infer(settings: Mapping[str, Any], results: Results, findings: Findings) -> Inference:
    """Compute it."""
    along = [arm.name for arm in results.others if arm.pretrains]
    grid = tradeoff.tradeoff(settings, results)
    return Inference(
        contests={arm.name: contest(pair(results, arm.name)) for arm in results.others},
        onsets={arm: _onsets(pair(results, arm)) for arm in along if pair(results, arm).epochs},
        rivals=_rivals(findings),
        claims=claims.of_settings(settings, results, grid.chosen if grid else None),
        tradeoff=grid,
    )


def contest(pairing: Pair) -> Contest:
    """Compare two arms over the counted sets of the first one's suite.

    Raises:
        StateError: they were not judged on the same items, or share no seed.
    """
    counted = [b for b in pairing.arm.results.suite.classification if b.disjoint]
    return contest_over(pairing, counted)


def contest_over(pairing: Pair, counted: list[Benchmark]) -> Contest:
    """The same over some sets."""
    parts = [pairing.part(b, "top1") for b in counted]
    bouts = [pairing.bout(b) for b in counted]
    ps = [one.p() for one in parts]
    whole, table = intervals.mean(parts), np.stack([one.seeds for one in parts], axis=1)
    wins = np.array(gating.wins_of_seeds(table))
    over_sets = table.mean(axis=0)
    points = 100 * whole.seeds
    spread = float(points.std(ddof=1)) if len(points) > 1 else 0.0
    return Contest(
        sets=tuple(
            SetTest(*row) for row in zip(bouts, ps, hypotheses.holm(ps), hypotheses.benjamini_hochberg(ps), strict=True)
        ),
        count=gating.count(bouts),
        mean=whole.estimate(),
        over_sets=intervals.over_sets(parts),
        by_seeds=(
            Outcome("mean difference, new seeds and images", whole.p(), len(points)),
            _named("mean difference", hypotheses.paired_t(whole.seeds)),
            _named("mean difference", hypotheses.sign_flip(whole.seeds, "mean top-1")),
            _named("wins above half", hypotheses.paired_t(wins - len(counted) / 2)),
        ),
        by_sets=(
            hypotheses.sign(np.where(np.abs(over_sets) > gating.TIE, over_sets, 0.0)),
            hypotheses.wilcoxon(np.where(np.abs(over_sets) > gating.TIE, over_sets, 0.0)),
        ),
        effective=hypotheses.effective_sets(table),
        wins=intervals.counts(wins).estimate(),
        needs=power.needs(points, EFFECTS) if spread else (),
        detectable=power.detectable(len(points), spread) if spread else None,
    )


def _named(what: str, tested: Outcome) -> Outcome:
    return Outcome(f"{what}, {tested.name}", tested.p, tested.units)


def _onsets(pairing: Pair) -> dict[str, Onset]:
    suite = pairing.arm.results.suite
    return {b.id: since(pairing, b, "top1") for b in suite.classification if measured(b, "top1")}


def _rivals(findings: Findings) -> dict[tuple[str, str, str], Rivals]:
    found = {}
    for chart in findings.charts:
        if chart.measure not in charts.CLASSIFICATION_MEASURES:
            continue
        for arm, curve in chart.curves.items():
            label = f"{chart.name}/{chart.measure}/{arm}"
            if curve.along and (both := laws.rivals(curve.samples, curve.accuracy, label)):
                found[chart.name, chart.measure, arm] = both
    return found
