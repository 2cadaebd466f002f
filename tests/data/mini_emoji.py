"""Emoji packages in miniature, in the forms of the real ones, and a stage to fetch them in."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi_repro.spec.card import Card, Source

from .npm_registry import Registry

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "goat", "hen", "ibis", "jay", "kiwi", "lion"]
CODES = [f"{0x1F400 + number:X}" for number in range(len(NAMES))]


def circle(radius: int, colour: str, fill: bool = True) -> str:
    return f'<circle cx="18" cy="18" r="{radius}" fill="{colour if fill else "none"}" stroke="{colour}"/>'


def row(
    code: str, name: str, group: str = "animals-nature", subgroup: str = "animal-mammal", **more: str
) -> dict[str, str]:
    about = {"skintone": "", "tags": f"{name}, pet, wild", **more}
    return {"hexcode": code, "annotation": name, "group": group, "subgroups": subgroup, **about}


TABLE = [
    *(row(code, name) for code, name in zip(CODES, NAMES, strict=True)),
    row("1F6B6", "person walking", "people-body", "person-activity"),
    row("1F6B6-200D-2640-FE0F", "woman walking", "people-body", "person-activity"),
    row("1F468-200D-2696-FE0F", "man judge", "people-body", "person-role", tags="law, judge"),
    row("1F469-200D-2696-FE0F", "woman judge", "people-body", "person-role", tags="law, judge"),
    row("1F452", "woman’s hat", "objects", "clothing", tags=""),
    row("1F1F1-1F1F9", "flag: Lithuania", "flags", "country-flag", tags="LT, flag"),
    row("1F1EB-1F1EE", "flag: Finland", "flags", "country-flag", tags="FI, flag"),
    row("1F44B-1F3FB", "waving hand: light skin tone", "people-body", "hand", skintone="1"),
    row("1F3FB", "light skin tone", "component", "skin-tone"),
    row("E001", "some logo", "extras-openmoji", "brand"),
]
KEPT = TABLE[:19]


def openmoji(registry: Registry) -> Source:
    files = {"data/openmoji.json": json.dumps(TABLE).encode()}
    for number, entry in enumerate(TABLE):
        for style, fill in (("color", True), ("black", False)):
            # one animal looks the same in both styles, as some do in the real package
            body = circle(
                3 + number % 12, "#000" if number == 0 or not fill else "#c3" + f"{number:02d}", fill and number > 0
            )
            svg = f'<svg id="emoji" viewBox="0 0 36 36" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
            files[f"{style}/svg/{entry['hexcode']}.svg"] = svg.encode()
    return registry.add("openmoji", "17.0.0", files)


def iconify(registry: Registry, name: str, colour: str, codes: bool = True) -> Source:
    """All concepts; without codes, names as old vendors spell them."""
    icons, chars = {}, {}
    for number, entry in enumerate(KEPT):
        icon = entry["annotation"].replace("’", "").replace(": ", "-").replace(" ", "-").lower()
        if not codes and entry["group"] == "flags":
            icon = icon.replace("flag-", "flag-for-flag-")
        icons[icon] = {"body": circle(3 + number % 12, f"{colour}{number:02d}44")}
        chars[entry["hexcode"].lower()] = icon
    aliases = {"hound": {"parent": "dog"}, "tac": {"parent": "cat", "hFlip": True}}
    if not codes:
        icons["big-hound"], icons["hound"] = {"body": circle(1, "#000")}, icons.pop("dog")
        aliases = {}
    table = {"prefix": name, "icons": icons, "aliases": aliases, "width": 36, "height": 36}
    files = {"icons.json": json.dumps(table).encode(), "chars.json": json.dumps(chars if codes else {}).encode()}
    return registry.add(f"@iconify-json/{name}", "1.0.0", files)


@dataclass
class MiniStage:
    """What a fetcher needs of a stage."""

    out: Path
    scratch: Path
    should_stop: Callable[[], bool] = lambda: False
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("pirepro"))
    seen: list[tuple[int, int, str]] = field(default_factory=list)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.seen.append((done, total, unit))


CORPUS: dict[str, Any] = {
    "renderer": "resvg-py==0.5.0",
    "size": 32,
    "concepts_from": "openmoji",
    "names_from": ["twemoji"],
    "held_out": {"key": "test", "one_in": 6},
    "concepts": None,
}


def card(
    kind: str, sources: list[Source], settings: dict[str, Any], count: int, sets: list[dict[str, Any]] | None = None
) -> Card:
    return Card(
        name="mini",
        kind=kind,  # type: ignore[arg-type]
        title="Mini",
        description="For tests.",
        licence="none",
        fetcher="demo_" + kind,
        location="workspace",
        sources=tuple(sources),
        settings={**CORPUS, **settings},
        count=count,
        disk_bytes=1,
        files=1,
        sets=sets or (),  # type: ignore[arg-type]
    )
