"""The report in a page of Markdown, for a terminal or a README.

Rule: the same words and order as the page, without its figures' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import style
from .findings import Findings
from .headline import Headline
from .results import Results
from .statistics import Estimate
from .style import Picture


def brief(
    settings: Mapping[str, Any], results: Results, findings: Findings, words: Headline, pictures: Sequence[Picture]
) -> bytes:
    """report.md, UTF-8."""
    lines = [f"# {settings['title']}", ""]
    if settings["notice"]:
        lines += [f"**{settings['notice']}**", ""]
    lines += [words.verdict, ""]
    if words.check:
        lines += ["## Did stage 1 work?", "", *(f"- {line}" for line in words.check), ""]
    lines += ["## What came out", "", *(f"- {line}" for line in words.results), ""]
    arms = list(results.arms)
    lines += ["## Family means, %", "", f"| family | measure | {' | '.join(arms)} |", f"|---|---|{'---:|' * len(arms)}"]
    for row in findings.families:
        cells = [_cell(row.arms[arm].value, row.differences.get(arm)) for arm in arms]
        lines.append(f"| {row.name} | {row.measure.replace('top', 'top-')} | {' | '.join(cells)} |")
    lines += ["", f"In brackets the difference to {results.baseline}, bold where its 95 % interval excludes zero.", ""]
    lines += ["## Figures", "", *(f"- [{picture.title}](figures/{picture.name}.svg)" for picture in pictures), ""]
    return "\n".join(lines).encode()


def _cell(value: float, difference: Estimate | None) -> str:
    if difference is None:
        return style.percent(value)
    text = style.signed(difference.value)
    return f"{style.percent(value)} ({f'**{text}**' if difference.sign else text})"
