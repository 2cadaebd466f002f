"""Two arms side by side, of one experiment or of two: every set with its interval, and the wins that count.

Rule: only what is paired is compared: seeds that both have, and sets whose items are the same on both sides; what is
left out is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi_repro.errors import StateError

from . import hypotheses, inference
from .effects import Pair, Side, measured
from .inference import Contest
from .results import MEASURE_TITLES
from .statistics import Estimate
from .suite import Benchmark

#: Shown for each kind of set.
MEASURES = {"classification": ("top1", "top5"), "retrieval": ("i2t_r1", "t2i_r1")}


@dataclass(frozen=True)
class Line:
    """One measure of one set, or its mean over sets.

    Attributes:
        title: the set's, or the family's.
        family: where it belongs.
        measure: as people call it.
        values: mean over the common seeds of the one, and of the other.
        difference: the one minus the other, with its 95 % interval.
        p: of no difference.
        holm: adjusted for all lines of the same measure; None for a mean.
        chance: whether neither side can be told from chance.
    """

    title: str
    family: str
    measure: str
    values: tuple[float, float]
    difference: Estimate
    p: float
    holm: float | None
    chance: bool


@dataclass(frozen=True)
class Compared:
    """What came of it.

    Attributes:
        names: of the two, as they were given.
        seeds: those that both have.
        lines: set by set.
        means: of each family, and of all counted sets.
        contest: wins, tests and power over the counted sets.
        left_out: sets that aren't the same on both sides.
    """

    names: tuple[str, str]
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    means: tuple[Line, ...]
    contest: Contest
    left_out: tuple[str, ...]


def compare(one: Side, two: Side, names: tuple[str, str]) -> Compared:
    """Compare two arms at their last checkpoints.

    Raises:
        StateError: they have no seed or no counted classification set in common.
    """
    pair = Pair(one, two)
    if not pair.seeds:
        raise StateError(
            "no seed in common, so nothing is paired",
            given=f"{one.results.seeds} and {two.results.seeds}",
            todo="`pirepro verify EXPERIMENT --statistical` compares groups of runs without pairs",
        )
    shared, left_out = _shared(pair)
    counted = [b for b in shared if b.task == "classification" and b.disjoint]
    if not counted:
        raise StateError("no classification set in common", given=", ".join(left_out))
    contest = inference.contest_over(pair, counted)
    guesses = {row.bout.name for row in contest.sets if not any(row.bout.above)}
    lines = [line for measure in MEASURE_TITLES for line in _lines(pair, shared, measure, guesses)]
    families = list(dict.fromkeys(b.family for b in counted))
    groups = [(family, [b for b in counted if b.family == family]) for family in families]
    means = [
        _line(pair, title, title, members, measure, None, False)
        for measure in MEASURES["classification"]
        for title, everything in [*groups, ("all counted sets", counted)]
        if (members := [b for b in everything if measured(b, measure)])
    ]
    return Compared(names, pair.seeds, tuple(lines), tuple(means), contest, tuple(left_out))


def _shared(pair: Pair) -> tuple[list[Benchmark], list[str]]:
    """Sets of the first suite that are the same on both sides, and the ids of all others."""
    theirs = {b.id for b in pair.other.results.suite.benchmarks}
    shared: list[Benchmark] = []
    left_out: list[Benchmark] = []
    for benchmark in pair.arm.results.suite.benchmarks:
        same = benchmark.id in theirs and len({_items(side, benchmark) for side in (pair.arm, pair.other)}) == 1
        (shared if same else left_out).append(benchmark)
    ours = {b.id for b in pair.arm.results.suite.benchmarks}
    return shared, [b.id for b in left_out] + sorted(theirs - ours)


def _items(side: Side, benchmark: Benchmark) -> str:
    record = side.results.record(side.arm, side.results.seeds[0], side.at(None), benchmark.id)
    return str(record["dataset_sha256"])


def _lines(pair: Pair, shared: list[Benchmark], measure: str, guesses: set[str]) -> list[Line]:
    members = [b for b in shared if measure in MEASURES[b.task] and measured(b, measure)]
    found = [_line(pair, b.title, b.family, [b], measure, 1.0, b.id in guesses) for b in members]
    adjusted = hypotheses.holm([line.p for line in found])
    return [Line(**{**vars(line), "holm": p}) for line, p in zip(found, adjusted, strict=True)]


def _line(
    pair: Pair, title: str, family: str, members: list[Benchmark], measure: str, holm: float | None, chance: bool
) -> Line:
    part = pair.mean(members, measure)
    values = [float(pair.accuracy(side, members, measure, [None]).mean()) for side in (pair.arm, pair.other)]
    return Line(
        title=title,
        family=family,
        measure=MEASURE_TITLES[measure],
        values=(values[0], values[1]),
        difference=part.estimate(),
        p=part.p(),
        holm=holm,
        chance=chance,
    )
