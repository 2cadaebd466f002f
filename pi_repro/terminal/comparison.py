"""Two arms side by side, and runs against a reference, on a terminal. Computes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .show import line

if TYPE_CHECKING:
    from pi_repro.launch.outcomes import Compared, Metric, Verified

_KINDS = {
    "equivalent": "statistically the same: every mean lies within its recorded margin of the reference's",
    "different": "different: a mean is away from the reference's by more than seeds explain",
    "open": "open: no difference is established, and sameness is not shown either",
    "within": "one run, inside the reference's 95 % prediction interval in every metric",
    "outside": "one run, outside the reference's 95 % prediction interval",
}
_STYLES = {"equivalent": "green", "within": "green", "open": "yellow", "different": "red", "outside": "red"}


def compared(found: Any) -> None:
    """One comparison: sets, means, wins."""
    result: Compared = found
    one, two = result.names
    seeds = ", ".join(map(str, result.seeds))
    line(f"{one} minus {two}, last checkpoint, seed{'s' if len(result.seeds) > 1 else ''} {seeds}")
    short = [name.partition("/")[2] for name in result.names]
    heads = short if short[0] != short[1] else list(result.names)
    for measure in dict.fromkeys(row.measure for row in (*result.lines, *result.means)):
        table = _table(measure, *heads, "difference", "p", "Holm")
        for row in [r for r in result.lines if r.measure == measure]:
            name = Text(row.title + (" (at chance)" if row.chance else ""), style="dim" if row.chance else "")
            table.add_row(name, *_numbers(row), _p(row.p), _p(row.holm))
        for row in [r for r in result.means if r.measure == measure]:
            table.add_row(Text(f"mean, {row.title}", style="bold"), *_numbers(row), _p(row.p), "")
        _console().print(table)
    for text in _wins(result):
        line(text)
    if result.left_out:
        line(f"left out, not the same on both sides: {', '.join(result.left_out)}")


def _numbers(row: Any) -> list[Text]:
    difference = row.difference
    interval = "" if difference.low is None else f" [{_points(difference.low)}, {_points(difference.high)}]"
    style = {1: "green", -1: "red"}.get(difference.sign, "")
    values = [Text(f"{100 * value:.1f}", justify="right") for value in row.values]
    return [*values, Text(f"{_points(difference.value)}{interval}", style=style, justify="right")]


def _wins(result: Compared) -> Iterator[str]:
    contest = result.contest
    raw, gated = contest.count.raw, contest.count.gated
    yield f"wins: {raw.wins} of {raw.sets} counted sets, {raw.losses} lost, {raw.ties} tied; sign test p = {raw.p:.2g}"
    yield (
        f"  gated: {gated.wins} of {gated.sets}; {gated.dropped} left out, whose winner can't be told from chance; "
        f"p = {gated.p:.2g}"
    )
    for kind, tally in contest.count.split.items():
        if kind != "not listed":
            yield f"  gated, overlap with NIGHTS's categories {kind}: {tally.wins} of {tally.sets}"
    if contest.effective is not None:
        yield (
            f"  the sets move together from seed to seed like about {contest.effective:.1f} independent ones: "
            "a sign test over sets gives too small a p"
        )
    for test in contest.by_seeds:
        yield f"{test.name}: p = {test.p:.2g} ({test.units} seeds)"
    if contest.detectable is not None:
        points = f"{contest.detectable:.2g} points"
        yield f"these seeds would see a difference of {points} in the mean over sets four times in five"
    else:
        yield "one seed: intervals and p are over items alone"


def verified(found: Any) -> bool:
    """Runs against a reference; True when sameness is shown."""
    result: Verified = found
    line(f"{result.experiment}: {_KINDS[result.kind]}")
    table = _table("arm", "metric", "reference", "here", "difference", "margin", "verdict")
    for row in result.metrics:
        table.add_row(row.arm, row.name, *_group(row), Text(row.kind, style=_STYLES[row.kind]))
    _console().print(table)
    if result.kind == "open":
        line("to do: run more seeds; the margin stands in the reference, and is not to be moved after looking")
    elif not result.good:
        line("to do: look at the arms above; `pirepro diff` and `pirepro verify STAGE` find where two executions part")
    return result.good


def _group(row: Metric) -> list[Text]:
    low, high = row.difference.low, row.difference.high
    interval = "" if low is None or high is None else f" [{_points(low)}, {_points(high)}]"
    cells = (
        _mean(row.values),
        _mean(row.found),
        f"{_points(row.difference.value)}{interval}",
        f"{100 * row.margin:.2f}",
    )
    return [Text(cell, justify="right") for cell in cells]


def _mean(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.2f} ({len(values)})"


def _table(*header: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(header):
        # On a narrow screen names of sets are folded, never a number with its interval.
        justify: Literal["left", "right"] = "right" if name in ("p", "Holm") else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=place > 0)
    return table


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _p(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _console() -> Console:
    # A log has no width; enough columns keep its tables whole.
    return Console(width=None if sys.stdout.isatty() else 132, highlight=False)
