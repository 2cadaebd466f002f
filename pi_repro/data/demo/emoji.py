"""Emoji as a labelled corpus: a concept is a code point sequence; each vendor draws it in its own style.

Concepts (names, keywords, groups) are those of openmoji's table, which quotes Unicode CLDR: all of its Unicode
emoji without skin tones, hair and skin components and openmoji's own extras. A code is upper-case hex joined by
"-" without FE0F.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from pi_repro.data.sources import Download
from pi_repro.errors import RequestError, StateError

from .packages import members_of, parsed

#: person, man, woman; adult forms that differ in nothing but gender or age share a stem
_PERSONS = {"1F468", "1F469", "1F9D1", "1F466", "1F467", "1F9D2"}
_VARIANTS = {"200D", "2640", "2642", "27A1", "FE0F"}
#: single code points that draw what a sequence draws too, or that differ in gender only
_SAME_STEM = {
    "1F46A": "family", "1F48F": "P:2764-1F48B", "1F491": "P:2764",
    "1F46B": "P:1F91D", "1F46C": "P:1F91D", "1F46D": "P:1F91D",
    "1F385": "P:1F384", "1F936": "P:1F384", "1F478": "royal", "1F934": "royal", "1FAC5": "royal",
    "1F474": "old", "1F475": "old", "1F9D3": "old", "1F466": "child", "1F467": "child", "1F9D2": "child",
    "1F468": "adult", "1F469": "adult", "1F9D1": "adult", "1F57A": "dancer", "1F483": "dancer",
    "1FAC3": "pregnant", "1FAC4": "pregnant", "1F930": "pregnant",
}  # fmt: skip


def code_of(sequence: str) -> str:
    """The code of a hex sequence in any vendor's spelling: "1f468-200d-2696-fe0f" -> "1F468-200D-2696"."""
    return "-".join(part for part in re.split(r"[-_ ]", sequence.upper()) if part != "FE0F")


def stem_of(code: str) -> str:
    """What variants of gender and direction have in common; a draw of stems takes them together."""
    if code in _SAME_STEM:
        return _SAME_STEM[code]
    parts = [part for part in code.split("-") if part not in _VARIANTS]
    if parts and parts[0] in _PERSONS and len(parts) > 1:
        rest = [part for part in parts if part not in _PERSONS]
        return "P:" + "-".join(rest) if rest else "family"
    return "-".join(parts)


def slug_of(name: str) -> str:
    """A name as iconify spells it: "man’s shoe" -> "mans-shoe"."""
    plain = unicodedata.normalize("NFKD", re.sub("[’']", "", name.lower()))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = plain.replace("&", " and ").replace("#", " hash ").replace("*", " asterisk ")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


@dataclass(frozen=True)
class Concept:
    """One emoji.

    Attributes:
        code: "1F468-200D-2696".
        name: CLDR's short name, plain quotes: "flag: Lithuania", "man judge".
        keywords: CLDR's keywords, sorted, without the name itself.
        group, subgroup: Unicode's, in openmoji's spelling: "food-drink", "food-fruit".
        stem: shared by variants of gender and direction, see `stem_of`.
    """

    code: str
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    stem: str

    @property
    def phrase(self) -> str:
        """The name as words that can stand in a sentence: "flag of Lithuania", "keycap 7"."""
        kind, colon, rest = self.name.partition(": ")
        if not colon:
            return self.name
        return f"flag of {rest}" if kind == "flag" else f"{kind} {rest}"

    @property
    def is_country_flag(self) -> bool:
        """Countries and their subdivisions; not the chequered, rainbow or pirate flag."""
        return self.subgroup in ("country-flag", "subdivision-flag")


def _plain(text: str) -> str:
    return text.translate({0x2019: "'", 0x201C: '"', 0x201D: '"', 0x00A0: " "}).strip()


def read_concepts(openmoji: Download) -> tuple[Concept, ...]:
    """All concepts in openmoji's order, read from the package's data/openmoji.json.

    Raises:
        StateError: the package has no such table.
    """
    found = []
    for row in parsed(members_of(openmoji.path, openmoji.sha256), "data/openmoji.json", openmoji):
        if row["skintone"] or row["group"].startswith("extras") or row["group"] == "component":
            continue
        name = _plain(row["annotation"])
        keywords = {_plain(word) for word in row["tags"].split(",")} - {"", name.lower(), name}
        code = code_of(row["hexcode"])
        found.append(Concept(code, name, tuple(sorted(keywords)), row["group"], row["subgroups"], stem_of(code)))
    if len({concept.code for concept in found}) != len(found):
        raise StateError("two concepts have one code", where=openmoji.source.name)
    return tuple(found)


def held_out(concepts: Iterable[Concept], key: str, one_in: int) -> frozenset[str]:
    """Codes of the concepts that no training vendor may show: a keyed draw of stems, about one in `one_in`.

    Country flags stay out of the draw (they are a benchmark of another kind). The draw depends on the key and
    the stems alone, so every card with the same two settings means the same concepts.

    Raises:
        RequestError: `one_in` is below 2.
    """
    if one_in < 2:
        raise RequestError("one in how many concepts is held out", given=one_in, allowed="2 or more")
    eligible = [concept for concept in concepts if not concept.is_country_flag]
    stems: dict[str, list[str]] = {}
    for concept in eligible:
        stems.setdefault(concept.stem, []).append(concept.code)
    chosen: list[str] = []
    for stem in sorted(stems, key=lambda stem: keyed(key, stem)):
        if len(chosen) * one_in >= len(eligible):
            break
        chosen += stems[stem]
    return frozenset(chosen)


def keyed(*parts: object) -> int:
    """A 64-bit number that is a function of the parts alone; for draws that must be the same everywhere."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
