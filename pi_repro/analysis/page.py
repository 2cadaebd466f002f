"""The report as one HTML page.

Rule: one file that needs no other and no network; it says first what it is no evidence of, then whether the
manipulation worked, then what came out; every figure has words for those who can't see it, and every
number stands in a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from . import style
from .estimators import Crossed
from .findings import Findings, Row
from .headline import Headline, checks
from .results import MEASURE_TITLES, Results
from .statistics import REPLICATES, Estimate
from .style import Look, Picture
from .vector import inline

#: A line under each figure's title, by figure name (up to its first "-").
LEADS = {
    "headline": "Where a difference emerges on the set that the headline is about. Every checkpoint is another look: "
    "a single interval that excludes zero on the way is weak evidence.",
    "two_afc": "Does the network choose as the labels say? Pixel error needs no network at all; what exceeds neither "
    "it nor the untrained network was not learned in stage 1.",
    "differences": "Intervals resample the same items for both arms, and seeds. Arrows leave the axis.",
    "families": "Unweighted means over the sets of a family; top-5 leaves out sets under five classes.",
    "scaling": "One least-squares line a seed through log accuracy and log pairs, from the first checkpoint after "
    "the start; chance is not subtracted, so an exponent near the chance line says little.",
    "retrieval": "A query is right at k when one of its right answers is among the first k.",
    "tradeoff": "Every setting of alignment after pretraining that was tried on the same weights. To the right: more "
    "zero-shot; upwards: more like the triplets.",
    "text_to_image": "Queries were fixed before evaluation. Under each image its cosine; Δ is the best right minus "
    "the best wrong one.",
    "image_to_text": "Queries were fixed before evaluation. Before each caption its cosine; Δ is the best right minus "
    "the best wrong one.",
}


def page(
    settings: Mapping[str, Any],
    results: Results,
    findings: Findings,
    words: Headline,
    pictures: Sequence[Picture],
    known: Mapping[str, Look],
) -> bytes:
    """The whole page, UTF-8."""
    style_sheet = resources.files("pi_repro.analysis").joinpath("theme.css").read_text(encoding="utf-8")
    notice = f'<div class="notice" role="note">{escape(settings["notice"])}</div>' if settings["notice"] else ""
    parts = [
        f'<p class="eyebrow">{escape(settings["title"])} · <code>{escape(settings["name"])}</code></p>',
        f"<h1>{escape(words.verdict)}</h1>",
        check(results, findings, known),
        outcome(words, results, findings, known),
        *(figure(picture) for picture in pictures),
        every_set(results, findings, known),
        overlaps(results),
        reading(results, findings),
        computed(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(settings['title'])}</title><style>\n{style_sheet}</style></head><body>\n"
        f"{notice}<main>\n" + "\n".join(part for part in parts if part) + "\n</main></body></html>\n"
    ).encode()


def check(results: Results, findings: Findings, known: Mapping[str, Look]) -> str:
    rows = []
    for arm, choices in checks(results, findings).items():
        name = f'<tr><th scope="row">{named(arm, known)}</th>'
        if not choices:
            rows.append(f'{name}<td class="text" colspan="6">not measured</td></tr>')
        for choice in choices:
            change = choice.raised[arm]
            before = choice.untrained.value if choice.untrained else 0.0
            raised = change.sign > 0
            rows.append(
                f'{name}<td class="text">{escape(choice.held.data)}, {choice.held.split}</td>'
                f"<td>{style.percent(choice.pixel)}</td><td>{style.percent(before)}</td>"
                f"<td>{style.percent(before + change.value)}</td>{valued(change, signed=True)}"
                f'<td class="{"good" if raised else "fail"}">{"✓ raised" if raised else "✕ not raised"}</td></tr>'
            )
    if not rows:
        return ""
    header = ("arm", "held-out triplets", "pixel error", "untrained", "after stage 1", "change", "")
    caption = "2AFC in per cent on triplets that stage 1 never saw; raised: the change's 95 % interval lies above zero"
    return f"<section><h2>Did stage 1 work?</h2>{grid(caption, header, rows, words=2)}</section>"


def named(name: str, known: Mapping[str, Look]) -> str:
    return f'<b class="arm" style="color:{known[name].colour}">{escape(name)}</b>'


def valued(estimate: Estimate | None, signed: bool = False) -> str:
    if estimate is None:
        return "<td>—</td>"
    value = style.signed(estimate.value) if signed else style.percent(estimate.value)
    value = f"<b>{value}</b>" if signed and estimate.sign else value
    return f"<td>{value}<small>{style.interval(estimate)}</small></td>"


def grid(caption: str, header: Sequence[str], rows: Iterable[str], words: int = 1) -> str:
    """A table whose first `words` columns hold words; the others are numbers."""
    head = "".join(
        f'<th scope="col"{" class=text" if number < words else ""}>{cell}</th>' for number, cell in enumerate(header)
    )
    return (
        f'<p class="lead" aria-hidden="true">{escape(caption)}</p><div class="scroll" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def outcome(words: Headline, results: Results, findings: Findings, known: Mapping[str, Look]) -> str:
    rows = []
    for name, arm in results.arms.items():
        wins = findings.wins.get(name)
        won = f"<td>{wins.wins} of {findings.counted}<small>p = {wins.p:.2g}</small></td>" if wins else "<td>—</td>"
        rows.append(
            f'<tr><th scope="row" class="text">{named(name, known)}<small>{escape(arm.description)}</small></th>'
            f"{valued(findings.headline.arms[name])}{valued(findings.headline.differences.get(name), signed=True)}"
            f"<td>{style.times(findings.multiples[name]).replace(' [', '<small>[', 1)}</small></td>{won}</tr>"
        )
    header = ("arm", "top-1, %", f"minus {escape(results.baseline)}", "× chance", "sets ahead")
    seeds = f"{len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed: intervals cover items alone"
    caption = f"{results.suite.headline.title}, last checkpoint, {seeds}"
    lines = "".join(f"<li>{escape(line)}</li>" for line in words.results)
    return (
        f"<section><h2>What came out</h2>{grid(caption, header, rows)}"
        f"<details><summary>In sentences</summary><ul>{lines}</ul></details></section>"
    )


def figure(picture: Picture) -> str:
    lead = LEADS.get(picture.name.split("-", 1)[0], "")
    return (
        f'<section><h2>{escape(picture.title)}</h2><p class="lead">{escape(lead)}</p>'
        f'<div class="scroll" tabindex="0">{inline(picture)}</div></section>'
    )


def every_set(results: Results, findings: Findings, known: Mapping[str, Look]) -> str:
    names = {b.id: b for b in results.suite.benchmarks}
    others = [arm.name for arm in results.others]
    header = ["set", "measure", "n", "chance", named(results.baseline, known), *(named(arm, known) for arm in others)]
    rows: list[str] = []
    family = None
    for row in findings.rows:
        if row.family != family:
            family = row.family
            rows.append(f'<tr class="family"><th scope="rowgroup" colspan="{len(header)}">{escape(family)}</th></tr>')
        rows.append(_set(row, names[row.name].title, names[row.name].n, results.baseline, others))
    caption = (
        "Accuracy in per cent with 95 % interval; arms beside the baseline as difference in percentage points, "
        "bold where the interval excludes zero. Grey: no arm can be told from chance."
    )
    return f"<section><h2>Every set</h2>{grid(caption, header, rows)}</section>"


def _set(row: Row, title: str, n: int, baseline: str, others: Sequence[str]) -> str:
    guess = ' class="guess"' if row.at_chance and set(row.at_chance) == set(row.arms) else ""
    mark = "<small>at chance</small>" if baseline in row.at_chance else ""
    cells = "".join(valued(row.differences[arm], signed=True) for arm in others)
    return (
        f'<tr{guess}><th scope="row">{escape(title)}{mark}</th><td>{escape(MEASURE_TITLES[row.measure])}</td>'
        f"<td>{n:,}</td>"
        f"<td>{style.percent(row.chance, 2)}</td>{valued(row.arms[baseline])}{cells}</tr>"
    )


def overlaps(results: Results) -> str:
    rows = [
        f'<tr><th scope="row">{escape(b.title)}</th><td class="text">{escape(b.note) or "—"}</td>'
        f"<td>{'yes' if b.disjoint else 'no'}</td></tr>"
        for b in results.suite.benchmarks
    ]
    caption = "What each set shares with training or with another set; only disjoint ones are counted as wins"
    return f"<section><h2>What overlaps</h2>{grid(caption, ('set', 'shares', 'counted'), rows, words=2)}</section>"


def reading(results: Results, findings: Findings) -> str:
    guesses = ", ".join(findings.guesses)
    lines = [
        _intervals(results),
        "The sign test takes sets as independent. They are judged by the same networks, so its p is too small, and it "
        "counts a tiny difference as much as a large one.",
        "Many intervals are shown and none is corrected for their number: one in twenty excludes zero by chance.",
        "At chance: the exact binomial interval of the accuracy covers chance. Wins there mean nothing"
        + (f"; no arm leaves it on {guesses}." if guesses else "; here some arm leaves it on every counted set."),
        "A family's interval takes its sets' items as different, which nested sets are not: it is then too narrow.",
    ]
    return f"<section><h2>How to read it</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></section>"


def _intervals(results: Results) -> str:
    if isinstance(results.estimator, Crossed):
        return (
            "Intervals are 95 % intervals over new seeds and new items, the same items for both arms; captions of one "
            "image count as one item. Seeds and items have a variance and a Student's t each; with one seed they cover "
            "items alone."
        )
    return (
        f"Intervals are 95 % percentile intervals of {REPLICATES:,} resamplings of seeds and items, the same items for "
        "both arms; captions of one image count as one item. With few seeds they are rough: they fall short "
        "where seeds differ by more than items explain."
    )


def computed(results: Results) -> str:
    rows = []
    for name, arm in results.arms.items():
        last = results.checkpoints[name][-1]
        hashes = " ".join(f"<code>{sha[:12]}</code>" for sha in results.weights[name])
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(" → ".join(arm.stages))}</td>'
            f"<td>{escape(arm.start)}</td><td>{len(results.checkpoints[name])}</td><td>{last.update:,}</td><td>{last.samples:,}</td><td>{hashes}</td></tr>"
        )
    header = ("arm", "stages", "starts from", "checkpoints", "updates", "samples", "weights judged last, by seed")
    caption = f"Updates and samples of the last stage, for each of the seeds {', '.join(map(str, results.seeds))}"
    return f"<section><h2>What was computed</h2>{grid(caption, header, rows)}</section>"
