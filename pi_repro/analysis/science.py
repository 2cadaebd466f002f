"""The page of a report with claims: arms, seeds, measures and sets can be switched, and intervals follow.

Rule: one file that works without a network; plain JavaScript computes from numbers inside the file, with the
formulas of intervals.py, and every figure has a table behind it. What doesn't depend on switches is written here;
without scripts it is all there, and figures stand in figures/ as SVG, PNG and PDF. The same results, the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from . import page, sections, tradeoff_shown
from .findings import Findings
from .groups import MOST
from .headline import Headline
from .inference import Inference
from .payload import embedded, payload
from .results import Results
from .style import Look, Picture
from .tables import Table

#: Text on the page's paper, by place of the arm: the baseline, then the colours in turn; at least 4.5:1 each.
LIGHT = ("#5f6773", "#1668b0", "#b8480a", "#08755a", "#97448a", "#8a6200", "#2a7a9c")
DARK = ("#a0a8b4", "#6db3f2", "#ff9a5c", "#4cc9a4", "#dd9bd2", "#e3b341", "#8fd0ea")
#: Arms that are switched on at first: the baseline, those the spec names, and the next.
SHOWN = MOST

_SCRIPTS = ("statistics.js", "drawing.js", "figures.js", "switches.js")
_CONTENTS = (
    '<nav class="toc" aria-label="Contents"><a href="#claims">Claims</a><a href="#figures">Figures</a>'
    '<a href="#wins">Wins</a><a href="#power">Power</a><a href="#table-sets">Every set</a>'
    '<a href="#methods">Methods</a></nav>'
)
_FIGURES = (
    ("emergence", "Where a difference emerges", "Any set, or the mean of several. Every checkpoint is another look: a "
     "single interval that excludes zero on the way is weak evidence."),
    ("differences", "Set by set", ""),
    ("families", "Mean accuracy of each family", "Unweighted means over the sets of a family; top-5 leaves out sets "
     "under five classes."),
    ("scaling", "Scaling of zero-shot accuracy with pairs seen", "One least-squares line a seed through log accuracy "
     "and log pairs, from the first checkpoint after the start; chance is not subtracted, so an exponent near the "
     "chance line says little."),
    ("retrieval", "Retrieval along pretraining", "A query is right at k when one of its right answers is among the "
     "first k. Margin: best right minus best wrong cosine, mean over all queries."),
)  # fmt: skip


def science_page(
    settings: Mapping[str, Any],
    results: Results,
    findings: Findings,
    inferred: Inference,
    words: Headline,
    pictures: Sequence[Picture],
    known: Mapping[str, Look],
    methods: str = "",
    probes: Table | None = None,
) -> bytes:
    """The whole page, UTF-8.

    Args:
        pictures: those that are not drawn anew: 2AFC, and what was retrieved.
        known: arm -> colour and marker, as in the pictures.
        methods: the generated paragraph.
        probes: what was measured on kept checkpoints, where it was.
    """
    themed = {arm: Look(f"var(--arm-{place})", look.marker) for place, (arm, look) in enumerate(known.items())}
    by_name = {picture.name: page.figure(picture) for picture in pictures}
    checks = [made for name, made in by_name.items() if name.startswith("two_afc")]
    panels = [made for name, made in by_name.items() if not name.startswith(("two_afc", tradeoff_shown.NAME))]
    main = [
        f'<p class="eyebrow">{escape(settings["title"])} · <code>{escape(settings["name"])}</code></p>',
        f"<h1>{escape(words.verdict)}</h1>",
        _CONTENTS,
        page.check(results, findings, themed),
        *checks,
        page.outcome(words, results, findings, themed),
        sections.claims(inferred),
        _switches(results, themed, set(arms_in_order(settings, results, inferred.posthoc)[:SHOWN])),
        *(_figure(*one, results) for one in _FIGURES),
        tradeoff_shown.section(inferred.tradeoff, themed, by_name) if inferred.tradeoff else "",
        sections.onsets(inferred, results, themed),
        sections.wins(inferred, results, themed),
        sections.laws(inferred, themed),
        sections.power(inferred, themed),
        *panels,
        _named("table-sets", page.every_set(results, findings, themed)),
        _retrieval_table(results),
        _probes(probes, results),
        page.overlaps(results),
        page.reading(results, findings),
        f'<section id="methods"><h2>Methods and compute</h2><p>{escape(methods)}</p></section>' if methods else "",
        page.computed(results),
    ]
    content = embedded(payload(results, findings, themed))
    notice = f'<div class="notice" role="note">{escape(settings["notice"])}</div>' if settings["notice"] else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(settings['title'])}</title><style>\n{_styles(len(results.arms))}</style></head><body>\n"
        f'<a class="skip" href="#main">Skip to the results</a>{notice}<main id="main">\n'
        + "\n".join(part for part in main if part)
        + f'\n</main>\n<script type="application/json" id="data">{content}</script>\n<script>\n{_script()}</script>\n'
        "</body></html>\n"
    ).encode()


def named_arms(settings: Mapping[str, Any], results: Results, posthoc: str | None = None) -> list[str]:
    """The baseline and the arms that the spec's report names; a chosen post-hoc arm in place of the named one."""
    asked = settings["report"]
    wanted = (results.baseline, asked["treatment"], posthoc or asked.get("posthoc"))
    return list(dict.fromkeys(name for name in wanted if name in results.arms))


