"""The trade-off of alignment after pretraining as a figure, a section of the page, LaTeX, and a few lines of text.

Rule: the panel on the left is what the setting was chosen by, the one on the right what is reported of it; bars stand
on the chosen setting and on the arms that it is compared with, and the table holds the intervals of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from . import latex, page, style
from .statistics import Estimate
from .style import Look, Picture
from .tables import Cell, Table, bounds, cells
from .tradeoff import Point, Setting, Tradeoff

NAME = "tradeoff"
TITLE = "Alignment after pretraining: 2AFC against zero-shot"


@dataclass(frozen=True)
class _Drawing:
    """Colour of an adapter, marker of a learning rate, size of a number of updates."""

    colours: dict[str, str]
    shapes: dict[float, str]
    sizes: dict[int, float]


def picture(found: Tradeoff, notice: str) -> Picture:
    """Validation on the left and, where judged, test on the right; a colour an adapter, a line a learning rate."""
    drawing = _drawing(found)
    left, top, between, high = 0.62, 0.98, 0.75, 3.1
    width = (style.WIDTH - left - between - 0.2) / 2
    figure = style.canvas(top + high + 0.9)
    adapters = {name: Look(colour, "o") for name, colour in drawing.colours.items()}
    rates = {f"lr {rate:g}": Look(style.SOFT, shape) for rate, shape in drawing.shapes.items()}
    style.legend(figure, list(adapters), adapters, left, 0.18)
    style.legend(figure, list(rates), rates, left, 0.44)
    sizes = ", ".join(f"{updates:,}" for updates in drawing.sizes)
    style.key(
        figure, f"larger: more updates ({sizes})", "lines: from the unaligned start", "ring: chosen on validation",
        "bars: 95 % interval",
    )  # fmt: skip
    for number, (title, by) in enumerate((("validation, by which one is chosen", True), ("test", False))):
        if not by and found.start.test is None:
            continue
        x = left + number * (width + between)
        style.write(figure, x, top - 0.14, f"{found.triplets}, {title}", weight="bold", size=8.5)
        axes = style.place(figure, x, top, width, high)
        _panel(axes, found, drawing, by)
        axes.set_xlabel(f"mean top-1 over {found.sets} sets, %", labelpad=3)
        axes.set_ylabel("2AFC, %", labelpad=3)
    return style.finish(figure, NAME, TITLE, sentence(found), notice)


def _panel(axes: Axes, found: Tradeoff, drawing: _Drawing, by: bool) -> None:
    """Top-1 across, 2AFC up, on validation triplets where `by`, else on test triplets."""

    def at(point: Point) -> tuple[float, float]:
        shown = point.validation if by else point.test
        return 100 * point.zero_shot.value, 100 * (shown.value if shown else float("nan"))

    axes.grid()
    axes.tick_params(length=0, pad=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    courses: dict[tuple[str, float], list[Setting]] = {}
    for one in found.settings:
        courses.setdefault((one.adapter, one.lr), []).append(one)
    for (adapter, _), course in courses.items():
        path = [at(found.start), *(at(one.point) for one in course)]
        axes.plot(*zip(*path, strict=True), color=drawing.colours[adapter], linewidth=1, alpha=0.55)
    for one in found.settings:
        x, y = at(one.point)
        size = drawing.sizes[one.updates]
        axes.plot(x, y, drawing.shapes[one.lr], color=drawing.colours[one.adapter], markersize=size)
        if one.arm == found.chosen:
            _bars(axes, one.point, by, drawing.colours[one.adapter])
            axes.plot(x, y, "o", markersize=size + 8, fillstyle="none", color=style.INK, markeredgewidth=1.4)
    # Neither is a setting: no adapter's colour, no learning rate's marker.
    for point, marker, colour in ((found.start, "o", style.BASELINE_COLOUR), (found.treatment, "*", style.INK)):
        if point is not None:
            _bars(axes, point, by, colour)
            axes.plot(*at(point), marker, color=colour, markersize=9, markeredgecolor=style.INK)
            axes.annotate(
                point.arm, at(point), (7, -9), textcoords="offset points", size=7.5, weight="bold", color=style.INK
            )


def _bars(axes: Axes, point: Point, by: bool, colour: str) -> None:
    shown = point.validation if by else point.test
    if shown is None:
        return
    across, up = point.zero_shot.scaled(100), shown.scaled(100)
    axes.plot(across.ends, [up.value, up.value], color=colour, linewidth=1.1)
    axes.plot([across.value, across.value], up.ends, color=colour, linewidth=1.1)


def sentence(found: Tradeoff) -> str:
    """What was chosen, by what, and what it gives."""
    best, start = found.best, found.start.arm
    words = (
        f"Of {len(found.settings)} settings on {start}'s last weights, {best.arm} ({_described(best)}) has the highest "
        f"2AFC on validation triplets of {found.triplets}, {_percent(best.point.validation)}"
    )
    if best.point.test is not None:
        words += f"; on test triplets it has {_percent(best.point.test)}"
    change = best.point.change
    if change is not None:
        words += (
            f"; mean top-1 over {found.sets} sets is {_percent(best.point.zero_shot)}, {style.signed(change.value)} "
            f"points {style.interval(change)} against {start}"
        )
    return f"{words}."


def section(found: Tradeoff, known: Mapping[str, Look], drawn: Mapping[str, str]) -> str:
    """Figure and table for the page; both stay whatever is switched, because the choice was among all.

    Args:
        drawn: the page's figures by name, this one among them.
    """
    rows = []
    for title, point, setting in _lines(found):
        mark = "<small>chosen</small>" if point.arm == found.chosen else ""
        name = page.named(point.arm, known)
        what = escape(_described(setting)) if setting else escape(title)
        rows.append(
            f'<tr><th scope="row">{name}{mark}</th><td class="text">{what}</td>{page.valued(point.validation)}'
            f"{page.valued(point.test)}{page.valued(point.zero_shot)}{page.valued(point.change, signed=True)}</tr>"
        )
    header = ("arm", "what", "2AFC, validation", "2AFC, test", "mean top-1", f"minus {escape(found.start.arm)}")
    caption = (
        "In per cent with 95 % intervals. Chosen: highest validation 2AFC, of several the fewest updates, then the "
        "lowest learning rate; zero-shot and test triplets were not looked at, and intervals take the choice as given"
    )
    numbers = page.grid(caption, header, rows, words=2)
    return (
        f'{drawn.get(NAME, "")}<section id="{NAME}"><h2>The setting chosen after pretraining</h2>'
        f'<p class="lead">{escape(sentence(found))}</p>{numbers}</section>'
    )


def table(found: Tradeoff) -> Table:
    """Every setting and what it is compared with; accuracies are fractions."""
    estimates = ("validation", "test", "zero_shot", "change")
    header = ("arm", "role", "adapter", "lr", "updates", "chosen")
    rows = []
    for role, point, setting in _lines(found):
        about: tuple[Cell, ...] = (setting.adapter, setting.lr, setting.updates) if setting else (None, None, None)
        values = [bound for name in estimates for bound in bounds(getattr(point, name))]
        rows.append(cells(point.arm, role, *about, point.arm == found.chosen, *values))
    columns = [f"{name}{end}" for name in estimates for end in ("", "_low", "_high")]
    return Table(NAME, (*header, *columns), tuple(rows))


def tex(found: Tradeoff) -> bytes:
    """The same as a table for a paper, the chosen setting in bold."""
    body = []
    for role, point, setting in _lines(found):
        name = latex.escape(_described(setting) if setting else f"{point.arm} ({role})")
        name = rf"\textbf{{{name}}}" if point.arm == found.chosen else name
        shown = [latex.cell(point.validation), latex.cell(point.test), latex.cell(point.zero_shot)]
        body.append(" & ".join([name, *shown, latex.cell(point.change, signed=True)]) + r" \\")
    heads = ("2AFC, validation", "2AFC, test", "mean top-1", rf"$\Delta$ {latex.escape(found.start.arm)}")
    caption = (
        f"Alignment after pretraining, in per cent with 95 % intervals; mean top-1 over {found.sets} sets. Bold: "
        "chosen by validation 2AFC alone."
    )
    return latex.plain(NAME, caption, heads, body)


def lines(found: Tradeoff) -> Iterator[str]:
    """For report.md."""
    yield from (f"## {TITLE}", "", sentence(found), "")
    yield f"| arm | what | 2AFC, validation | 2AFC, test | mean top-1 | minus {found.start.arm} |"
    yield "|---|---|---:|---:|---:|---:|"
    for role, point, setting in _lines(found):
        name = f"**{point.arm}**" if point.arm == found.chosen else point.arm
        change = f"{style.signed(point.change.value)} {style.interval(point.change)}" if point.change else "—"
        test = style.percent(point.test.value) if point.test else "—"
        yield (
            f"| {name} | {_described(setting) if setting else role} | {style.percent(point.validation.value)} | {test} "
            f"| {style.percent(point.zero_shot.value)} | {change} |"
        )
    yield from ("", "Bold: chosen by validation 2AFC; intervals take the choice as given.", "")


def _lines(found: Tradeoff) -> Iterator[tuple[str, Point, Setting | None]]:
    """The start, the arm that learned judgements first, and every setting."""
    yield "start", found.start, None
    if found.treatment is not None:
        yield "judgements before pretraining", found.treatment, None
    for setting in found.settings:
        yield "setting", setting.point, setting


def _drawing(found: Tradeoff) -> _Drawing:
    adapters = list(dict.fromkeys(one.adapter for one in found.settings))
    rates = sorted({one.lr for one in found.settings})
    updates = sorted({one.updates for one in found.settings})
    return _Drawing(
        {name: style.COLOURS[number % len(style.COLOURS)] for number, name in enumerate(adapters)},
        {rate: style.MARKERS[number % len(style.MARKERS)] for number, rate in enumerate(rates)},
        {one: 3.5 + 5 * number / max(1, len(updates) - 1) for number, one in enumerate(updates)},
    )


def _described(setting: Setting) -> str:
    return f"{setting.adapter}, learning rate {setting.lr:g}, {setting.updates:,} updates"


def _percent(estimate: Estimate) -> str:
    return f"{style.percent(estimate.value)} % {style.interval(estimate)}".rstrip()
