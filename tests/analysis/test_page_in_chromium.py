"""The page of a report with claims in a real browser: it draws, its switches switch, nothing complains."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi_repro.analysis import intervals, scaling, science, style
from pi_repro.analysis.effects import pair, since
from pi_repro.analysis.findings import find
from pi_repro.analysis.headline import headline
from pi_repro.analysis.inference import infer
from pi_repro.analysis.results import Results
from pi_repro.analysis.tables import Table

from . import synthetic_results
from .browser import Browser, browser, program
from .synthetic_results import World, asked

pytestmark = pytest.mark.full

SEEDS = (0, 1, 2, 3, 4)
ROOT = Path(__file__).parents[2]
WIDE, PHONE = (1200, 900), (390, 844)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("chromium")
    synthetic_results.write_suite(root / "suite")
    synthetic_results.write_results(root / "results", seeds=SEEDS, epochs=(0, 1, 4, 16))
    return asked(World(root / "results", root / "suite", synthetic_results.settings(seeds=SEEDS)))


@pytest.fixture(scope="module")
def results(opened: World) -> Results:
    return opened.open()


@pytest.fixture(scope="module")
def page(opened: World, results: Results) -> Path:
    findings = find(results)
    known = style.looks(science.arms_in_order(opened.settings, results), results.baseline)
    inferred, words = infer(opened.settings, results, findings), headline(results, findings)
    probes = Table("probes", ("probe", "arm", "value"), (("cka", "pi", 0.9), ("rank", "pi", 41.0)))
    made = science.science_page(opened.settings, results, findings, inferred, words, (), known, "Methods.", probes)
    path = opened.results.parent / "index.html"
    path.write_bytes(made)
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if program() is None and os.environ.get("CI") == "true":
        subprocess.run(["bash", ROOT / "tools" / "chromium.sh"], check=True, timeout=600)
    chromium = program()
    if chromium is None:
        pytest.skip("no Chromium on the path: bash tools/chromium.sh installs Debian's")
    with browser(chromium, tmp_path_factory.mktemp("profile")) as started:
        yield started


def click(tab: Browser, selector: str) -> None:
    tab.ask(f"document.querySelector({json.dumps(selector)}).click()")


def choose(tab: Browser, name: str, value: str) -> None:
    tab.ask(
        f"(() => {{ const list = document.getElementById({json.dumps(name)}); list.value = {json.dumps(value)}; "
        "list.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def count(tab: Browser, selector: str) -> int:
    return int(tab.ask(f"document.querySelectorAll({json.dumps(selector)}).length"))


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (WIDE, True), (PHONE, False), (PHONE, True)])
def test_it_draws_everywhere(tab: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    tab.show(page, *size, dark=dark)
    assert tab.ask("document.documentElement.dataset.ready") == "yes"
    assert tab.ask("document.documentElement.scrollWidth") == size[0], "nothing may be wider than the window"
    assert tab.ask("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    for figure in ("emergence", "differences", "families", "scaling", "retrieval"):
        assert count(tab, f"#{figure} svg[role=img]") > 0
        assert count(tab, f"#{figure} details.numbers tbody tr") > 0, "a table behind each figure"
    assert tab.ask("[...document.querySelectorAll('svg[role=img]')].every((s) => s.ariaLabel.length > 20)")
    outside = """[...document.querySelectorAll('.panel svg')].filter((svg) => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].some((text) => {
            const at = text.getBoundingClientRect();
            return at.left < box.left - 1 || at.right > box.right + 1;
        });
    }).map((svg) => svg.getAttribute('aria-label'))"""
    assert tab.ask(outside) == [], "no label may be clipped"
    paper = "getComputedStyle(document.querySelector('section')).backgroundColor"
    assert tab.ask(paper) == ("rgb(26, 29, 34)" if dark else "rgb(255, 255, 255)")
    assert tab.complaints == []


def test_its_intervals_are_the_reports_for_any_seeds(tab: Browser, page: Path, results: Results) -> None:
    tab.show(page, *WIDE)
    found = pair(results, "concept")
    benchmarks = [b for b in results.suite.classification if b.disjoint]
    for chosen in ([0, 1, 2, 3, 4], [1, 3], [2]):
        for measure, members, group in (
            ("top1", benchmarks, "counted"),
            ("top5", [results.suite.headline], f"set:{results.suite.headline.id}"),
            ("t2i_margin", list(results.suite.retrieval), "retrieval"),
        ):
            expected = intervals.mean([intervals.part(found.items(b, measure)[chosen]) for b in members]).estimate()
            asked_for = f"difference('concept', members({group!r}, {measure!r}), {measure!r}, {chosen})"
            got: dict[str, Any] = tab.ask(asked_for)
            for name in ("value", "low", "high"):
                assert got[name] == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-7)
            assert got["sign"] == expected.sign
    fit = scaling.fit(
        [found.samples(e) for e in found.epochs], found.accuracy(found.arm, benchmarks, "top1", found.epochs)
    )
    assert fit is not None
    law = "powerLaw(armOf.concept.pairs, curve('concept', members('counted', 'top1'), 'top1', [0, 1, 2, 3, 4])).beta"
    got = tab.ask(law)
    assert [got["value"], got["low"], got["high"]] == pytest.approx(
        [fit.beta.value, fit.beta.low, fit.beta.high], rel=1e-4
    )
    expected_onset = since(found, results.suite.headline, "top1")
    got = tab.ask(f"since('concept', ['{results.suite.headline.id}'], 'top1', [0, 1, 2, 3, 4])")
    assert got == {"epoch": expected_onset.epoch, "low": expected_onset.low, "high": expected_onset.high}


def test_its_switches_switch(tab: Browser, page: Path) -> None:
    tab.show(page, *WIDE)
    panels = count(tab, "#differences .panel")
    assert panels == 3
    click(tab, "input[value=posthoc]")
    assert count(tab, "#differences .panel") == 2
    assert tab.ask("[...document.querySelectorAll('[data-arm=posthoc]')].every((row) => row.hidden)")
    assert "3 of 4 arms" in tab.ask("document.getElementById('summary').textContent")
    text = "document.getElementById('table-sets').innerText"
    whole = tab.ask(text)
    click(tab, "input[name=seed][value='4']")
    assert "4 of 5 seeds" in tab.ask("document.getElementById('summary').textContent")
    assert tab.ask(text) != whole
    for seed in (0, 1, 2, 3):
        click(tab, f"input[name=seed][value='{seed}']")
    assert tab.ask("document.querySelectorAll('input[name=seed]:checked').length") == 1, "the last one stays on"
    assert "intervals cover items alone" in tab.ask("document.getElementById('summary').textContent")
    click(tab, "button[name=arm-reset]")
    assert count(tab, "#differences .panel") == panels
    choose(tab, "measure", "i2t_margin")
    assert tab.ask("document.getElementById('group').value") == "retrieval"
    assert "margin" in tab.ask("document.getElementById('emergence').innerText")
    choose(tab, "measure", "top5")
    choose(tab, "group", "family:VTAB")
    assert "VTAB" in tab.ask("document.querySelector('#emergence h3').textContent")
    assert tab.complaints == []


def test_it_works_with_a_keyboard_alone(tab: Browser, page: Path) -> None:
    tab.show(page, *WIDE)
    tab.press("Tab", 9)
    assert tab.ask("document.activeElement.className") == "skip"
    seen = []
    for _ in range(60):
        tab.press("Tab", 9)
        seen.append(
            tab.ask("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
        if tab.ask("document.activeElement.name") == "arm":
            break
    before = tab.ask("document.activeElement.checked")
    tab.press(" ", 32, " ")
    assert tab.ask("document.activeElement.checked") is not before, seen
    unnamed = """[...document.querySelectorAll('input, select, button, summary, a')].filter((one) =>
        !(one.labels?.length || one.innerText || one.textContent || one.ariaLabel)).length"""
    assert tab.ask(unnamed) == 0
    assert tab.complaints == []


def test_it_says_all_without_scripts(tab: Browser, page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.show(page, *WIDE)
        assert count(tab, "#table-sets tbody tr") > 10 and count(tab, "#claims tbody tr") >= 20
        assert tab.ask("getComputedStyle(document.getElementById('switches')).display") == "none"
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
