"""Every number of a report as tables: long form, one value a row, for machines and for people with a spreadsheet.

Rule: accuracies are fractions, rounded to six digits; an empty cell is a number that does not exist.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .findings import Findings, Row
from .headline import checks
from .results import Results
from .statistics import Estimate

Cell = str | int | float | bool | None
DIGITS = 6
_BOUNDS = ("low", "high")


@dataclass(frozen=True)
class Table:
    """A named table with its header."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> bytes:
        """UTF-8 CSV with a header line and \\n ends."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return out.getvalue().encode()

    def records(self) -> list[dict[str, Cell]]:
        """One mapping a row, for JSON."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


def cells(*values: Cell) -> tuple[Cell, ...]:
    """A row, its numbers rounded."""
    return tuple(round(v, DIGITS) if isinstance(v, float) else v for v in values)


def bounds(estimate: Estimate | None) -> tuple[Cell, Cell, Cell]:
    """Value, low and high."""
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def tables(results: Results, findings: Findings) -> tuple[Table, ...]:
    """All tables."""
    seeds = tuple(f"seed {seed}" for seed in results.seeds)
    compared = ("accuracy", *_BOUNDS, "difference", "difference_low", "difference_high")
    names = {b.id: b for b in results.suite.benchmarks}
    sets = [
        cells(
            row.name, names[row.name].title, row.family, row.measure, names[row.name].n, names[row.name].classes,
            row.chance, names[row.name].disjoint, arm, *_compared(row, arm),
            arm in row.at_chance if row.measure == "top1" else None, *row.seeds[arm],
        )
        for row in findings.rows
        for arm in row.arms
    ]  # fmt: skip
    families = [
        cells(row.name, row.measure, row.sets, row.chance, arm, *_compared(row, arm), *row.seeds[arm])
        for row in findings.families
        for arm in row.arms
    ]
    wins = [cells(arm, findings.counted, w.wins, w.losses, w.ties, w.p) for arm, w in findings.wins.items()]
    emergence = [
        cells(results.suite.headline.id, arm, epoch, seen, *bounds(d), bool(d.sign))
        for arm, course in findings.emergence.items()
        for epoch, seen, d in zip(course.epochs, course.samples, course.differences, strict=True)
    ]
    return (
        Table(
            "sets",
            ("set", "title", "family", "measure", "n", "classes", "chance", "disjoint", "arm", *compared, "at_chance",
             *seeds),
            tuple(sets),
        ),
        Table("families", ("family", "measure", "sets", "chance", "arm", *compared, *seeds), tuple(families)),
        Table("wins", ("arm", "sets", "wins", "losses", "ties", "p"), tuple(wins)),
        Table("emergence", ("set", "arm", "epoch", "pairs", "difference", *_BOUNDS, "excludes_zero"), tuple(emergence)),
        Table("scaling", ("family", "measure", "arm", "beta", *_BOUNDS, "beta_difference", "beta_difference_low",
                          "beta_difference_high", "a", "r2", "points"), tuple(_scaling(findings))),
        Table("curves", ("group", "measure", "chance", "arm", "epoch", "pairs", *seeds), tuple(_curves(findings))),
        Table("two_afc", ("triplets", "split", "n", "pixel_error", "arm", "step", "two_afc", *_BOUNDS,
                          "minus_untrained", "minus_untrained_low", "minus_untrained_high"),
              tuple(_two_afc(findings))),
        Table("recorded", ("set", "arm", "seed", "epoch", "metric", "value"), tuple(_recorded(results))),
    )  # fmt: skip


def _compared(row: Row, arm: str) -> tuple[Cell, ...]:
    return (*bounds(row.arms[arm]), *bounds(row.differences.get(arm)))


def _scaling(findings: Findings) -> Iterator[tuple[Cell, ...]]:
    for chart in findings.charts:
        for arm, fit in chart.fits.items():
            yield cells(
                chart.name,
                chart.measure,
                arm,
                *bounds(fit.beta),
                *bounds(fit.difference),
                fit.scale,
                fit.r2,
                fit.points,
            )


def _curves(findings: Findings) -> Iterator[tuple[Cell, ...]]:
    for chart in (findings.headline_chart, *findings.charts):
        for arm, curve in chart.curves.items():
            for number, (epoch, seen) in enumerate(zip(curve.epochs, curve.samples, strict=True)):
                values = [float(v) for v in curve.accuracy[:, number]]
                yield cells(chart.name, chart.measure, chart.chance, arm, epoch, seen, *values)


def _two_afc(findings: Findings) -> Iterator[tuple[Cell, ...]]:
    for choice in findings.choices:
        fixed = (choice.held.data, choice.held.split, choice.n, choice.pixel)
        for arm, course in choice.courses.items():
            for step, estimate in course:
                against = choice.kept.get(arm) if step == course[-1][0] else None
                if step == "start":
                    against = choice.raised.get(arm)
                yield cells(*fixed, arm, step, *bounds(estimate), *bounds(against))


def _recorded(results: Results) -> Iterator[tuple[Cell, ...]]:
    """Every metric of every set as evaluated, at the last checkpoint."""
    for name in [b.id for b in results.suite.benchmarks] + [held.id for held in results.held]:
        for arm in results.arms:
            position = results.last(arm)
            epoch = results.checkpoints[arm][position].epoch
            for seed in results.seeds:
                for metric, value in sorted(results.record(arm, seed, position, name)["metrics"].items()):
                    yield cells(name, arm, seed, epoch, metric, value)


def metrics(results: Results, findings: Findings) -> dict[str, float | int]:
    """Flat numbers for `dvc metrics`."""
    found: dict[str, float | int | None] = {}

    def put(key: str, estimate: Estimate) -> None:
        found.update({key: estimate.value, f"{key}.low": estimate.low, f"{key}.high": estimate.high})

    for arm, choices in checks(results, findings).items():
        for choice in choices:
            put(f"check.{arm}.{choice.held.data}-{choice.held.split}.raised", choice.raised[arm])
    for arm, estimate in findings.headline.arms.items():
        put(f"headline.{arm}.top1", estimate)
        put(f"headline.{arm}.times_chance", findings.multiples[arm])
    for arm, estimate in findings.headline.differences.items():
        put(f"headline.{arm}.difference", estimate)
    for arm, wins in findings.wins.items():
        found |= {f"wins.{arm}.ahead": wins.wins, f"wins.{arm}.behind": wins.losses, f"wins.{arm}.p": wins.p}
    for row in (*findings.families, *findings.rows):
        kind = "family" if row in findings.families else "set"
        for arm, estimate in row.arms.items():
            found[f"{kind}.{row.name}.{row.measure}.{arm}"] = estimate.value
    for choice in findings.choices:
        for arm, course in choice.courses.items():
            found[f"two_afc.{choice.held.data}-{choice.held.split}.{arm}"] = course[-1][1].value
        found[f"two_afc.{choice.held.data}-{choice.held.split}.pixel_error"] = choice.pixel
    return {key: round(value, DIGITS) for key, value in found.items() if value is not None}


def by_name(made: Iterable[Table]) -> dict[str, list[dict[str, Cell]]]:
    """All tables in one mapping, for JSON."""
    return {table.name: table.records() for table in made}
