"""A page of pairs of images that are said to be one, side by side, for a person to judge."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_SIDE, _GAP, _TEXT, _COLUMNS, _MARGIN = 180, 12, 34, 3, 24
_INK, _PAPER, _EMPTY = "#20242a", "#ffffff", "#eceef1"
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Couple:
    """Two images, read when they are drawn, and a line about each."""

    left: Callable[[], bytes]
    right: Callable[[], bytes]
    lines: tuple[str, str]


def sheet(head: str, couples: Sequence[Couple]) -> bytes:
    """A PNG file with the couples in their order."""
    wide, high = 2 * _SIDE + 3 * _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(couples) // _COLUMNS)
    page = Image.new("RGB", (2 * _MARGIN + _COLUMNS * wide, 2 * _MARGIN + 30 + rows * high), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), head, _INK, _font(16))
    for number, couple in enumerate(couples):
        left, top = _MARGIN + number % _COLUMNS * wide, _MARGIN + 30 + number // _COLUMNS * high
        for place, read in ((left, couple.left), (left + _SIDE + _GAP // 2, couple.right)):
            draw.rectangle((place, top, place + _SIDE - 1, top + _SIDE - 1), fill=_EMPTY)
            _paste(page, read(), place, top)
        for line, text in enumerate(couple.lines):
            draw.text((left, top + _SIDE + 3 + 15 * line), _cut(text, wide - _GAP), _INK, _font(12))
    file = io.BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paste(page: Image.Image, content: bytes, left: int, top: int) -> None:
    """An image as large as its square allows, whole; an empty square where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGBA")
    except _UNREADABLE:
        return
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    page.paste(image, (left + (_SIDE - size[0]) // 2, top + (_SIDE - size[1]) // 2), image)


def _cut(text: str, width: int) -> str:
    """As much of a line as fits."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    while text and _font(12).getlength(text) > width:
        text = text[:-1]
    return text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings a font along; those of the machine differ.
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
