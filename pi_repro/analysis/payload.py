"""What the interactive page computes with: every value of every seed, and how items vary and move together.

Rule: the page's own arithmetic gives the report's intervals for any choice of seeds. An interval (intervals.py) needs
of its items their number and their covariance matrix over seeds alone, so the page holds that instead of items: with
k seeds chosen, whose covariances sum to s and whose variances sum to v,
    items + rest = s / (k^2 n),    rest = (v - s / k) / ((k - 1) k n)
Numbers have six significant digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from . import charts
from .effects import MARGINS, Pair, pair
from .findings import Findings
from .results import MEASURE_TITLES, Results
from .statistics import LEVEL, Floats
from .style import Look
from .suite import Benchmark

MARGIN_TITLES = {"i2t_margin": "image→text margin", "t2i_margin": "text→image margin"}

Json = dict[str, Any]


def payload(results: Results, findings: Findings, known: Mapping[str, Look]) -> Json:
    """All of it, ready for JSON; `known` gives each arm its marker, and by its order its colour."""
    suite = results.suite
    guessed = {row.name for row in findings.rows if row.at_chance and set(row.at_chance) == set(row.arms)}
    sizes: set[int] = set()
    differences: Json = {}
    for arm in results.others:
        differences[arm.name] = {
            b.id: {m: _compared(pair(results, arm.name), b, m, sizes) for m in measures(results, b)}
            for b in suite.benchmarks
        }
    epochs = {len(pair(results, arm.name).epochs) for arm in results.others} - {0}
    seeds = len(results.seeds)
    return {
        "arms": [_arm(results, name, look, place) for place, (name, look) in enumerate(known.items())],
        "baseline": results.baseline,
        "differences": differences,
        "families": list(suite.families),
        "headline": suite.headline.id,
        "measures": [[m, title] for m, title in _titles(results).items()],
        "quantiles": _quantiles(LEVEL, sizes, seeds),
        # Those of intervals that hold at so many epochs together.
        "joint": {str(n): _quantiles(1 - (1 - LEVEL) / n, sizes, seeds) for n in sorted(epochs)},
        "seeds": list(results.seeds),
        "sets": [_set(results, b, b.id in guessed) for b in suite.benchmarks],
        "values": {
            name: {b.id: {m: _values(results, name, b, m) for m in measures(results, b)} for b in suite.benchmarks}
            for name in results.arms
        },
    }


def _quantiles(level: float, sizes: set[int], seeds: int) -> Json:
    tail = (1 + level) / 2
    return {
        "items": {str(n): _round(float(special.stdtrit(n - 1, tail))) for n in sorted(sizes) if n > 1},
        "normal": _round(float(special.ndtri(tail))),
        "seeds": [_round(float(special.stdtrit(k, tail))) for k in range(1, max(2, seeds))],
    }


def embedded(content: Json) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def measures(results: Results, benchmark: Benchmark) -> tuple[str, ...]:
    """What the page shows of a set: also margins of all queries, where evaluation recorded them."""
    found = charts.measures(benchmark)
    return (*found, *MARGINS) if benchmark.task == "retrieval" and _margins(results) else found


def _titles(results: Results) -> dict[str, str]:
    """Measures that some set has."""
    known = MEASURE_TITLES | MARGIN_TITLES
    found = {measure for b in results.suite.benchmarks for measure in measures(results, b)}
    return {measure: title for measure, title in known.items() if measure in found}


def _margins(results: Results) -> bool:
    return bool(results.suite.retrieval) and all(
        results.has_array(arm, results.last(arm), b.id, array)
        for arm in results.arms
        for b in results.suite.retrieval
        for array in MARGINS.values()
    )


def _arm(results: Results, name: str, look: Look, place: int) -> Json:
    arm = results.arms[name]
    along = arm.pretrains
    # An arm that only finetunes stands where its start arm ended.
    source = name if along or arm.start == "draw" else arm.start
    points = results.checkpoints[source] if along else results.checkpoints[source][-1:]
    return {
        "along": along,
        "description": arm.description,
        "epochs": [p.epoch for p in points],
        "common": list(pair(results, name).epochs) if name != results.baseline else [],
        "marker": look.marker,
        "name": name,
        "pairs": [p.samples for p in points],
        "place": place,
    }


def _set(results: Results, benchmark: Benchmark, guessed: bool) -> Json:
    return {
        "chance": {m: _round(charts.chance(results, benchmark, m)) for m in charts.measures(benchmark)},
        "counted": benchmark.task == "classification" and benchmark.disjoint,
        "family": benchmark.family,
        "guess": guessed,
        "id": benchmark.id,
        "n": benchmark.n,
        "task": benchmark.task,
        "title": benchmark.title,
    }


def _values(results: Results, arm: str, benchmark: Benchmark, measure: str) -> list[list[float]]:
    """Of each shown checkpoint, each seed."""
    alone = pair(results, arm)
    epochs: Sequence[int | None] = alone.arm.epochs or [None]
    found = []
    for epoch in epochs:
        scores = alone.scores(alone.arm, benchmark, measure, epoch)
        kept = scores[:, np.isfinite(scores).all(axis=0)]
        found.append([_round(float(value)) for value in kept.mean(axis=1)])
    return found


def _compared(pairing: Pair, benchmark: Benchmark, measure: str, sizes: set[int]) -> Json:
    """Differences at every common epoch, and at the end where that is another checkpoint."""
    along = [_difference(pairing.items(benchmark, measure, epoch), sizes) for epoch in pairing.epochs]
    ends = [side.epochs[-1:] for side in (pairing.arm, pairing.other)]
    same = bool(pairing.epochs) and all(end == (pairing.epochs[-1],) for end in ends)
    return {"along": along, "end": along[-1] if same else _difference(pairing.items(benchmark, measure), sizes)}


def _difference(items: Floats, sizes: set[int]) -> Json:
    """[S, n] differences -> their number, each seed's mean, and the upper triangle of the seeds' covariances."""
    seeds, n = items.shape
    sizes.add(n)
    rows = items - items.mean(axis=1, keepdims=True)
    table = rows @ rows.T / max(1, n - 1)
    upper = [_round(float(table[i, j])) for i, j in _pairs(seeds)]
    return {"c": upper, "n": n, "s": [_round(float(value)) for value in items.mean(axis=1)]}


def _pairs(seeds: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(seeds) for j in range(i, seeds))


def _round(value: float) -> float:
    return float(f"{value:.6g}")
