"""Recorded numbers of an experiment's seeds, and whether other runs of it come from the same distribution.

Rule: sameness has to be shown. A group of runs passes a metric when two one-sided Welch tests (TOST, 5 %) put its
mean within the recorded margin of the reference's: an unseen difference proves nothing when there are few seeds, which
is why a plain "not significantly different", as MLPerf's convergence check asks, would let any two seeds pass. It
fails as different when Welch's test, adjusted for all metrics (Holm), says so and the margin does not cover it; else
it is open, and more seeds would settle it. One run alone has no distribution: it passes inside the reference's 95 %
prediction interval (Holm), which is MLPerf's rule, or nearer than the least margin, as seeds that happen to agree (on
no right answer at all, say) leave such an interval no width. The margin is written down with the reference, before
there is anything to compare: one point, or what an honest rerun with as many seeds passes in all metrics together nine
times in ten, whichever is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import special

from pi_repro.errors import RequestError, StateError

from .hypotheses import groups, holm
from .results import Results
from .statistics import Estimate, Floats, generator

FORMAT = 1
ALPHA = 0.05
#: A reference of fewer seeds knows too little of its spread.
LEAST_SEEDS = 3
#: No margin is smaller: fractions, one percentage point.
LEAST_MARGIN = 0.01
#: How often an honest rerun passes.
HONEST = 0.9
_DRAWS = 40_000

Kind = Literal["equivalent", "different", "open", "within", "outside"]


@dataclass(frozen=True)
class Metric:
    """One metric of one arm.

    Attributes:
        values: of the reference's seeds.
        found: of the seeds here.
        difference: here minus reference, with Welch's 95 % interval.
        margin: recorded with the reference.
        p_different: adjusted for all metrics (Holm).
        p_equivalent: of a difference as large as the margin; None for one run.
        kind: what it came to.
    """

    arm: str
    name: str
    values: tuple[float, ...]
    found: tuple[float, ...]
    difference: Estimate
    margin: float
    p_different: float
    p_equivalent: float | None
    kind: Kind


@dataclass(frozen=True)
class Verified:
    """All metrics of an experiment, or of one run."""

    experiment: str
    metrics: tuple[Metric, ...]

    @property
    def kind(self) -> Kind:
        """The worst of all: different, then open, then equivalent."""
        kinds = {metric.kind for metric in self.metrics}
        order: tuple[Kind, ...] = ("different", "outside", "open", "within", "equivalent")
        return next(kind for kind in order if kind in kinds)

    @property
    def good(self) -> bool:
        """Whether sameness is shown, or for one run not refuted."""
        return self.kind in ("equivalent", "within")


def quantities(results: Results) -> dict[str, dict[str, Floats]]:
    """arm -> metric -> [S]: what is recorded of an experiment, at the last checkpoint, as fractions."""
    found: dict[str, dict[str, Floats]] = {}
    counted = [b for b in results.suite.classification if b.disjoint]
    for arm in results.arms:
        position = results.last(arm)

        def value(benchmark: Any, measure: str, arm: str = arm, position: int = position) -> Floats:
            hits, unit = results.hits(arm, position, benchmark, measure)
            return np.asarray(hits.mean(axis=1) * unit)

        tops = {b.id: value(b, "top1") for b in counted}
        rows = {f"top-1, {results.suite.headline.id}": value(results.suite.headline, "top1")}
        rows["top-1, mean over sets"] = np.mean(list(tops.values()), axis=0)
        for family in results.suite.families:
            if members := [tops[b.id] for b in results.suite.members(family) if b.id in tops]:
                rows[f"top-1, {family}"] = np.mean(members, axis=0)
        for measure, words in (("i2t_r1", "image to text R@1"), ("t2i_r1", "text to image R@1")):
            if results.suite.retrieval:
                rows[words] = np.mean([value(b, measure) for b in results.suite.retrieval], axis=0)
        for held in results.held:
            if held.split == "test":
                rows[f"2AFC, {held.data}"] = results.two_afc(arm, position, held).mean(axis=1) / 2
        found[arm] = rows
    return found


def record(experiment: str, results: Results) -> dict[str, Any]:
    """A reference, ready to be written as JSON.

    Raises:
        StateError: too few seeds.
    """
    seeds = len(results.seeds)
    if seeds < LEAST_SEEDS:
        raise StateError(
            "too few seeds to be a reference", where=experiment, given=seeds, allowed=f"{LEAST_SEEDS} or more"
        )
    found = quantities(results)
    number = sum(len(rows) for rows in found.values())
    names = dict.fromkeys(name for rows in found.values() for name in rows)
    bounds = {name: margins({arm: rows[name] for arm, rows in found.items() if name in rows}, number) for name in names}
    return {
        "format": FORMAT,
        "experiment": experiment,
        "seeds": list(results.seeds),
        "sets": _sets(results),
        "arms": {
            arm: {
                name: {"values": [float(v) for v in values], "margin": bounds[name][arm]}
                for name, values in rows.items()
            }
            for arm, rows in found.items()
        },
    }


def margins(rows: Mapping[str, Floats], metrics: int) -> dict[str, float]:
    """The margins of one metric for every arm that has it; see this module's rule.

    The spread is pooled over arms, which know more of it together. What an honest rerun reaches, |difference| plus the
    one-sided half interval, in units of that spread is a pivot: its distribution is simulated once, for normal seeds.

    Args:
        rows: arm -> [n] values of the seeds.
        metrics: how many metrics have to pass together; their misses are shared out evenly.
    """
    arms, n = len(rows), len(next(iter(rows.values())))
    spread = float(np.sqrt(np.mean([values.var(ddof=1) for values in rows.values()])))
    reach = float(np.quantile(_reaches(arms, n), 1 - (1 - HONEST) / metrics))
    return dict.fromkeys(rows, max(LEAST_MARGIN, reach * spread))


@cache
def _reaches(arms: int, n: int) -> Floats:
    """[_DRAWS] what an honest rerun of n seeds reaches, in units of a spread pooled over some arms of n seeds."""
    rng = generator("margin", str(arms), str(n))
    first, second = rng.standard_normal((2, _DRAWS, n))
    own = np.stack([first.var(axis=1, ddof=1), second.var(axis=1, ddof=1)])
    others = rng.chisquare((arms - 1) * (n - 1), _DRAWS) if arms > 1 else np.zeros(_DRAWS)
    pooled = np.sqrt((own[0] * (n - 1) + others) / (arms * (n - 1)))
    error = np.sqrt(own.sum(axis=0) / n)
    freedom = (n - 1) * own.sum(axis=0) ** 2 / (own**2).sum(axis=0)
    away = np.abs(first.mean(axis=1) - second.mean(axis=1))
    return np.asarray((away + special.stdtrit(freedom, 1 - ALPHA) * error) / pooled)


def verify(reference: Mapping[str, Any], where: str, experiment: str, results: Results) -> Verified:
    """Compare runs with a reference.

    Args:
        reference: as `record` gives it.
        where: its file, for messages.
        experiment: the name of the runs' experiment.
        results: the runs; arms that the reference lacks are left alone.

    Raises:
        StateError: the reference is damaged, or was recorded on other items.
        RequestError: it knows none of the arms.
    """
    try:
        if reference["format"] != FORMAT:
            raise StateError("a reference of another format", where=where, given=reference["format"])
        recorded, sets = reference["arms"], reference["sets"]
        known = {
            arm: {name: (np.array(row["values"], dtype=np.float64), float(row["margin"])) for name, row in rows.items()}
            for arm, rows in recorded.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError("no reference, or a damaged one", where=where, given=str(error)) from None
    if differing := sorted(name for name, sha in _sets(results).items() if sets.get(name) != sha):
        raise StateError("the reference was recorded on other items", where=where, given=", ".join(differing))
    arms = [arm for arm in results.arms if arm in known]
    if not arms:
        raise RequestError(
            "the reference knows none of the arms", where=where, given=", ".join(results.arms), allowed=", ".join(known)
        )
    found = quantities(results)
    rows = [
        (arm, name, *known[arm][name], found[arm][name]) for arm in arms for name in found[arm] if name in known[arm]
    ]
    tests = [groups(values, here, bound) for _, _, values, bound, here in rows]
    adjusted = holm([test.p_different for test in tests])
    metrics = []
    for (arm, name, values, bound, here), test, p in zip(rows, tests, adjusted, strict=True):
        alone = len(here) == 1
        kind: Kind
        if alone:
            kind = "outside" if p < ALPHA and abs(test.difference.value) >= LEAST_MARGIN else "within"
        else:
            kind = "equivalent" if test.p_equivalent < ALPHA else "different" if p < ALPHA else "open"
        metrics.append(
            Metric(arm, name, tuple(values.tolist()), tuple(here.tolist()), test.difference, bound, p,
                   None if alone else test.p_equivalent, kind)
        )  # fmt: skip
    return Verified(experiment, tuple(metrics))


def _sets(results: Results) -> dict[str, str]:
    """Set -> digest of its items."""
    arm, seed = next(iter(results.arms)), results.seeds[0]
    names = [b.id for b in results.suite.benchmarks] + [held.id for held in results.held]
    return {name: str(results.record(arm, seed, results.last(arm), name)["dataset_sha256"]) for name in names}
