"""The 2AFC figure: the network as drawn, after stage 1, along pretraining, and finetuned.

Rule: pixel error and the untrained network stand in every panel, because a 2AFC score means little
without them.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from . import style
from .findings import Choice, Findings
from .results import Results
from .statistics import Estimate
from .style import Look, Picture

COLUMNS = 3
NEAREST = 0.055


def two_afc(results: Results, findings: Findings, known: dict[str, Look], notice: str) -> Picture | None:
    """One panel a held-out split; None when nothing was held out."""
    shown = [choice for choice in findings.choices if choice.held.split != "train"] or list(findings.choices)
    if not shown:
        return None
    columns = 2 if len(shown) == 4 else min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    left, top, right, gap, high, between = 0.55, 0.8, 0.85, 1.05, 2.2, 0.95
    width = (style.WIDTH - left - right - gap * (columns - 1)) / columns
    figure = style.canvas(top + lines * high + (lines - 1) * between + 0.95)
    style.legend(figure, list(results.arms), known, left, 0.2)
    style.key(figure, "pixels: choosing by pixel error", "untrained: the network as drawn", "bars: 95 % interval")
    for number, choice in enumerate(shown):
        x, y = left + number % columns * (width + gap), top + number // columns * (high + between)
        style.write(figure, x, y - 0.16, f"{choice.held.data}, {choice.held.split}", weight="bold", size=8.5)
        axes = style.place(figure, x, y, width, high)
        _panel(axes, results, choice, known)
        if number % columns == 0:
            axes.set_ylabel("2AFC, %", labelpad=3)
        axes.set_xlabel("epochs of pretraining", labelpad=2)
    words = "; ".join(
        f"{c.held.data} {c.held.split}: pixel error {style.percent(c.pixel)}, "
        + ", ".join(f"{arm} ends at {style.percent(course[-1][1].value)}" for arm, course in c.courses.items())
        for c in shown
    )
    return style.finish(
        figure, "two_afc", "2AFC before, through and after pretraining",
        f"Accuracy of choosing the image that the label says is closer, in per cent, by arm. {words}.", notice,
    )  # fmt: skip


def _panel(axes: Axes, results: Results, choice: Choice, known: dict[str, Look]) -> None:
    steps = list(dict.fromkeys(s for course in choice.courses.values() for s, _ in course if s.startswith("epoch")))
    staged = any("initialize" in arm.stages for arm in results.arms.values())
    finetuned = any(not arm.pretrains for arm in results.arms.values())
    order = ["drawn", *(["start"] if staged else []), *steps, *(["finetuned"] if finetuned else [])]
    spread = 0.22 / max(1, len(choice.courses) - 1)
    values = [choice.pixel]
    for number, (arm, course) in enumerate(choice.courses.items()):
        shift = spread * (number - (len(choice.courses) - 1) / 2)
        points = _points(results, choice, arm, course)
        values += [bound for _, e in points for bound in e.ends]
        x = [order.index(step) + shift for step, _ in points]
        y = [100 * e.value for _, e in points]
        look = known[arm]
        later = not results.arms[arm].pretrains
        axes.plot(x, y, color=look.colour, linewidth=1.4, linestyle=(0, (2, 1.5)) if later else "-")
        for at, (_, estimate) in list(zip(x, points, strict=True))[1 if later else 0 :]:
            axes.plot([at, at], estimate.scaled(100).ends, color=look.colour, linewidth=0.9, alpha=0.6)
            axes.plot(at, 100 * estimate.value, look.marker, color=look.colour, markersize=4)
    low, high = 100 * min(values), 100 * max(values)
    margin = 0.06 * (high - low) + 0.5
    axes.set(xlim=(-0.4, len(order) - 0.6), ylim=(low - margin, high + margin))
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=3)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    names = {"drawn": "\ndraw", "start": "stage\n1", "finetuned": "fine-\ntune"}
    axes.set_xticks(range(len(order)), [names.get(step, step.removeprefix("epoch ")) for step in order])
    _references(axes, choice, low - margin, high + margin)


def _points(
    results: Results, choice: Choice, arm: str, course: tuple[tuple[str, Estimate], ...]
) -> list[tuple[str, Estimate]]:
    """Where an arm's line runs: from the draw through its own steps, or on from its start arm's last."""
    description = results.arms[arm]
    if not description.pretrains:
        before = choice.courses.get(description.start, ())
        return [*before[-1:], course[-1]]
    if "initialize" not in description.stages:
        return [("drawn" if step == "start" else step, estimate) for step, estimate in course]
    return [*([("drawn", choice.untrained)] if choice.untrained else []), *course]


def _references(axes: Axes, choice: Choice, low: float, high: float) -> None:
    marks: list[tuple[float, str, tuple[float, tuple[float, float]]]] = [(100 * choice.pixel, "pixels", (0, (4, 2)))]
    if choice.untrained:
        marks.append((100 * choice.untrained.value, "untrained", (0, (1, 1.5))))
    if low < 50 < high and abs(choice.pixel - 0.5) > 0.02:
        marks.append((50.0, "chance", (0, (2, 2))))
    last = -1.0
    for value, name, dashes in sorted(marks):
        axes.axhline(value, color=style.SOFT, linewidth=0.9, linestyle=dashes, zorder=1)
        place = max((value - low) / (high - low), last + NEAREST)
        axes.text(1.02, place, f"{name} {value:.1f}", transform=axes.transAxes, size=6.8, color=style.SOFT, va="center")
        last = place
