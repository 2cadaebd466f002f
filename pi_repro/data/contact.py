"""A contact sheet: some samples of a dataset on one page, for a person who wants to see what is trained on.

Rule: samples are drawn by a key, never picked; the same dataset and seed give the same page. What cannot be decoded
is shown as such. The page says what may be done with its pictures.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pi_repro.data.randomness import some
from pi_repro.data.shards import Shards
from pi_repro.data.triplets import SPLITS

INK, SOFT, RULE, PAPER, RIGHT, EMPTY = "#20242a", "#68707c", "#d9dde3", "#ffffff", "#0a8f6c", "#eceef1"
_WIDTH, _MARGIN, _GAP = 1200, 28, 14
_PAIRS, _COLUMNS = 20, 5
_TRIPLETS, _BLOCKS = 12, 2
_OF_SET, _SET_COLUMNS = 7, 7
#: Letters of a caption that are looked at: more than its lines hold.
_LETTERS = 400
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Sheet:
    """What stands at the head of the page."""

    name: str
    title: str
    licence: str
    seed: int


@dataclass(frozen=True)
class Picture:
    """One image with what is written below it; `won` frames it, None where nothing is to be won."""

    content: bytes
    lines: tuple[str, ...]
    won: bool | None = None


def sheet(about: Sheet, sets: Mapping[str, Path], data_root: Path | None, count: int | None = None) -> bytes:
    """A PNG file with samples of a dataset, or of each set of a suite.

    Args:
        about: the page's head.
        sets: name -> folder with index.json.
        data_root: where shards lie that are not in the set's folder.
        count: samples of each set; None for what fits on a page.

    Raises:
        StateError: an index or shard is missing or damaged, by name.
    """
    bands = []
    for name, folder in sets.items():
        shards = Shards.open(folder, data_root)
        band = {"pairs": _pairs, "triplets": _triplets}.get(shards.kind, _judged)
        bands.append(band(shards, folder, name, about.seed, count))
        shards.close()
    return _png([_head(about), *bands])


def _pairs(shards: Shards, _folder: Path, name: str, seed: int, count: int | None) -> Image.Image:
    rows = some(shards.count, count or _PAIRS, "contact sheet", name, seed)
    pictures = [Picture(shards.read("image", row), (_text(shards, row),)) for row in map(int, rows)]
    return _stack(
        [_line(f"{len(rows)} of {shards.count:,} pairs, drawn by seed {seed}"), *_grid(pictures, _COLUMNS, 5)]
    )


def _triplets(shards: Shards, _folder: Path, name: str, seed: int, count: int | None) -> Image.Image:
    rows = some(shards.count, count or _TRIPLETS, "contact sheet", name, seed)
    splits = {number: split for split, number in SPLITS.items()}
    blocks = []
    for row in map(int, rows):
        right_won = bool(shards.column("label")[row])
        about = [splits.get(int(shards.column("split")[row]), "no split")]
        if "votes" in shards.columns:
            about.append(f"{int(shards.column('votes')[row])} votes")
        pictures = [
            Picture(shards.read("ref", row), ("reference", ", ".join(about))),
            Picture(shards.read("left", row), ("left, closer" if not right_won else "left",), not right_won),
            Picture(shards.read("right", row), ("right, closer" if right_won else "right",), right_won),
        ]
        blocks.append(pictures)
    width = (_WIDTH - 2 * _MARGIN - (_BLOCKS - 1) * 3 * _GAP) // _BLOCKS
    cells = [_row(pictures, width, 3, 2) for pictures in blocks]
    lines = [_beside(cells[at : at + _BLOCKS], 3 * _GAP) for at in range(0, len(cells), _BLOCKS)]
    said = f"{len(rows)} of {shards.count:,} triplets, drawn by seed {seed}; framed: the side judged closer"
    return _stack([_line(said), *lines])


def _judged(shards: Shards, folder: Path, name: str, seed: int, count: int | None) -> Image.Image:
    """A set of a suite."""
    rows = [int(row) for row in some(shards.count, count or _OF_SET, "contact sheet", name, seed)]
    classes = folder / "classnames.txt"
    if shards.kind == "classification" and classes.is_file():
        names = [each.strip() for each in classes.read_text(encoding="utf-8").splitlines()]
        labels = shards.column("label")
        said = f"{name}: {shards.count:,} images of {len(names):,} classes"
        words: Callable[[int], str] = lambda row: names[int(labels[row])]  # noqa: E731
    else:
        said = f"{name}: {shards.count:,} images, {shards.kind}"
        words = lambda row: _text(shards, row) if "text" in shards.members else ""  # noqa: E731
    pictures = [Picture(shards.read("image", row), (words(row),)) for row in rows]
    return _stack([_line(said, INK), *_grid(pictures, _SET_COLUMNS, 3)])


def _text(shards: Shards, row: int) -> str:
    lines = [line for line in shards.read("text", row).decode("utf-8", "replace").split("\n") if line.strip()]
    more = f" (and {len(lines) - 1} more)" if shards.kind == "retrieval" and len(lines) > 1 else ""
    return (lines[0] if more else " ".join(lines)) + more if lines else "(no caption)"


def _grid(pictures: Sequence[Picture], columns: int, lines: int) -> list[Image.Image]:
    width = _WIDTH - 2 * _MARGIN
    return [_row(pictures[at : at + columns], width, columns, lines) for at in range(0, len(pictures), columns)]


def _row(pictures: Sequence[Picture], width: int, columns: int, lines: int) -> Image.Image:
    """Pictures side by side, each in a square, with at most so many lines of text below."""
    side, font = (width - (columns - 1) * _GAP) // columns, _font(13)
    texts = [_wrapped(picture.lines, side, font, lines) for picture in pictures]
    band = Image.new("RGB", (width, side + 8 + 17 * max(map(len, texts), default=0)), PAPER)
    draw = ImageDraw.Draw(band)
    for place, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left = place * (side + _GAP)
        draw.rectangle((left, 0, left + side - 1, side - 1), fill=EMPTY)
        try:
            _paste(band, picture.content, left, side)
        except _UNREADABLE:
            draw.text((left + side // 2, side // 2), "cannot be decoded", SOFT, font, anchor="mm")
        if picture.won is not None:
            draw.rectangle((left, 0, left + side - 1, side - 1), outline=RIGHT if picture.won else RULE, width=5)
        for number, line in enumerate(text):
            draw.text((left, side + 6 + 17 * number), line, RIGHT if picture.won else INK, font)
    return band


def _paste(band: Image.Image, content: bytes, left: int, side: int) -> None:
    """An image as large as its square allows, whole."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGBA")
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    band.paste(image, (left + (side - size[0]) // 2, (side - size[1]) // 2), image)


def _wrapped(texts: Sequence[str], width: int, font: ImageFont.FreeTypeFont, most: int) -> list[str]:
    """Lines that fit a width; what does not fit in `most` of them ends in dots."""
    lines: list[str] = []
    for text in texts:
        lines.append("")
        # A caption may hold anything; a control character would be drawn as a box.
        for word in "".join(sign if sign.isprintable() else " " for sign in text[:_LETTERS]).split():
            for part in _pieces(word, width, font):
                joined = f"{lines[-1]} {part}".strip()
                if font.getlength(joined) <= width:
                    lines[-1] = joined
                else:
                    lines.append(part)
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}..."]
    return lines


def _pieces(word: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """A word, cut where it is wider than a line."""
    if font.getlength(word) <= width:
        return [word]
    fits = bisect_right(range(1, len(word)), width, key=lambda length: ceil(font.getlength(word[:length]))) or 1
    return [word[:fits], *_pieces(word[fits:], width, font)]


def _head(about: Sheet) -> Image.Image:
    width = _WIDTH - 2 * _MARGIN
    title = _wrapped([f"{about.name}: {about.title}"], width, _font(20, bold=True), 2)
    licence = f"Licence: {about.licence}. A page to look at, not to pass on unless that licence allows it."
    notes = _wrapped([licence], width, _font(12), 3)
    band = Image.new("RGB", (width, 28 * len(title) + 17 * len(notes) + 6), PAPER)
    draw = ImageDraw.Draw(band)
    for number, line in enumerate(title):
        draw.text((0, 28 * number), line, INK, _font(20, bold=True))
    for number, line in enumerate(notes):
        draw.text((0, 28 * len(title) + 17 * number), line, SOFT, _font(12))
    return band


def _line(text: str, colour: str = SOFT) -> Image.Image:
    band = Image.new("RGB", (_WIDTH - 2 * _MARGIN, 20), PAPER)
    ImageDraw.Draw(band).text((0, 0), _wrapped([text], band.width, _font(13), 1)[0], colour, _font(13))
    return band


def _beside(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    band = Image.new("RGB", (_WIDTH - 2 * _MARGIN, max(part.height for part in parts)), PAPER)
    for number, part in enumerate(parts):
        band.paste(part, (number * (part.width + gap), 0))
    return band


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    height = sum(part.height + _GAP for part in parts) - _GAP
    page = Image.new("RGB", (max(part.width for part in parts), height), PAPER)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height + _GAP
    return page


def _png(bands: Sequence[Image.Image]) -> bytes:
    inner = _stack(bands)
    page = Image.new("RGB", (inner.width + 2 * _MARGIN, inner.height + 2 * _MARGIN), PAPER)
    page.paste(inner, (_MARGIN, _MARGIN))
    file = io.BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings a font along; those of the machine differ.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
