"""report: what an experiment's results mean, as numbers, tables, figures and one page.

Rule: a function of the results, the suite and the settings; nothing that depends on when, where or how fast.

Gives metrics.json, tables.json, tables/*.csv, figures/*.svg and *.png, index.html, report.md. Where the spec has a
`report` section, tables of tests, gated wins, power and claims come with them, the page is interactive, and there are
figures/*.pdf, latex/*.tex and methods.txt for a paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from pi_repro.analysis import bars, choices, curves, latex, panels, probes, style, tradeoff_shown
from pi_repro.analysis.brief import brief
from pi_repro.analysis.findings import Findings, find
from pi_repro.analysis.groups import groups, only
from pi_repro.analysis.headline import headline
from pi_repro.analysis.inference import Inference, infer
from pi_repro.analysis.inference_tables import inference_tables
from pi_repro.analysis.methods import paragraph
from pi_repro.analysis.page import page
from pi_repro.analysis.panels import Images
from pi_repro.analysis.results import Results
from pi_repro.analysis.science import arms_in_order, named_arms, science_page
from pi_repro.analysis.style import Look, Picture
from pi_repro.analysis.suite import read_suite
from pi_repro.analysis.tables import by_name, metrics, tables
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted
from pi_repro.files import write_atomic, write_json
from pi_repro.stages.context import StageContext

STEPS = 4
#: Figures that an interactive page draws itself.
ANEW = ("headline", "differences", "families", "scaling", "retrieval")


def run(context: StageContext) -> None:
    """Write reports/<exp>/.

    Raises:
        StateError: results are missing, strange, damaged or inconsistent, by name.
        Interrupted: asked to stop; there is nothing to resume, the next run starts over.
    """
    settings, out = context.settings, context.out
    suite = read_suite(context.inputs["suite"])
    results = Results(context.inputs["results"], settings, suite)
    _step(context, 0, "reading and comparing")
    findings = find(results)
    words = headline(results, findings)
    inferred = infer(settings, results, findings) if settings.get("report") else None
    _step(context, 1, "drawing")
    order = arms_in_order(settings, results, inferred.posthoc) if inferred else list(results.arms)
    known = style.looks(order, results.baseline)
    with style.drawing(pdf=inferred is not None):
        pictures = tuple(_pictures(context, results, findings, known))
        if inferred and inferred.tradeoff:
            pictures += (tradeoff_shown.picture(inferred.tradeoff, settings["notice"]),)
    _step(context, 2, "writing")
    probed = probes.table(results) if results.probed else None
    made = (
        *tables(results, findings),
        *(inference_tables(inferred) if inferred else ()),
        *((probed,) if probed else ()),
    )
    for table in made:
        write_atomic(out / "tables" / f"{table.name}.csv", table.csv())
    write_json(out / "tables.json", by_name(made))
    write_json(out / "metrics.json", metrics(results, findings))
    for picture in pictures:
        write_atomic(out / "figures" / f"{picture.name}.svg", picture.svg)
        write_atomic(out / "figures" / f"{picture.name}.png", picture.png)
        if picture.pdf:
            write_atomic(out / "figures" / f"{picture.name}.pdf", picture.pdf)
    _step(context, 3, "the page")
    if inferred:
        methods = paragraph(settings, results)
        _for_a_paper(context, results, findings, inferred, methods)
        drawn = tuple(picture for picture in pictures if not picture.name.startswith(ANEW))
        html = science_page(settings, results, findings, inferred, words, drawn, known, methods, probed)
    else:
        html = page(settings, results, findings, words, pictures, known)
    write_atomic(out / "index.html", html)
    write_atomic(out / "report.md", brief(settings, results, findings, words, pictures, inferred))
    context.progress(STEPS, STEPS, "steps", "done")
    context.log.info("%s", words.verdict)


def _for_a_paper(
    context: StageContext, results: Results, findings: Findings, inferred: Inference, methods: str
) -> None:
    """LaTeX tables, and the paragraph on methods as text and LaTeX."""
    arms, folder = named_arms(context.settings, results, inferred.posthoc), context.out / "latex"
    write_atomic(folder / "sets.tex", latex.sets(results, findings, arms))
    if results.suite.retrieval:
        write_atomic(folder / "retrieval.tex", latex.retrieval(results, findings, arms))
    if inferred.tradeoff:
        write_atomic(folder / "tradeoff.tex", tradeoff_shown.tex(inferred.tradeoff))
    if inferred.claims:
        write_atomic(folder / "claims.tex", latex.claims(inferred.claims))
    if methods:
        write_atomic(folder / "methods.tex", latex.methods(methods))
        write_atomic(context.out / "methods.txt", f"{methods}\n".encode())


def _pictures(context: StageContext, results: Results, findings: Findings, known: dict[str, Look]) -> Iterator[Picture]:
    """Figures in the order of the page; where arms are too many for one, those of the first of them."""
    notice = context.settings["notice"]
    images = _images(context)
    asked = context.settings.get("report")
    arms = tuple(groups(list(known))) if asked else (tuple(results.arms),)
    for number, group in enumerate(arms, start=1):
        shown, found = (results, findings) if len(arms) == 1 else only(results, findings, group)
        made = [
            choices.two_afc(shown, found, known, notice),
            curves.headline(shown, found, known, notice),
            bars.differences(shown, found, known, notice) if shown.others else None,
            bars.families(shown, found, known, notice),
            curves.scaling(shown, found, known, notice),
            curves.retrieval(shown, found, known, notice),
        ]
        for picture in made:
            if picture:
                yield (
                    picture
                    if number == 1
                    else replace(
                        picture, name=f"{picture.name}-{number}", title=f"{picture.title}: {', '.join(group[1:])}"
                    )
                )
    first, _ = (results, findings) if len(arms) == 1 else only(results, findings, arms[0])
    for benchmark in results.suite.retrieval:
        yield panels.text_to_image(first, benchmark, images, known, notice)
        yield panels.image_to_text(first, benchmark, images, known, notice)


def _images(context: StageContext) -> Images:
    @cache
    def shards(name: str) -> Shards:
        return Shards.open(context.inputs["suite"] / name, context.data_root)

    return lambda name, row: shards(name).read("image", row)


def _step(context: StageContext, number: int, note: str) -> None:
    if context.should_stop():
        raise Interrupted("the report was asked to stop", todo="run it again; it takes seconds")
    context.progress(number, STEPS, "steps", note)
