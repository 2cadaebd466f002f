"""report: what an experiment's results mean, as numbers, tables, figures and one page.

Rule: a function of the results, the suite and the settings; nothing that depends on when, where or how fast.

Gives metrics.json, tables.json, tables/*.csv, figures/*.svg and *.png, index.html, report.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pi_repro.analysis import bars, choices, curves, panels, style
from pi_repro.analysis.brief import brief
from pi_repro.analysis.findings import Findings, find
from pi_repro.analysis.headline import headline
from pi_repro.analysis.page import page
from pi_repro.analysis.panels import Images
from pi_repro.analysis.results import Results
from pi_repro.analysis.style import Look, Picture
from pi_repro.analysis.suite import read_suite
from pi_repro.analysis.tables import by_name, metrics, tables
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted
from pi_repro.files import write_atomic, write_json
from pi_repro.stages.context import StageContext

STEPS = 4


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
    _step(context, 1, "drawing")
    known = style.looks(list(results.arms), results.baseline)
    with style.drawing():
        pictures = tuple(_pictures(context, results, findings, known))
    _step(context, 2, "writing")
    made = tables(results, findings)
    for table in made:
        write_atomic(out / "tables" / f"{table.name}.csv", table.csv())
    write_json(out / "tables.json", by_name(made))
    write_json(out / "metrics.json", metrics(results, findings))
    for picture in pictures:
        write_atomic(out / "figures" / f"{picture.name}.svg", picture.svg)
        write_atomic(out / "figures" / f"{picture.name}.png", picture.png)
    _step(context, 3, "the page")
    write_atomic(out / "index.html", page(settings, results, findings, words, pictures, known))
    write_atomic(out / "report.md", brief(settings, results, findings, words, pictures))
    context.progress(STEPS, STEPS, "steps", "done")
    context.log.info("%s", words.verdict)


def _pictures(context: StageContext, results: Results, findings: Findings, known: dict[str, Look]) -> Iterator[Picture]:
    """Figures in the order of the page."""
    notice = context.settings["notice"]
    images = _images(context)
    made = [
        choices.two_afc(results, findings, known, notice),
        curves.headline(results, findings, known, notice),
        bars.differences(results, findings, known, notice) if results.others else None,
        bars.families(results, findings, known, notice),
        curves.scaling(results, findings, known, notice),
        curves.retrieval(results, findings, known, notice),
    ]
    yield from (picture for picture in made if picture)
    for benchmark in results.suite.retrieval:
        yield panels.text_to_image(results, benchmark, images, known, notice)
        yield panels.image_to_text(results, benchmark, images, known, notice)


def _images(context: StageContext) -> Images:
    @cache
    def shards(name: str) -> Shards:
        return Shards.open(context.inputs["suite"] / name, context.data_root)

    return lambda name, row: shards(name).read("image", row)


def _step(context: StageContext, number: int, note: str) -> None:
    if context.should_stop():
        raise Interrupted("the report was asked to stop", todo="run it again; it takes seconds")
    context.progress(number, STEPS, "steps", note)
