"""The whole stage: the same bytes twice, a page that needs nothing else, a notice on every figure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pi_repro.analysis import style
from pi_repro.analysis.findings import Findings
from pi_repro.analysis.headline import headline
from pi_repro.analysis.page import page
from pi_repro.analysis.results import Results
from pi_repro.files import path_digest, read_json

from . import synthetic_results
from .synthetic_results import World, asked

RUN = """
import json, logging, sys
from pathlib import Path
from pi_repro.spec.experiment import Resources
from pi_repro.stages import report
from pi_repro.stages.context import StageContext
settings, results, suite, out = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
rate = {"startup_s": 1, "per_second": 1, "source": "test"}
resources = Resources(gpus=0, parallel=1, workers=0, prefetch=1, checkpoint_every=1, device_watts=1,
                      grid_g_per_kwh=1, rates={"align": rate, "pretrain": rate, "evaluate": rate})
inputs = {"results": results, "suite": suite}
report.run(StageContext("report@demo", settings, inputs, out.parent / "scratch", out, resources))
print("torch" in sys.modules)
"""


def run(world: World, out: Path, hash_seed: str) -> Path:
    """Run the stage in a process of its own, elsewhere, under another hash seed."""
    out.mkdir(parents=True)
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root, "MPLCONFIGDIR": str(out.parent)}
    arguments = [json.dumps(world.settings), str(world.results), str(world.suite), str(out)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=out.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False", "a report must not load torch"
    return out


@pytest.fixture(scope="module")
def report(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(world, tmp_path_factory.mktemp("first") / "out", "1")


def test_two_runs_give_the_same_bytes(world: World, report: Path, tmp_path: Path) -> None:
    again = run(world, tmp_path / "elsewhere" / "out", "2")
    assert path_digest(again) == path_digest(report)


def test_all_that_is_promised_is_there(report: Path) -> None:
    names = {p.relative_to(report).as_posix() for p in report.rglob("*") if p.is_file()}
    directions = ("text_to_image", "image_to_text")
    figures = {"two_afc", "headline", "differences", "families", "scaling", "retrieval"}
    figures |= {f"{direction}-{name}" for direction in directions for name in ("demo-captions", "demo-captions-3d")}
    tables = {"sets", "families", "wins", "emergence", "scaling", "curves", "two_afc", "recorded"}
    assert names == (
        {f"figures/{f}.{kind}" for f in figures for kind in ("svg", "png")}
        | {f"tables/{t}.csv" for t in tables}
        | {"index.html", "report.md", "metrics.json", "tables.json"}
    )
    assert set(read_json(report / "tables.json")) == tables


def test_a_report_section_adds_tables_and_verdicts(report: Path, tmp_path: Path) -> None:
    synthetic_results.write_suite(tmp_path / "suite")
    path = tmp_path / "suite" / "suite.json"
    path.write_text(json.dumps({"sets": json.loads(path.read_text())["sets"][:3]}))
    synthetic_results.write_results(tmp_path / "results", seeds=(0, 1), epochs=(0, 3))
    settings = synthetic_results.settings(seeds=(0, 1))
    settings["evaluate"]["two_afc"] = []
    out = run(asked(World(tmp_path / "results", tmp_path / "suite", settings)), tmp_path / "run" / "out", "3")
    more = set(read_json(out / "tables.json")) - set(read_json(report / "tables.json"))
    assert more == {"bouts", "counts", "tests", "means", "onsets", "power", "claims", "components"}
    assert {p.stem for p in (out / "tables").iterdir()} >= more
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "## Wins against random" in text and "## The paper's claims" in text
    assert text.count("| not measured at this scale |") == len(synthetic_results.CLAIMS.claims)
    assert "Not the paper's experiment, so nothing here is a verdict on it: a tiny, not a ViT-B-32; judged" in text
    assert "intervals over new seeds and new items" in (out / "index.html").read_text(encoding="utf-8")
    assert "percentile intervals" in (report / "index.html").read_text(encoding="utf-8")


def test_every_figure_bears_the_notice_and_no_trace_of_its_making(world: World, report: Path) -> None:
    for path in sorted((report / "figures").iterdir()):
        content = path.read_bytes()
        if path.suffix == ".svg":
            assert f"<!-- {world.settings['notice']} -->".encode() in content
            assert b"<dc:date>" not in content and b"matplotlib.org" not in content
            assert b"font-family" not in content, "glyphs are paths"
        else:
            with Image.open(path) as image:
                assert set(image.info) <= {"dpi"}
        assert b"/work/" not in content and b"/tmp/" not in content


class Reader(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.drawn: list[str | None] = []
        self.headers: list[str | None] = []
        self.tables = self.captions = 0
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(found["id"] or "")
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href", "action")]
        if tag == "svg":
            self.drawn.append(found.get("aria-label"))
        if tag == "th":
            self.headers.append(found.get("scope"))
        self.tables += tag == "table"
        self.captions += tag == "caption"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def read(report: Path) -> Reader:
    reader = Reader()
    reader.feed((report / "index.html").read_text(encoding="utf-8"))
    return reader


def test_page_needs_no_other_file_and_no_network(report: Path, read: Reader) -> None:
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in read.links)
    text = (report / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|<script|<link|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' <>)]+", text)) <= {"http://www.w3.org/1999/xlink"}


def test_inline_figures_keep_apart_and_have_words(read: Reader) -> None:
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert len(read.drawn) == 10 and all(label and len(label) > 40 for label in read.drawn)


def test_tables_are_accessible(read: Reader) -> None:
    assert read.tables == read.captions == 5
    assert all(read.headers)


def test_page_says_first_things_first(world: World, read: Reader) -> None:
    text = " ".join(word.strip() for word in read.words if word.strip())
    order = [world.settings["notice"], "Stage 1 raised", "Did stage 1 work?", "What came out", "Every set"]
    order += ["What overlaps", "How to read it", "What was computed"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "SHARES ITS OUTLINES WITH TRAINING" in text


def test_page_follows_the_readers_theme(report: Path) -> None:
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    drawn = text[text.index("<svg") :]
    assert not any(re.search(rf"(fill|stroke): ?{colour}", drawn) for colour in (style.INK, style.SOFT, style.PAPER))


def test_brief_has_the_notice_and_the_verdict(world: World, report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert world.settings["notice"] in text and "Stage 1 raised" in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (report / target).is_file()


def test_markup_in_a_spec_stays_text(world: World, results: Results, findings: Findings) -> None:
    hostile = "<script>alert(1)</script> & more"
    settings = {**world.settings, "notice": "", "title": hostile}
    known = style.looks(list(results.arms), results.baseline)
    text = page(settings, results, findings, headline(results, findings), (), known).decode()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert 'class="notice"' not in text


@pytest.mark.parametrize("arms", [("random",), tuple(synthetic_results.ARMS)])
def test_no_retrieval_and_no_triplets(tmp_path: Path, arms: tuple[str, ...]) -> None:
    chosen = {name: synthetic_results.ARMS[name] for name in arms}
    synthetic_results.write_suite(tmp_path / "suite")
    path = tmp_path / "suite" / "suite.json"
    sets = [s for s in json.loads(path.read_text())["sets"] if s["task"] == "classification"]
    path.write_text(json.dumps({"sets": sets[:3]}))
    synthetic_results.write_results(tmp_path / "results", chosen, seeds=(1,), epochs=(0, 3))
    settings = synthetic_results.settings(chosen, (1,))
    settings["evaluate"]["two_afc"] = []
    out = run(World(tmp_path / "results", tmp_path / "suite", settings), tmp_path / "run" / "out", "4")
    figures = {p.stem for p in (out / "figures").iterdir()}
    assert figures == {"headline", "families", "scaling"} | ({"differences"} if len(arms) > 1 else set())


def test_looks_differ_and_keep_the_specs_order() -> None:
    found = style.looks(["random", "pi", "concept"], "random")
    assert found["random"].colour == style.BASELINE_COLOUR
    assert [found[a].colour for a in ("pi", "concept")] == list(style.COLOURS[:2])
    assert len({look.marker for look in found.values()}) == 3


def test_numbers_are_written_for_readers() -> None:
    assert style.signed(0.0123) == "+1.2"
    assert style.signed(-0.0123) == "−1.2"
    assert style.signed(-0.0001) == "0.0"
    assert style.percent(0.0812) == "8.1"
    assert [style.count(n) for n in (7680, 1_500_000, 482e6, 12)] == ["7.68k", "1.5M", "482M", "12"]
    assert style.interval(style.Estimate(0, -0.003, 0.021)) == "[−0.3, 2.1]"
    assert style.interval(style.Estimate(0, None, None)) == ""
