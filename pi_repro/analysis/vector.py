"""SVG files made fit to stand inside a page.

Rule: the page's copy takes its ink, rules and paper from the page's theme, so that it can be read in the
dark; its ids are unique in the page; nothing else changes.
"""

from __future__ import annotations

import re
from html import escape

from . import style
from .style import Picture

_THEME = {style.INK: "var(--ink)", style.SOFT: "var(--soft)", style.RULE: "var(--rule)", style.PAPER: "var(--paper)"}


def inline(picture: Picture) -> str:
    """The figure as an <svg> element with a label for screen readers."""
    text = picture.svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    prefix = picture.name
    seen: set[str] = set()

    def unique(match: re.Match[str]) -> str:
        # matplotlib defines a marker once an axes, each time alike under one id: the first serves all.
        name = match.group(1)
        known = name in seen
        seen.add(name)
        return "" if known else f' id="{prefix}-{name}"'

    text = re.sub(r'\sid="([^"]+)"', unique, text)
    text = re.sub(r'\bhref="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for colour, variable in _THEME.items():
        text = re.sub(rf"(fill|stroke): ?{colour}", rf"\1:{variable}", text)
    head, rest = text.split(">", 1)
    size = re.search(r'width="([\d.]+)pt"', head)
    wide = float(size.group(1)) * 4 / 3 if size else 0.0
    head = re.sub(r'\s(width|height|version|xmlns)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(picture.alt, quote=True)}" style="width:{wide:.0f}px">{rest}'