def arms_in_order(settings: Mapping[str, Any], results: Results, posthoc: str | None = None) -> list[str]:
    """Those first, then all others: colours go by this."""
    return list(dict.fromkeys((*named_arms(settings, results, posthoc), *results.arms)))


def _read(name: str) -> str:
    return resources.files("pi_repro.analysis").joinpath(name).read_text(encoding="utf-8")


def _styles(arms: int) -> str:
    def variables(colours: Sequence[str]) -> str:
        places = [0, *((number % (len(colours) - 1)) + 1 for number in range(arms - 1))]
        return " ".join(f"--arm-{number}: {colours[place]};" for number, place in enumerate(places))

    return (
        f"{_read('theme.css')}\n"
        f":root {{ {variables(LIGHT)} --focus: #1668b0; --edge: #838b96; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} --focus: #6db3f2; --edge: #77808d; }} }}\n"
        f"{_read('interactive/page.css')}"
    )


def _script() -> str:
    parts = "\n".join(_read(f"interactive/{name}") for name in _SCRIPTS)
    # Objects of sorted keys have lost their order: measures come as pairs.
    begin = "data.measures = Object.fromEntries(data.measures);\n"
    return f'"use strict";\nconst data = JSON.parse(document.getElementById("data").textContent);\n{begin}{parts}'


def _switches(results: Results, known: Mapping[str, Look], shown: set[str]) -> str:
    arms = "".join(
        f'<label class="chip" style="color:{known[name].colour}"><input type="checkbox" name="arm" value="{name}"'
        f"{' checked' if name in shown else ''}>{name}</label>"
        for name in known
    )
    seeds = "".join(
        f'<label class="chip"><input type="checkbox" name="seed" value="{seed}" checked>{seed}</label>'
        for seed in results.seeds
    )
    both = '<button type="button" name="{0}-all">all</button><button type="button" name="{0}-reset">reset</button>'
    return (
        '<form id="switches" class="switches" hidden aria-label="What figures and tables show"><details open>'
        '<summary><b>Switches</b><span id="summary" role="status"></span></summary>'
        f'<div class="row"><fieldset><legend>Arms</legend>{arms}{both.format("arm")}</fieldset></div>'
        f'<div class="row"><fieldset><legend>Seeds</legend>{seeds}</fieldset></div>'
        '<div class="row"><span><label class="name" for="measure">Measure</label><select id="measure"></select></span>'
        '<span><label class="name" for="group">Set</label><select id="group"></select></span></div></details></form>'
    )


def _figure(name: str, title: str, lead: str, results: Results) -> str:
    if name == "retrieval" and not results.suite.retrieval:
        return ""
    if name == "differences" and not results.others:
        return ""
    intro = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    anchor = ' id="figures"' if name == "emergence" else ""
    return (
        f"<section{anchor}><h2>{escape(title)}</h2>{intro}"
        f'<div id="{name}"><p class="lead">This figure is drawn by a script; figures/ holds it as SVG, PNG and PDF.</p>'
        "</div></section>"
    )


def _named(name: str, section: str) -> str:
    return section.replace("<section>", f'<section id="{name}">', 1)


def _retrieval_table(results: Results) -> str:
    if not results.suite.retrieval:
        return ""
    caption = (
        "Recall in per cent and margin as cosine, at the end; arms beside the baseline as difference with 95 % interval"
    )
    return _named("table-retrieval", f"<section><h2>Retrieval sets</h2>{page.grid(caption, ('set',), ())}</section>")


def _probes(probes: Table | None, results: Results) -> str:
    if probes is None or not probes.rows:
        return ""
    return sections.generic("Probes", "What kept checkpoints hold besides zero-shot accuracy", probes, results.arms)
