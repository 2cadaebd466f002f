"""Probes as rows: what weights are like inside, by arm and epoch, over seeds.

Rule: a row is one measure of one probe at one checkpoint; its value is the mean over seeds with Student's t interval
over new seeds (none from a single one), and its difference is paired by seed with the baseline at the same epoch of its
own pretraining. 2AFC is the evaluation's, judged there and not again.

Columns of `table`:
    arm, stage, epoch    of the checkpoint; epochs of that stage
    probe                features, distance, linear, rsa, sharpness, two_afc
    on                   the set, the 2AFC split, or (distance) the group of weights
    against              draw, start (where the stage began), twin (the baseline at this epoch), a matrix; else empty
    measure              see `_measures`
    value, low, high     over seeds; empty where a measure is undefined for one of them
    difference, difference_low, difference_high
    seed K               one column a seed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pi_repro.errors import StateError
from pi_repro.files import read_json
from pi_repro.spec.experiment import WHOLE

from .results import PROBES, Results
from .statistics import over_seeds
from .tables import Cell, Table, bounds, cells

INDEX = "probes.json"
HEADER = (
    *("arm", "stage", "epoch", "probe", "on", "against", "measure", "value", "low", "high"),
    *("difference", "difference_low", "difference_high"),
)
_SPECTRUM = ("effective_rank", "participation_ratio", "first_share", "mean_cosine")
_LIKENESS = ("cka", "cka_debiased", "rsa_spearman")


class Measure(NamedTuple):
    """Which number of which probe."""

    probe: str
    on: str
    against: str
    name: str


class Point(NamedTuple):
    """One checkpoint of an arm."""

    stage: str
    epoch: int


#: One value a seed, None where it is undefined.
Values = list[float | None]


def table(results: Results) -> Table:
    """Every probe of every arm, in the order of the arms, their stages and epochs.

    Raises:
        StateError: probes are missing, of other checkpoints than another seed's, or of other weights than were judged.
    """
    found = {arm: _arm(results, arm) for arm in results.arms}
    base = {
        (point.epoch, measure): values
        for point, measures in found[results.baseline].items()
        if point.stage in WHOLE
        for measure, values in measures.items()
    }
    rows = []
    for arm, points in found.items():
        for point, measures in points.items():
            for measure, values in measures.items():
                twin = base.get((point.epoch, measure)) if arm != results.baseline and point.stage in WHOLE else None
                difference = None if twin is None else [_less(a, b) for a, b in zip(values, twin, strict=True)]
                rows.append(cells(arm, *point, *measure, *_spread(values), *_spread(difference), *values))
    return Table("probes", (*HEADER, *(f"seed {seed}" for seed in results.seeds)), tuple(rows))


def _arm(results: Results, arm: str) -> dict[Point, dict[Measure, Values]]:
    """Checkpoint -> measure -> values of the seeds."""
    found: dict[Point, dict[Measure, Values]] = {}
    for number, seed in enumerate(results.seeds):
        folder = results.folder / PROBES / f"{arm}-s{seed}"
        lines = read_json(folder / INDEX)["checkpoints"]
        points = {Point(line["stage"], line["epoch"]): line for line in lines}
        if number and list(points) != list(found):
            raise StateError(
                f"probes are of other checkpoints than those of seed {results.seeds[0]}",
                where=str(folder),
                todo="probe them again",
            )
        for point, line in points.items():
            _same_weights(results, arm, number, point, line, str(folder))
            for name in line["probes"]:
                record = read_json(folder / line["folder"] / f"{name}.json")
                for measure, value in _measures(record):
                    found.setdefault(point, {}).setdefault(measure, []).append(value)
            found.setdefault(point, {})
    for point, measures in found.items():
        measures |= _two_afc(results, arm, point)
    short = [
        measure for measures in found.values() for measure, values in measures.items() if len(values) != _n(results)
    ]
    if short:
        raise StateError(
            "a probe is missing for some seeds", where=str(results.folder / PROBES), given=f"{arm}: {short[0]}"
        )
    return found


def _n(results: Results) -> int:
    return len(results.seeds)


def _same_weights(results: Results, arm: str, number: int, point: Point, line: Mapping[str, Any], where: str) -> None:
    """What was probed at the end is what was judged at the end."""
    last = results.checkpoints[arm][-1].epoch
    if point == (results.arms[arm].stages[-1], last) and line["sha256"] != results.weights[arm][number]:
        raise StateError(
            "probes are of other weights than the evaluation", where=where, given=line["sha256"],
            allowed=results.weights[arm][number],
        )  # fmt: skip


def _measures(record: Mapping[str, Any]) -> Iterator[tuple[Measure, float | None]]:
    probe = record["probe"]
    if probe == "features":
        for name in _SPECTRUM:
            yield Measure(probe, record["set"], "", name), record["spectrum"][name]
        for role, values in sorted(record["likeness"].items()):
            for name in _LIKENESS:
                yield Measure(probe, record["set"], role, name), values[name]
    elif probe == "distance":
        for role, content in sorted(record["to"].items()):
            for group in record["groups"]:
                yield Measure(probe, group, role, "relative_l2"), content["groups"][group]["relative"]
    elif probe == "linear":
        for name in ("acc1", "majority"):
            yield Measure(probe, record["set"], "", name), record[name]
    elif probe == "rsa":
        for name in ("spearman", "kendall_tau_a"):
            yield Measure(probe, record["set"], record["matrix"], name), record[name]
    elif probe == "sharpness":
        for name in ("loss", "gradient_norm"):
            yield Measure(probe, record["set"], "", name), record[name]
        for name in ("random_mean", "random_max", "ascent"):
            for radius, value in zip(record["radii"], record[name], strict=True):
                yield Measure(probe, record["set"], "", f"{name}@{radius:g}"), value


def _two_afc(results: Results, arm: str, point: Point) -> dict[Measure, Values]:
    """The evaluation's 2AFC at a checkpoint that it judged."""
    if point.stage != results.arms[arm].stages[-1]:
        return {}
    places = [n for n, checkpoint in enumerate(results.checkpoints[arm]) if checkpoint.epoch == point.epoch]
    return {
        Measure("two_afc", held.id, "", "two_afc"): [float(row.mean()) / 2 for row in results.two_afc(arm, place, held)]
        for place in places
        for held in results.held
    }


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _spread(values: Sequence[float | None] | None) -> tuple[Cell, Cell, Cell]:
    known = [value for value in values or () if value is not None]
    return bounds(over_seeds(np.array(known)) if values and len(known) == len(values) else None)
