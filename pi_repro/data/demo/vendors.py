"""Who draws what: a vendor's drawings by concept, whatever the form of its package.

A drawing belongs to a concept by its code where the vendor gives codes, else by name, and then only where the name
means one concept alone: a missing drawing is better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pi_repro.data.sources import Download
from pi_repro.errors import RequestError

from .emoji import Concept, code_of, slug_of
from .packages import members_of, parsed
from .render import image_to_png, svg_to_png


@dataclass(frozen=True)
class Drawing:
    """One vendor's picture of one concept: an SVG document, or a raster file's bytes."""

    svg: str | None = None
    raster: bytes | None = None

    def png(self, size: int) -> bytes:
        """Deterministic RGB PNG, size x size, on white."""
        if self.svg is not None:
            return svg_to_png(_sized(self.svg, size), size)
        return image_to_png(self.raster or b"", size)


def _sized(svg: str, size: int) -> str:
    """Set width and height of the root element, so that the drawing is fitted and centred by its viewBox."""
    start = svg.index("<svg")
    end = svg.index(">", start)
    root = re.sub(r'\s(width|height)="[^"]*"', "", svg[start:end])
    return f'{root} width="{size}" height="{size}"{svg[end:]}'


def read_drawings(
    download: Download, form: str, concepts: Iterable[Concept], names: Mapping[str, str] | None = None
) -> dict[str, Drawing]:
    """A vendor's drawings by code, in the order of the concepts.

    Args:
        download: the vendor's package.
        form: "openmoji-color", "openmoji-black", "iconify" (an @iconify-json package), "raster" (a folder
            assets/ of images named by code).
        concepts: those that are wanted.
        names: icon name -> code for iconify packages that carry no codes; see `name_table`.

    Raises:
        StateError: the package is not of this form.
        RequestError: no such form.
    """
    wanted = list(concepts)
    if form in ("openmoji-color", "openmoji-black"):
        found = _openmoji(download, form.removeprefix("openmoji-"), {concept.code for concept in wanted})
    elif form == "iconify":
        found = _iconify(download, {concept.code for concept in wanted}, names or {})
    elif form == "raster":
        found = _raster(download, {concept.code for concept in wanted})
    else:
        raise RequestError(
            "unknown form of drawings",
            where=download.source.name,
            given=form,
            allowed="openmoji-color, openmoji-black, iconify, raster",
        )
    return {concept.code: found[concept.code] for concept in wanted if concept.code in found}


def _openmoji(download: Download, style: str, codes: set[str]) -> dict[str, Drawing]:
    folder = PurePosixPath(style, "svg")

    def is_wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return path.parent == folder and path.suffix == ".svg" and code_of(path.stem) in codes

    members = members_of(download.path, download.sha256).items()
    return {code_of(PurePosixPath(name).stem): Drawing(svg=text.decode()) for name, text in members if is_wanted(name)}


def _raster(download: Download, codes: set[str]) -> dict[str, Drawing]:
    def is_wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return path.parent.name == "assets" and path.suffix in (".webp", ".png") and code_of(path.stem) in codes

    members = members_of(download.path, download.sha256).items()
    return {code_of(PurePosixPath(name).stem): Drawing(raster=content) for name, content in members if is_wanted(name)}


def _iconify(download: Download, codes: set[str], names: Mapping[str, str]) -> dict[str, Drawing]:
    members = members_of(download.path, download.sha256)
    table = parsed(members, "icons.json", download)
    chars = parsed(members, "chars.json", download)
    if chars:
        by_code = {code_of(sequence): name for sequence, name in chars.items()}
    else:
        by_code = {}
        # an icon's own name first, then its aliases: a code is given away once
        for name in [*table["icons"], *table.get("aliases", {})]:
            code = next((names[spelling] for spelling in _spellings(name) if spelling in names), None)
            if code is not None:
                by_code.setdefault(code, name)
    found = {}
    for code in codes & by_code.keys():
        svg = _icon(table, by_code[code])
        if svg is not None:
            found[code] = Drawing(svg=svg)
    return found


def _spellings(name: str) -> tuple[str, ...]:
    """What an icon may be called elsewhere: emojione adds "flag-for-", streamline counts skin tones from 1."""
    plain = re.sub("^flag-for-(flag-)?", "flag-", name).removesuffix("-1")
    return name, plain, squashed(plain)


def squashed(name: str) -> str:
    """A name without hyphens, marked as such; fxemoji writes "aerialtramway"."""
    return "=" + name.replace("-", "")


def name_table(concepts: Iterable[Concept], coded: Iterable[Download]) -> dict[str, str]:
    """Icon name -> code, for vendors without codes: CLDR's names, and the names that vendors with codes use.

    A name that two of them give to different codes is left out: a missing drawing is better than a wrong one.

    Args:
        concepts: all of them.
        coded: iconify packages with a chars.json.
    """
    codes: dict[str, set[str]] = {}
    known = list(concepts)
    for concept in known:
        codes.setdefault(slug_of(concept.name), set()).add(concept.code)
    valid = {concept.code for concept in known}
    for download in coded:
        members = members_of(download.path, download.sha256)
        by_name: dict[str, str] = {}
        for sequence, name in parsed(members, "chars.json", download).items():
            by_name[name] = code_of(sequence)
        for alias, entry in parsed(members, "icons.json", download).get("aliases", {}).items():
            # a turned or mirrored copy is another thing than its parent
            if set(entry) == {"parent"} and entry["parent"] in by_name:
                by_name.setdefault(alias, by_name[entry["parent"]])
        for name, code in by_name.items():
            codes.setdefault(name, set()).add(code)
    table = {name: next(iter(found)) for name, found in codes.items() if len(found) == 1}
    flat: dict[str, set[str]] = {}
    for name, found in codes.items():
        flat.setdefault(squashed(name), set()).update(found)
    table.update({name: next(iter(found)) for name, found in flat.items() if len(found) == 1})
    return {name: code for name, code in table.items() if code in valid}


def _icon(table: Mapping[str, Any], name: str) -> str | None:
    """The SVG document of an icon or alias of an iconify set; None for names it does not have."""
    turns = {"rotate": 0, "hFlip": False, "vFlip": False}
    icons, aliases = table["icons"], table.get("aliases", {})
    for _ in range(8):
        entry = icons.get(name) or aliases.get(name)
        if entry is None:
            return None
        turns["rotate"] += entry.get("rotate", 0)
        turns["hFlip"] ^= bool(entry.get("hFlip", False))
        turns["vFlip"] ^= bool(entry.get("vFlip", False))
        if name in icons:
            break
        name = entry["parent"]
    else:
        return None
    left, top = entry.get("left", table.get("left", 0)), entry.get("top", table.get("top", 0))
    width, height = entry.get("width", table.get("width", 16)), entry.get("height", table.get("height", 16))
    body = entry["body"]
    centre = f"{left + width / 2:g} {top + height / 2:g}"
    if turns["rotate"] % 4:
        body = f'<g transform="rotate({90 * (turns["rotate"] % 4)} {centre})">{body}</g>'
    if turns["hFlip"] or turns["vFlip"]:
        x, y = -1 if turns["hFlip"] else 1, -1 if turns["vFlip"] else 1
        body = (
            f'<g transform="translate({(2 * left + width) * (x < 0):g} {(2 * top + height) * (y < 0):g}) '
            f'scale({x} {y})">{body}</g>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}">{body}</svg>'
    )
