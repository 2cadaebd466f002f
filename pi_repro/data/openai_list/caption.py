"""The rule by which a title and a description become a caption. It is part of the recipe.

1. HTML entities are resolved and tags (<...>) removed; web addresses (http..., www...) are removed.
2. Control characters and runs of white space become one space; the ends are trimmed.
3. The wanted fields are joined in order, empty ones left out; one that equals the other is said once.
4. A caption that is longer than allowed is cut after the last word that fits.

No field is judged: OpenAI's list is already a choice of photographs with natural language.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_TAG = re.compile(r"<[^<>]*>")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_ENDS = (".", "!", "?", ":", ";", ",", "\N{HORIZONTAL ELLIPSIS}")


def clean(text: str) -> str:
    """Steps 1 and 2."""
    plain = _ADDRESS.sub(" ", _TAG.sub(" ", html.unescape(text)))
    return " ".join("".join(sign if sign.isprintable() else " " for sign in plain).split())


def caption(fields: Sequence[str], joined_by: str, longest: int) -> str:
    """The caption of some fields, which are cleaned here; empty where none says anything."""
    found: list[str] = []
    for field in map(clean, fields):
        if field and field not in found:
            found.append(field)
    text = ""
    for field in found:
        text += ((" " if text.endswith(_ENDS) else joined_by) if text else "") + field
    if len(text) > longest:
        head = text[: longest + 1]
        text = (head.rpartition(" ")[0] or head[:longest]).rstrip()
    return text
