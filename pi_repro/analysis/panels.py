"""Qualitative panels: what each arm retrieves for fixed queries.

Rule: every arm answers the same queries, none picked for its answer; a right answer is framed and ticked.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from . import style
from .examples import Query, queries
from .results import Results
from .style import Look, Picture
from .suite import Benchmark

#: (set id, row) -> encoded image.
Images = Callable[[str, int], bytes]

ANSWERS = 5
PIXELS = 112
TICK = "✓"


def text_to_image(
    results: Results, benchmark: Benchmark, images: Images, known: dict[str, Look], notice: str
) -> Picture:
    """Two captions a block side by side; one row of thumbnails an arm."""
    asked = queries(results, benchmark, "text_to_image")
    size, gap, left, top, line = 0.63, 0.075, 0.86, 0.62, 0.95
    rows = -(-len(asked) // 2)
    height = 0.52 + line * len(results.arms)
    figure = style.canvas(rows * height + 0.25)
    for number, query in enumerate(asked):
        x, y = number % 2 * (style.WIDTH / 2 + 0.06) + 0.08, number // 2 * height
        style.write(figure, x, y + 0.2, f"“{style.short(query.captions[0], 58)}”", size=9.5, va="center", weight="bold")
        for row, arm in enumerate(results.arms):
            below = y + top - 0.2 + row * line
            _arm(figure, x, below + size / 2, arm, known[arm], query.margins[arm])
            for place, answer in enumerate(query.answers[arm][:ANSWERS]):
                at = x + left + place * (size + gap)
                _thumbnail(figure, at, below, size, images(benchmark.id, answer.row), answer.right)
                mark = f"{TICK} " if answer.right else ""
                style.write(
                    figure, at + size / 2, below + size + 0.11, f"{mark}{answer.cosine:.3f}", size=7, ha="center",
                    va="center", color=style.RIGHT if answer.right else style.SOFT,
                    weight="bold" if answer.right else "normal",
                )  # fmt: skip
    return style.finish(
        figure,
        _name("text_to_image", benchmark),
        f"Text→image on {benchmark.title}",
        _alt(results, asked, "images"),
        notice,
    )


def image_to_text(
    results: Results, benchmark: Benchmark, images: Images, known: dict[str, Look], notice: str
) -> Picture:
    """One band a query: its image and right captions, then a column of captions an arm."""
    asked = queries(results, benchmark, "image_to_text")
    left, band, line = 1.5, 1.45, 0.19
    columns = min(len(results.arms), 4)
    decks = -(-len(results.arms) // columns)
    height = band * decks + 0.1
    column = (style.WIDTH - left - 0.1) / columns
    letters = int((column - 0.5) / 0.057)
    figure = style.canvas(height * len(asked) + 0.22)
    for number, query in enumerate(asked):
        y = 0.12 + number * height
        _thumbnail(figure, 0.1, y, 0.95, images(benchmark.id, query.row), None)
        for row, caption in enumerate(query.captions[:2]):
            style.write(
                figure, 0.1, y + 1.1 + 0.16 * row, style.short(caption, 24), size=7, va="center", color=style.RIGHT
            )
        for place, arm in enumerate(results.arms):
            x, below = left + place % columns * column, y + place // columns * band
            style.write(
                figure,
                x,
                below + 0.09,
                style.short(arm, 14),
                weight="bold",
                size=9,
                va="center",
                color=known[arm].colour,
            )
            margin = query.margins[arm]
            if margin is not None:
                words = f"Δ {margin:+.3f}".replace("-", "−")
                style.write(
                    figure, x + column - 0.15, below + 0.09, words, ha="right", va="center", size=7, color=style.SOFT
                )
            for rank, answer in enumerate(query.answers[arm][:ANSWERS]):
                at = below + 0.31 + rank * line
                look = {"size": 7.2, "va": "center", "weight": "bold" if answer.right else "normal"}
                mark, ink, soft = (
                    (f"{TICK} ", style.RIGHT, style.RIGHT) if answer.right else ("", style.INK, style.SOFT)
                )
                words = mark + style.short(answer.caption, letters - len(mark))
                style.write(figure, x, at, f"{answer.cosine:.3f}", color=soft, **look)
                style.write(figure, x + 0.37, at, words, color=ink, **look)
    return style.finish(
        figure,
        _name("image_to_text", benchmark),
        f"Image→text on {benchmark.title}",
        _alt(results, asked, "captions"),
        notice,
    )


def _arm(figure: Figure, x: float, y: float, arm: str, look: Look, margin: float | None) -> None:
    style.write(figure, x, y - 0.08, style.short(arm, 10), weight="bold", size=8.5, va="center", color=look.colour)
    if margin is not None:
        words = f"Δ {margin:+.3f}".replace("-", "−")
        style.write(figure, x, y + 0.1, words, size=7, va="center", color=style.SOFT)


def _thumbnail(figure: Figure, x: float, y: float, size: float, content: bytes, right: bool | None) -> None:
    axes = style.place(figure, x, y, size, size)
    axes.axis("off")
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    flat = Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image)
    pixels = np.asarray(flat.convert("RGB"))
    axes.imshow(pixels, interpolation="none")
    rows, columns = pixels.shape[:2]
    edge = style.RIGHT if right else style.RULE
    axes.add_patch(
        Rectangle(
            (-0.5, -0.5), columns, rows, fill=False, edgecolor=edge, linewidth=2.4 if right else 0.8, clip_on=False
        )
    )


def _name(direction: str, benchmark: Benchmark) -> str:
    return f"{direction}-{benchmark.id.replace('/', '-')}"


def _alt(results: Results, asked: tuple[Query, ...], kind: str) -> str:
    found = ", ".join(f"{arm} {sum(q.answers[arm][0].right for q in asked if q.answers[arm])}" for arm in results.arms)
    return (
        f"The five nearest {kind} for {len(asked)} fixed queries and every arm, with cosines, seed {results.seeds[0]}. "
        f"Right on top, of {len(asked)}: {found}."
    )
