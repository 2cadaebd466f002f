"""The report in a page of Markdown, for a terminal or a README.

Rule: the same words and order as the page, without its figures' numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import style, tradeoff_shown
from .findings import Findings
from .headline import Headline
from .inference import Inference
from .results import Results
from .statistics import Estimate
from .style import Picture


def brief(
    settings: Mapping[str, Any],
    results: Results,
    findings: Findings,
    words: Headline,
    pictures: Sequence[Picture],
    inferred: Inference | None = None,
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
    if inferred is not None:
        lines += [*_wins(inferred, results.baseline), *_claims(inferred)]
        lines += tradeoff_shown.lines(inferred.tradeoff) if inferred.tradeoff else []
    lines += ["## Figures", "", *(f"- [{picture.title}](figures/{picture.name}.svg)" for picture in pictures), ""]
    return "\n".join(lines).encode()


def _wins(inferred: Inference, baseline: str) -> Iterator[str]:
    """Wins raw and gated, and the mean difference with tests of it."""
    yield from (f"## Wins against {baseline}", "")
    yield (
        "| arm | raw | gated | expected of a seed | sets like | mean top-1, points | p | p, all arms (Holm) "
        "| p, sign test over sets |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for arm, one in inferred.contests.items():
        raw, gated = one.count.raw, one.count.gated
        low, high = one.wins.low, one.wins.high
        interval = f" [{low:.1f}, {high:.1f}]".replace("-", "−") if low is not None and high is not None else ""
        effective = f"{one.effective:.1f}" if one.effective is not None else "—"
        plain, adjusted, *_ = inferred.by_seeds(arm)
        yield (
            f"| {arm} | {raw.wins} of {raw.sets} | {gated.wins} of {gated.sets} | {one.wins.value:.1f}{interval} "
            f"| {effective} | {style.signed(one.mean.value)} {style.interval(one.mean)} | {plain.p:.2g} "
            f"| {adjusted.p:.2g} | {one.by_sets[0].p:.2g} |"
        )
    yield ""
    yield (
        "Gated: sets whose winner can't be told from chance are left out. Sets like: to how many independent ones they "
        "amount, by how they move together from seed to seed; the sign test takes them as independent and its p is "
        "too small. The other p are of the mean difference, over new seeds and images."
    )
    yield ""


def _claims(inferred: Inference) -> Iterator[str]:
    """Verdicts, and what keeps them from being given, which all claims or none of them lack, once."""
    if not inferred.claims:
        return
    shared = [reason for reason in inferred.claims[0].lacking if all(reason in one.lacking for one in inferred.claims)]
    yield from ("## The paper's claims", "")
    if shared:
        yield f"Not the paper's experiment, so nothing here is a verdict on it: {'; '.join(shared)}."
        yield ""
    yield "| claim | where | verdict | the same test on this data | why |"
    yield "|---|---|---|---|---|"
    for one in inferred.claims:
        reasons = [reason for reason in (*one.lacking, *one.why) if reason not in shared]
        why = "; ".join(reasons[:2]) + (f"; {len(reasons) - 2} more" if len(reasons) > 2 else "")
        yield f"| {one.claim.claim} | {one.claim.source} | {one.verdict} | {one.here} | {why} |"
    yield ""


def _cell(value: float, difference: Estimate | None) -> str:
    if difference is None:
        return style.percent(value)
    text = style.signed(difference.value)
    return f"{style.percent(value)} ({f'**{text}**' if difference.sign else text})"
