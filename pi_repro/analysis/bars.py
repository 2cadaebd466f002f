"""Figures of the last checkpoint: differences set by set, and family means.

Rule: a filled mark is a difference whose interval excludes zero, a hollow one is not.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from . import style
from .findings import Findings, Row
from .results import MEASURE_TITLES, Results
from .style import Look, Picture

ROW = 0.235
SHOWN = ("top1", "i2t_r1", "t2i_r1")


def differences(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture:
    """Forest plot: one row a set, one column an arm, difference to the baseline with its interval."""
    titles = {b.id: b.title for b in results.suite.benchmarks}
    rows = [row for row in findings.rows if row.measure in SHOWN]
    lines: list[Row | str] = []
    for row in rows:
        if not lines or row.family not in [x if isinstance(x, str) else x.family for x in lines]:
            lines.append(row.family)
        lines.append(row)
    left, top, gap, right = 3.35, 0.62, 0.16, 0.12
    height = ROW * len(lines)
    figure = style.canvas(top + height + 0.85)
    arms = results.others
    width = (style.WIDTH - left - right - gap * (len(arms) - 1)) / max(1, len(arms))
    for number, line in enumerate(lines):
        y = top + ROW * (number + 0.5)
        if isinstance(line, str):
            style.write(figure, 0.1, y, line, weight="bold", va="center", size=8.5)
            continue
        name = titles[line.name]
        if line.measure != "top1":
            name = f"{style.short(name, 40)}, {MEASURE_TITLES[line.measure].removesuffix(' R@1')}"
        guess = line.at_chance and set(line.at_chance) == set(line.arms)
        style.write(
            figure,
            0.22,
            y,
            style.short(name, 46 if guess else 54),
            va="center",
            size=7.6,
            color=style.SOFT if guess else style.INK,
        )
        if guess:
            style.write(
                figure, left - 0.1, y, "chance", va="center", ha="right", size=6.5, color=style.SOFT, style="italic"
            )
    reach = _reach(rows)
    for number, arm in enumerate(arms):
        axes = style.place(figure, left + number * (width + gap), top, width, height)
        _forest(axes, lines, arm.name, known[arm.name], reach)
        wins = findings.wins[arm.name]
        x = left + number * (width + gap) + width / 2
        style.write(
            figure,
            x,
            0.26,
            style.short(arm.name, int(width / 0.1)),
            ha="center",
            weight="bold",
            size=10,
            color=known[arm.name].colour,
        )
        note = f"ahead on {wins.wins} of {findings.counted}"
        style.write(figure, x, 0.45, note, ha="center", size=7, color=style.SOFT)
    style.write(
        figure, left, top + height + 0.4, f"top-1 (retrieval: R@1) minus {results.baseline}, percentage points",
        size=8, color=style.SOFT,
    )  # fmt: skip
    style.key(figure, "lines: 95 % interval", "filled: it excludes zero", "ahead: of the disjoint sets")
    ahead = "; ".join(f"{a}: {w.wins} of {findings.counted}" for a, w in findings.wins.items())
    return style.finish(
        figure,
        "differences",
        f"Difference to {results.baseline}, set by set",
        f"Forest plot of top-1 differences to {results.baseline} with 95 % intervals. Sets ahead: {ahead}. "
        "The per-set table holds the same numbers.",
        notice,
    )


def _reach(rows: list[Row]) -> float:
    """Half the width of the axis, in points: a few tiny sets must not flatten all others."""
    found = [e.scaled(100) for row in rows for e in row.differences.values()]
    bounds = [abs(bound) for e in found for bound in e.ends]
    if not bounds:
        return 1.0
    inner = max(1.25 * np.percentile(bounds, 80), 1.15 * np.percentile([abs(e.value) for e in found], 95))
    return max(0.5, min(1.06 * max(bounds), float(inner)))


def _forest(axes: Axes, lines: list[Row | str], arm: str, look: Look, reach: float) -> None:
    axes.set(xlim=(-reach, reach), ylim=(len(lines), 0), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.axvline(0, color=style.SOFT, linewidth=0.9)
    for number, line in enumerate(lines):
        if isinstance(line, str):
            continue
        estimate = line.differences[arm].scaled(100)
        y = number + 0.5
        faint = bool(line.at_chance) and set(line.at_chance) == set(line.arms)
        alpha = 0.45 if faint else 1.0
        low, high = estimate.ends
        axes.plot([max(low, -reach), min(high, reach)], [y, y], color=look.colour, linewidth=1.5, alpha=alpha)
        for bound, end, arrow in ((-low, -reach, "<"), (high, reach, ">")):
            if bound > reach:
                axes.plot(end, y, arrow, color=look.colour, markersize=4.5, alpha=alpha, clip_on=False)
        fill = look.colour if estimate.sign else style.PAPER
        axes.plot(
            estimate.value, y, look.marker, markersize=5.5, color=fill,
            markeredgecolor=look.colour, markeredgewidth=1.2, alpha=alpha,
        )  # fmt: skip


def families(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture:
    """Family means, top-1 above top-5: bars of every arm with intervals, lifts over the baseline on top."""
    names = results.suite.families
    left, top, right, gap = 0.62, 0.72, 0.1, 0.34
    width = (style.WIDTH - left - right - gap * (len(names) - 1)) / len(names)
    high, between = 1.75, 0.55
    figure = style.canvas(top + 2 * high + between + 0.6)
    style.legend(figure, list(results.arms), known, left, 0.2)
    style.key(figure, "dashed: chance", f"number: minus {results.baseline}, bold where its 95 % interval excludes zero")
    for line, measure in enumerate(("top1", "top5")):
        for column, name in enumerate(names):
            row = next((r for r in findings.families if r.name == name and r.measure == measure), None)
            x, y = left + column * (width + gap), top + line * (high + between)
            if line == 0:
                style.write(figure, x, top - 0.22, style.short(name, 26), weight="bold", size=8.5)
            if row is None:
                style.write(figure, x, y + high / 2, "under five classes", size=7, color=style.SOFT)
                continue
            axes = style.place(figure, x, y, width, high)
            _bars(axes, results, row, known)
            sets = f"{row.sets} sets" if row.sets > 1 else "1 set"
            style.write(figure, x + width, y + high + 0.17, sets, ha="right", size=6.5, color=style.SOFT)
        w, h = figure.get_size_inches()
        label = f"{MEASURE_TITLES[measure]}, %"
        middle = 1 - (top + line * (high + between) + high / 2) / h
        figure.text(0.13 / w, middle, label, rotation=90, ha="center", va="center", color=style.SOFT, size=8)
    lifts = "; ".join(
        f"{r.name} {MEASURE_TITLES[r.measure]}: "
        + ", ".join(f"{a} {style.signed(e.value)}" for a, e in r.differences.items())
        for r in findings.families
    )
    return style.finish(
        figure,
        "families",
        "Mean accuracy of each family",
        f"Bars of family means by arm. Differences to {results.baseline} in percentage points: {lifts}.",
        notice,
    )


def _bars(axes: Axes, results: Results, row: Row, known: dict[str, Look]) -> None:
    ceiling = max(e.ends[1] for e in row.arms.values()) * 100
    axes.set(xlim=(-0.6, len(results.arms) - 0.4), ylim=(0, 1.18 * ceiling or 1), xticks=[])
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for number, arm in enumerate(results.arms):
        estimate = row.arms[arm].scaled(100)
        axes.bar(number, estimate.value, 0.78, color=known[arm].colour)
        axes.plot([number, number], estimate.ends, color=style.INK, linewidth=1)
        if arm != results.baseline:
            lift = row.differences[arm]
            axes.annotate(
                style.signed(lift.value), (number, estimate.ends[1]), (0, 2.5),
                textcoords="offset points", ha="center", size=6.3, color=style.INK,
                weight="bold" if lift.sign else "normal",
            )  # fmt: skip
    axes.axhline(row.chance * 100, color=style.INK, linewidth=0.8, linestyle=(0, (2, 2)))
