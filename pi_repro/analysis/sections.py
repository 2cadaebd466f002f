"""What a report with claims says in tables: verdicts, wins, onsets, forms of scaling, power.

Rule: every table has a caption and headers for each row and column; rows of an arm carry its name, so that the page's
switches can hide them; without scripts all of them are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from . import style
from .claims import Judged
from .emergence import Onset
from .inference import Inference
from .page import grid, named
from .results import MEASURE_TITLES, Results
from .statistics import Estimate
from .style import Look
from .tables import Table

_MARKS = {"holds": "holds", "fails": "fails", "open": "open", "not computed": "none"}
_VERDICTS = {"reproduced": "holds", "not reproduced": "fails", "not measured at this scale": "none"}

#: Of what keeps a claim open, this many are said in its row; tables/claims.csv has all.
REASONS = 2


def claims(found: Inference) -> str:
    """Row, estimand, planned test and verdict of each claim, and the numbers behind it."""
    if not found.claims:
        return ""
    shared = shared_reasons(found.claims)
    rows = []
    for one in found.claims:
        claim = one.claim
        reasons = [reason for reason in (*one.lacking, *one.why) if reason not in shared]
        more = f"; {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
        why = f"<small>{escape('; '.join(reasons[:REASONS]) + more)}</small>" if reasons else ""
        here = f'<span class="verdict {_MARKS[one.here]}">{one.here}</span>'
        rows.append(
            f'<tr><th scope="row">{escape(claim.claim)}<small>{escape(claim.source)} · <code>{claim.id}</code></small>'
            "</th>"
            f'<td data-label="estimand">{escape(claim.estimand)}</td>'
            f'<td data-label="planned test">{escape(claim.planned)}<small>{escape(claim.rule.words)}</small></td>'
            f'<td data-label="verdict"><span class="verdict {_VERDICTS[one.verdict]}">{one.verdict}</span></td>'
            f'<td data-label="same test on this data">{here}{why}</td></tr>'
        )
    note = ""
    if shared:
        note = (
            '<p class="lead">Not the paper\'s data, so nothing here is a verdict on it: '
            f"{escape('; '.join(shared))}. The last column applies the same test and rule to this experiment's "
            "data.</p>"
        )
    header = (
        "claim, in our words",
        "estimand",
        "planned test and rule",
        "verdict on the paper",
        "same test on this data",
    )
    caption = "Written before looking: what is estimated, how it is tested, and from which numbers on it counts"
    return (
        f'<section id="claims"><h2>The paper\'s claims</h2>{note}{_words(grid(caption, header, rows, words=5))}'
        f"{_folded('Numbers behind the verdicts', _components(found))}</section>"
    )


def shared_reasons(judged: tuple[Judged, ...]) -> list[str]:
    """What all claims lack."""
    return [reason for reason in judged[0].lacking if all(reason in one.lacking for one in judged)]


def _components(found: Inference) -> str:
    rows = [
        f'<tr><th scope="row">{escape(one.claim.id)}</th><td class="text">{escape(part.name)}</td>'
        f"<td>{_plain(part.estimate.value)}</td><td>{_ends(part.estimate)}</td><td>{_ends(part.joint)}</td>"
        f'<td class="text">{escape(one.claim.rule.unit)}</td><td>{_p(part.p)}</td></tr>'
        for one in found.claims
        for part in one.computed.components
    ]
    rows += [
        f'<tr><th scope="row">{escape(one.claim.id)}</th><td class="text">{escape(name)}</td>'
        f'<td>{_epoch(onset.epoch)}</td><td>{_between(onset)}</td><td>—</td><td class="text">epochs</td><td>—</td></tr>'
        for one in found.claims
        for name, onset in one.computed.onsets
    ]
    header = ("claim", "what", "value", "95 %", "95 % with the claim's others", "unit", "p")
    return grid("Components of each claim; one fails when its joint interval lies below what matters", header, rows, 2)


def wins(found: Inference, results: Results, known: Mapping[str, Look]) -> str:
    """Wins raw, gated and split by overlap, and the tests beside them."""
    if not found.contests:
        return ""
    rows, tests = [], []
    kinds = list(dict.fromkeys(kind for one in found.contests.values() for kind in one.count.split))
    for arm, one in found.contests.items():
        raw, gated = one.count.raw, one.count.gated
        split = "".join(
            f"<td>{tally.wins} of {tally.sets}</td>" if (tally := one.count.split.get(kind)) else "<td>—</td>"
            for kind in kinds
        )
        effective = f"{one.effective:.1f}" if one.effective is not None else "—"
        rows.append(
            f'<tr data-arm="{arm}"><th scope="row">{named(arm, known)}</th><td>{raw.wins} of {raw.sets}</td>'
            f"<td>{gated.wins} of {gated.sets}<small>{gated.dropped} at chance</small></td>{split}"
            f"<td>{one.wins.value:.1f}<small>{_ends(one.wins, 1)}</small></td><td>{effective}</td>"
            f"<td>{_p(raw.p)}</td><td>{_p(gated.p)}</td></tr>"
        )
        for kind, units, outcomes in (("seeds", "seeds", found.by_seeds(arm)), ("sets", "sets", one.by_sets)):
            tests += [
                f'<tr data-arm="{arm}"><th scope="row">{named(arm, known)}</th>'
                f'<td class="text">{escape(test.name)}</td>'
                f'<td class="text">{kind}</td><td>{test.units} {units}</td><td>{_p(test.p)}</td></tr>'
                for test in outcomes
            ]
    header = (
        "arm", "raw", "gated", *(f"gated, NIGHTS overlap: {kind}" for kind in kinds), "expected of a seed",
        "sets like", "sign test p, raw", "gated",
    )  # fmt: skip
    caption = (
        f"Sets on which top-1 is ahead of {results.baseline}, of those that share no item. Gated: without sets whose "
        "winner can't be told from chance. Sets like: to how many independent ones they amount; the sign test takes "
        "all as independent, and its p is too small"
    )
    more = grid(
        "Tests of each arm against the baseline, by what they rest on", ("arm", "test", "rests on", "n", "p"), tests, 3
    )
    return (
        f'<section id="wins"><h2>Wins, raw and gated</h2>{grid(caption, header, rows)}'
        f"{_folded('All tests', more)}</section>"
    )


def onsets(found: Inference, results: Results, known: Mapping[str, Look]) -> str:
    """From when on a gain lasts, set by set."""
    if not found.onsets:
        return ""
    arms = list(found.onsets)
    rows = []
    for benchmark in results.suite.classification:
        cells = "".join(f'<td data-arm="{arm}">{_onset(found.onsets[arm][benchmark.id])}</td>' for arm in arms)
        rows.append(f'<tr><th scope="row">{escape(benchmark.title)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col" data-arm="{arm}">{named(arm, known)}</th>' for arm in arms)
    caption = (
        "First epoch from which top-1 stays above the baseline's, and in brackets the epochs that 95 % intervals "
        "allow; ∞: not within training"
    )
    return f'<section id="onsets"><h2>When gains emerge</h2>{_headed(caption, "set", head, rows)}</section>'


def _onset(onset: Onset) -> str:
    value = "—" if onset.epoch is None else f"{onset.epoch}"
    value = f"<b>{value}</b>" if onset.established else value
    return f"{value}<small>{_between(onset)}</small>"


def laws(found: Inference, known: Mapping[str, Look]) -> str:
    """Power law against saturating form."""
    title = '<section id="laws"><h2>Which form scaling has</h2>'
    if not found.rivals:
        return (
            f'{title}<p class="lead">A power law and a form that bends can be told apart from six checkpoints after '
            "the start on; fewer were kept.</p></section>"
        )
    rows = [
        f'<tr data-arm="{arm}"><th scope="row">{escape(family)}</th><td class="text">{MEASURE_TITLES[measure]}</td>'
        f'<td class="text">{named(arm, known)}</td><td>{r.points}</td><td>{_plain(r.gain.value)}<small>{_ends(r.gain)}'
        f'</small></td><td>{100 * r.bends:.0f} %</td><td class="text">{r.better}</td>'
        f"<td>{style.percent(r.ceiling)} %</td></tr>"
        for (family, measure, arm), r in found.rivals.items()
    ]
    caption = (
        "A power law against a form that bends towards a ceiling: AICc gained by the second (positive: it bends) with "
        "95 % interval over seeds, and how often resampled seeds prefer it"
    )
    header = ("family", "measure", "arm", "checkpoints", "AICc gain", "bends in", "form", "ceiling")
    return f"{title}{grid(caption, header, rows, 3)}</section>"


def power(found: Inference, known: Mapping[str, Look]) -> str:
    """Seeds that it takes to see a difference."""
    rows = []
    effects = next(([n.effect for n in one.needs] for one in found.contests.values() if one.needs), [])
    for arm, one in found.contests.items():
        if not one.needs:
            continue
        cells = "".join(
            f"<td>{_seeds(n.seeds)}<small>{_seeds(n.fewest)} to {_seeds(n.most)}</small></td>" for n in one.needs
        )
        seen = "—" if one.detectable is None else f"{one.detectable:.2f}"
        rows.append(f'<tr data-arm="{arm}"><th scope="row">{named(arm, known)}</th><td>{seen}</td>{cells}</tr>')
    if not rows:
        return ""
    caption = (
        "Seeds for a chance of 80 % to see a true difference in mean top-1, by the paired t; below, at the ends of the "
        "80 % interval of the spread that a few seeds know badly"
    )
    header = ("arm", "these seeds see, points", *(f"seeds for {effect:g} points" for effect in effects))
    return f'<section id="power"><h2>How many seeds it takes</h2>{grid(caption, header, rows)}</section>'


def generic(title: str, caption: str, table: Table, arms: Iterable[str]) -> str:
    """A table as it is, for what other modules measured; rows of an arm go with its switch."""
    known = set(arms)
    place = table.header.index("arm") if "arm" in table.header else None
    rows = []
    for row in table.rows:
        own = f' data-arm="{row[place]}"' if place is not None and row[place] in known else ""
        first, *rest = (
            "" if cell is None else escape(f"{cell:,.4g}" if isinstance(cell, float) else f"{cell}") for cell in row
        )
        rows.append(f'<tr{own}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    header = [escape(name.replace("_", " ")) for name in table.header]
    return f'<section id="{table.name}"><h2>{escape(title)}</h2>{grid(caption, header, rows)}</section>'


def _headed(caption: str, first: str, head: str, rows: Iterable[str]) -> str:
    """A table whose column heads are markup of their own."""
    return (
        f'<p class="lead" aria-hidden="true">{escape(caption)}</p><div class="scroll" tabindex="0"><table>'
        f'<caption>{escape(caption)}</caption><thead><tr><th scope="col" class="text">{first}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _words(table: str) -> str:
    return table.replace("<table>", '<table class="words">', 1)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _between(onset: Onset) -> str:
    if onset.low is None:
        return "ruled out"
    return f"[{onset.low}, {'∞' if onset.high is None else onset.high}]"


def _epoch(epoch: int | None) -> str:
    return "—" if epoch is None else f"{epoch}"


def _seeds(number: int | None) -> str:
    return "over 10,000" if number is None else f"{number:,}"


def _plain(value: float, digits: int | None = None) -> str:
    text = f"{value:.3g}" if digits is None else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _ends(estimate: Estimate, digits: int | None = None) -> str:
    if estimate.low is None or estimate.high is None:
        return "—"
    return f"[{_plain(estimate.low, digits)}, {_plain(estimate.high, digits)}]"


def _p(p: float) -> str:
    return "&lt; 0.001" if p < 0.001 else f"{p:.2g}"
