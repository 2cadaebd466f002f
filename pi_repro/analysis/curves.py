"""Figures along training: scaling, retrieval, the headline set, and 2AFC.

Rule: marks are means over seeds, faint dots single seeds; an arm that only finetunes is a lone hollow mark
behind the last checkpoint of the arm it started from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import mul

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from . import style
from .charts import Chart
from .findings import Findings
from .results import MEASURE_TITLES, Results
from .statistics import Estimate
from .style import Look, Picture

#: How far right of the last checkpoint a finetuned arm stands, and the next one right of it: factors.
AFTER = 1.35
BESIDE = 1.12
PREFERRED = (1, 2, 5)


def scaling(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture:
    """Accuracy of each family against samples seen, both logarithmic, with the fitted power laws."""
    names = results.suite.families
    charts = {(c.name, c.measure): c for c in findings.charts if c.name in names}
    left, top, right, gap, high, between = 0.66, 0.72, 0.12, 0.42, 1.75, 0.95
    width = (style.WIDTH - left - right - gap * (len(names) - 1)) / len(names)
    lines = max((len(c.fits) for c in charts.values()), default=0)
    below = 0.36 + 0.15 * lines
    figure = style.canvas(top + 2 * high + max(between, below) + below + 0.45)
    style.legend(figure, list(results.arms), known, left, 0.2)
    key = ["x: pairs seen", "dashed: chance", "hollow: finetuned"]
    if lines:
        key[1:1] = ["line: accuracy = a · pairsᵝ", "β with 95 % interval over seeds"]
    style.key(figure, *key)
    for line, measure in enumerate(("top1", "top5")):
        for column, name in enumerate(names):
            chart = charts.get((name, measure))
            x, y = left + column * (width + gap), top + line * (high + max(between, below))
            if line == 0:
                style.write(figure, x, top - 0.2, style.short(name, 26), weight="bold", size=8.5)
            if chart is None:
                continue
            axes = style.place(figure, x, y, width, high)
            _chart(axes, chart, known, logarithmic=True)
            if column == 0:
                axes.set_ylabel(f"{MEASURE_TITLES[measure]}, %", labelpad=3)
            for number, (arm, fit) in enumerate(chart.fits.items()):
                beta = fit.beta
                bounds = "" if beta.low is None or beta.high is None else f" [{beta.low:.2f}, {beta.high:.2f}]"
                text = f"β {beta.value:.2f}{bounds}".replace("-0.00", "0.00").replace("-", "−")
                style.write(
                    figure, x, y + high + 0.36 + 0.15 * number, text,
                    color=known[arm].colour, size=6.8, va="center",
                )  # fmt: skip
    words = "; ".join(
        f"{c.name} {MEASURE_TITLES[c.measure]}: " + ", ".join(f"{a} {f.beta.value:.2f}" for a, f in c.fits.items())
        for c in charts.values()
    )
    return style.finish(
        figure, "scaling", "Scaling of zero-shot accuracy with samples seen",
        f"Curves of family accuracy against samples seen, log-log, by arm. Fitted exponents: {words}.", notice,
    )  # fmt: skip


def retrieval(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture | None:
    """Recall of each retrieval set against pairs seen; None without such a set."""
    sets = results.suite.retrieval
    if not sets:
        return None
    charts = {(c.name, c.measure): c for c in findings.charts}
    measures = ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")
    left, top, right, gap, high, between = 0.66, 0.9, 0.12, 0.42, 1.6, 0.75
    width = (style.WIDTH - left - right - gap * 3) / 4
    figure = style.canvas(top + len(sets) * high + (len(sets) - 1) * between + 0.75)
    style.legend(figure, list(results.arms), known, left, 0.2)
    style.key(figure, "x: pairs seen, logarithmic", "dashed: chance", "hollow: finetuned afterwards")
    for line, benchmark in enumerate(sets):
        y = top + line * (high + between)
        style.write(figure, left, y - 0.38, benchmark.title, weight="bold", size=8.5)
        for column, measure in enumerate(measures):
            x = left + column * (width + gap)
            style.write(figure, x, y - 0.16, MEASURE_TITLES[measure], size=8, color=style.SOFT)
            axes = style.place(figure, x, y, width, high)
            _chart(axes, charts[benchmark.id, measure], known, logarithmic=False)
            if column == 0:
                axes.set_ylabel("%", labelpad=3)
    ends = "; ".join(
        f"{r.name} {MEASURE_TITLES[r.measure]}: "
        + ", ".join(f"{a} {style.percent(e.value)}" for a, e in r.arms.items())
        for r in findings.rows
        if r.measure in measures
    )
    return style.finish(
        figure, "retrieval", "Retrieval recall along pretraining",
        f"Curves of recall at 1 and 5 in both directions by arm. At the end, in per cent: {ends}.", notice,
    )  # fmt: skip


def headline(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture:
    """The headline set along pretraining: accuracy, and its difference to the baseline with intervals."""
    benchmark = results.suite.headline
    chart = findings.headline_chart
    top, high = 0.85, 2.3
    figure = style.canvas(top + high + 0.85)
    style.legend(figure, list(results.arms), known, 0.66, 0.2)
    style.write(figure, 0.66, top - 0.2, f"{style.short(benchmark.title, 42)}: top-1, %", size=8.5, weight="bold")
    axes = style.place(figure, 0.66, top, 3.6, high)
    _chart(axes, chart, known, logarithmic=False)
    axes.set_xlabel("pairs seen")
    times = axes.secondary_yaxis(
        "right", functions=(partial(mul, 0.01 / chart.chance), partial(mul, 100 * chart.chance))
    )
    times.spines["right"].set_visible(False)
    times.tick_params(length=0, pad=2)
    times.yaxis.set_major_locator(MaxNLocator(5))
    times.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    style.write(figure, 4.28, top - 0.2, "× chance", size=7, color=style.SOFT, ha="left")
    style.write(figure, 5.3, top - 0.2, f"minus {results.baseline}, percentage points", size=8.5, weight="bold")
    axes = style.place(figure, 5.3, top, 3.75, high)
    _emergence(axes, results, findings, known)
    axes.set_xlabel("pairs seen")
    style.key(
        figure,
        "dots: single seeds",
        "lines: 95 % interval",
        "filled: it excludes zero",
        "hollow on the left: finetuned",
    )
    words = "; ".join(
        f"{arm}: {style.signed(e.value)} {style.interval(e)}" for arm, e in findings.headline.differences.items()
    )
    return style.finish(
        figure, "headline", f"Top-1 on {benchmark.title} along pretraining",
        f"Left, accuracy by arm; right, difference to {results.baseline} with intervals. At the end: {words}.", notice,
    )  # fmt: skip


def _emergence(axes: Axes, results: Results, findings: Findings, known: dict[str, Look]) -> None:
    axes.axhline(0, color=known[results.baseline].colour, linewidth=1.2)
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=3)
    axes.set_xscale("log")
    shown = [(arm, e) for arm, e in findings.emergence.items() if any(e.samples)]
    samples: Sequence[int] = ()
    later = -1
    for number, (arm, course) in enumerate(shown):
        # Side by side: intervals of several arms at one checkpoint would hide each other.
        shift = 1.07 ** (number - (len(shown) - 1) / 2)
        look = known[arm]
        points = [(s, d.scaled(100)) for s, d in zip(course.samples, course.differences, strict=True) if s]
        samples = [s for s, _ in points]
        axes.plot(
            [s * shift for s, _ in points], [d.value for _, d in points], color=look.colour, linewidth=1, alpha=0.5
        )
        for seen, estimate in points:
            _mark(axes, seen * shift, estimate, look)
    finetuned = [arm.name for arm in results.others if arm.name not in findings.emergence]
    for name in finetuned if samples else ():
        estimate = findings.headline.differences[name].scaled(100)
        later += 1
        _mark(axes, samples[-1] * AFTER * BESIDE**later, estimate, known[name])
    if samples:
        _sample_ticks(axes, samples)


def _mark(axes: Axes, x: float, estimate: Estimate, look: Look) -> None:
    axes.plot([x, x], estimate.ends, color=look.colour, linewidth=1.4)
    fill = look.colour if estimate.sign else style.PAPER
    axes.plot(
        x, estimate.value, look.marker, color=fill, markeredgecolor=look.colour, markeredgewidth=1.2, markersize=5
    )


def _chart(axes: Axes, chart: Chart, known: dict[str, Look], logarithmic: bool) -> None:
    axes.set_xscale("log")
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=2)
    samples: list[int] = []
    values: list[float] = []
    later = -1
    for arm, curve in chart.curves.items():
        look = known[arm]
        keep = [n for n, s in enumerate(curve.samples) if s]
        if not keep:
            continue
        x = np.array([curve.samples[n] for n in keep], dtype=np.float64)
        y = 100 * curve.accuracy[:, keep]
        values += [float(v) for v in y.ravel()]
        if not curve.along:
            later += 1
            at = x * AFTER * BESIDE**later
            axes.plot(at, y.mean(axis=0), look.marker, color=style.PAPER, markeredgecolor=look.colour, markersize=5)
            continue
        samples = [curve.samples[n] for n in keep]
        for seed in y:
            axes.plot(x, seed, ".", color=look.colour, alpha=0.45, markersize=4, markeredgewidth=0)
        fit = chart.fits.get(arm)
        line = 100 * fit.accuracy(x) if fit and logarithmic else y.mean(axis=0)
        axes.plot(x, line, color=look.colour, linewidth=1.3)
        axes.plot(x, y.mean(axis=0), look.marker, color=look.colour, markersize=3.6)
    if logarithmic:
        axes.set_yscale("log")
        positive = [v for v in values if v > 0] or [1.0]
        low, high = min(positive) * 0.8, max(positive) * 1.25
        if chart.chance * 100 > low / 3:
            low = min(low, 85 * chart.chance)
        axes.set_ylim(low, high)
        _value_ticks(axes, low, high)
    else:
        axes.set_ylim(0, max([*values, 100 * chart.chance]) * 1.12 or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.axhline(100 * chart.chance, color=style.INK, linewidth=0.8, linestyle=(0, (2, 2)))
    if samples:
        _sample_ticks(axes, samples)


def _sample_ticks(axes: Axes, samples: Sequence[int]) -> None:
    axes.set_xlim(samples[0] / 1.3, samples[-1] * AFTER * 1.3)
    ticks = [samples[0], samples[-1]]
    middle = samples[len(samples) // 2]
    if len(samples) > 3 and 3 * samples[0] < middle < samples[-1] / 3:
        ticks.insert(1, middle)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.count(value)))


def _value_ticks(axes: Axes, low: float, high: float) -> None:
    grid = [m * 10.0**e for e in range(-4, 3) for m in PREFERRED]
    ticks = [t for t in grid if low <= t <= high]
    if len(ticks) < 2:
        fine = [m * 10.0**e for e in range(-4, 3) for m in range(1, 10)]
        ticks = [t for t in fine if low <= t <= high]
    if len(ticks) > 5:
        ticks = ticks[:: (len(ticks) + 4) // 5]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
