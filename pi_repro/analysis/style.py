"""How every figure looks, and how it becomes bytes.

Rule: same numbers, same bytes: the Agg and SVG writers with matplotlib's own DejaVu Sans (never a font of
the machine), glyphs as paths, a fixed hash salt, no date and no program name. The baseline is grey; other
arms take colours that stay apart for colour-blind readers, and a marker each, in their order.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .statistics import Estimate

INK = "#20242a"
SOFT = "#68707c"
RULE = "#d9dde3"
PAPER = "#ffffff"
RIGHT = "#0a8f6c"

BASELINE_COLOUR = "#838b96"
COLOURS = ("#1f77c9", "#d9601a", "#0a8f6c", "#b35fa5", "#c08a00", "#4ba3c7")
MARKERS = ("s", "D", "^", "v", "P", "X")

DPI = 150
WIDTH = 9.2
NOTICE_SIZE = 6.5

_FAMILY = "pi_repro DejaVu Sans"
_FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf")
_SETTINGS = {
    "font.family": _FAMILY,
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "pi_repro",
    "svg.image_inline": True,
    "pdf.fonttype": 42,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Look:
    """Colour and marker of an arm."""

    colour: str
    marker: str


@dataclass(frozen=True)
class Picture:
    """A figure as bytes, with the words that stand for it.

    Attributes:
        name: file name without ending.
        title: what it shows.
        alt: what a reader who can't see it should know.
        pdf: empty where none was asked for.
    """

    name: str
    title: str
    alt: str
    svg: bytes
    png: bytes
    pdf: bytes = b""


def looks(arms: Sequence[str], baseline: str) -> dict[str, Look]:
    """A look for each arm."""
    others = [arm for arm in arms if arm != baseline]
    found = {baseline: Look(BASELINE_COLOUR, "o")}
    for number, arm in enumerate(others):
        # After a round the same colours come with other markers.
        turn = number + number // len(COLOURS)
        found[arm] = Look(COLOURS[number % len(COLOURS)], MARKERS[turn % len(MARKERS)])
    return found


def _register_fonts() -> None:
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    if _FAMILY in known:
        return
    for face in _FACES:
        path = Path(matplotlib.get_data_path(), "fonts", "ttf", face)
        entry = font_manager.ttfFontProperty(font_manager.get_font(str(path)))
        # A name of our own: a DejaVu Sans of the machine must not be taken instead.
        font_manager.fontManager.ttflist.append(replace(entry, fname=str(path), name=_FAMILY))


_PDF: ContextVar[bool] = ContextVar("pdf", default=False)


@contextmanager
def drawing(*, pdf: bool = False) -> Iterator[None]:
    """Draw and save figures inside this; as PDF too where asked."""
    _register_fonts()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]
        before = _PDF.set(pdf)
        try:
            yield
        finally:
            _PDF.reset(before)


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the figure's top left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def write(figure: Figure, left: float, top: float, text: str, **look: object) -> None:
    """Text at a place in inches from the figure's top left corner."""
    w, h = figure.get_size_inches()
    figure.text(left / w, 1 - top / h, text, **look)  # type: ignore[arg-type]


def legend(figure: Figure, arms: Sequence[str], known: dict[str, Look], left: float, top: float) -> None:
    """Arms in a row, each name in its colour behind its marker."""
    for arm in arms:
        w, h = figure.get_size_inches()
        axes = place(figure, left, top - 0.08, 0.16, 0.16)
        axes.axis("off")
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.plot(0, 0, known[arm].marker, color=known[arm].colour, markersize=6, clip_on=False)
        figure.text((left + 0.2) / w, 1 - top / h, arm, color=known[arm].colour, weight="bold", va="center")
        left += 0.42 + 0.085 * len(arm)


def key(figure: Figure, *words: str) -> None:
    """What lines and marks mean, at the foot, above the notice."""
    w, h = figure.get_size_inches()
    figure.text(0.1 / w, 0.24 / h, "      ".join(words), ha="left", va="bottom", color=SOFT, size=7)


def finish(figure: Figure, name: str, title: str, alt: str, notice: str) -> Picture:
    """Put the notice at the foot and save; must be called inside `drawing`."""
    if notice:
        w, h = figure.get_size_inches()
        figure.text(1 - 0.08 / w, 0.06 / h, notice, ha="right", va="bottom", color=SOFT, size=NOTICE_SIZE)
    vector, pixels = io.BytesIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, title, alt, vector.getvalue(), pixels.getvalue(), _pdf(figure) if _PDF.get() else b"")


def _pdf(figure: Figure) -> bytes:
    """For LaTeX: TrueType fonts inside, no date and no program name."""
    paper = io.BytesIO()
    figure.savefig(paper, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paper.getvalue()


def short(text: str, length: int) -> str:
    """A text cut to a length, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def percent(value: float, digits: int = 1) -> str:
    """0.081 -> "8.1"."""
    return f"{100 * value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """0.012 -> "+1.2", with a true minus; never "-0.0"."""
    text = f"{100 * value:+.{digits}f}".replace("-", "−")
    return text if any(c in "123456789" for c in text) else text[1:]


def interval(estimate: Estimate, digits: int = 1) -> str:
    """The bounds of a difference in percentage points: "[−0.3, 2.1]"."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (f"{100 * bound:.{digits}f}".replace("-", "−") for bound in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def times(estimate: Estimate) -> str:
    """A multiple with its bounds: "134 [120, 150]"."""
    digits = 0 if estimate.value >= 10 else 1
    bounds = [f"{b:.{digits}f}" for b in (estimate.low, estimate.high) if b is not None]
    return f"{estimate.value:.{digits}f}" + (f" [{', '.join(bounds)}]" if bounds else "")


def count(number: float) -> str:
    """1500000 -> "1.5M", for axes."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
