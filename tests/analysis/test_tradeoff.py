"""The setting of alignment after pretraining is chosen by validation triplets alone, and reported by all else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pi_repro.analysis import science, style, tradeoff_shown
from pi_repro.analysis.brief import brief
from pi_repro.analysis.effects import pair
from pi_repro.analysis.findings import find
from pi_repro.analysis.headline import headline
from pi_repro.analysis.inference import Inference, infer
from pi_repro.analysis.inference_tables import inference_tables
from pi_repro.analysis.tradeoff import Tradeoff, choose, tradeoff

from . import synthetic_results
from .synthetic_results import ARMS, ArmModel, World, asked
from .test_report import run
from .test_science import _columns, _widths

SEEDS = (0, 1, 2)
TUNED = ("finetune",)
#: arm -> (added zero-shot skill, validation 2AFC, test 2AFC, adapter, learning rate, updates)
GRID: dict[str, tuple[float, float, float, str, float, int]] = {
    "keeps": (0.4, 0.62, 0.66, "lora", 1e-5, 10),  # best zero-shot
    "tests": (0.0, 0.66, 0.90, "full", 1e-4, 10),  # best on test triplets
    "learns": (-0.9, 0.74, 0.60, "pattern", 1e-4, 40),  # best on validation triplets, worst on both others
    "again": (-0.5, 0.74, 0.70, "pattern", 1e-3, 40),  # as good and better on both, by a higher learning rate
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8.0, "targets": ["qkv"]},
    "full": {},
    "pattern": {"pattern": [r"attn\.in_proj_(weight|bias)"]},
}
TRIPLETS = {"demo-triplets": 0.2}


def rescore(world: World, arm: str, split: str, share: float) -> None:
    """Every seed chooses right on the first items, up to a share of them."""
    for seed in SEEDS:
        folder = world.results / f"{arm}-s{seed}" / "epoch-0001"
        name = f"2afc-demo-triplets-{split}"
        items = dict(load_file(folder / f"{name}.items.safetensors"))
        count = round(share * len(items["score"]))
        items["score"] = (2 * (np.arange(len(items["score"])) < count)).astype(np.uint8)
        save_file(items, folder / f"{name}.items.safetensors")
        record = json.loads((folder / f"{name}.json").read_text())
        record["metrics"]["two_afc"] = float(items["score"].mean()) / 2
        (folder / f"{name}.json").write_text(json.dumps(record))


def build(root: Path) -> World:
    arms = {name: ARMS[name] for name in ("random", "concept")}
    for name, (skill, *_) in GRID.items():
        arms[name] = ArmModel(name, TUNED, "random", skill, TRIPLETS, "demo-triplets")
    # Neither may be chosen: other weights, other triplets.
    arms["posthoc"] = ArmModel("from concept", TUNED, "concept", 0.0, {"demo-triplets": 3.0}, "demo-triplets")
    arms["stranger"] = ArmModel("other triplets", TUNED, "random", 0.0, {"demo-triplets": 3.0}, "demo-concepts")
    synthetic_results.write_suite(root / "suite")
    synthetic_results.write_results(root / "results", arms, SEEDS, (0, 16))
    world = asked(World(root / "results", root / "suite", synthetic_results.settings(arms, SEEDS)))
    for name, (_, validation, test, adapter, lr, updates) in GRID.items():
        rescore(world, name, "val", validation)
        rescore(world, name, "test", test)
        facts = world.settings["methods"]["stages"][name][-1]
        facts |= {"adapter": adapter, "adapter_options": OPTIONS[adapter], "lr": lr, "updates": updates}
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def inferred(world: World) -> Inference:
    results = world.open()
    return infer(world.settings, results, find(results))


@pytest.fixture(scope="module")
def found(inferred: Inference) -> Tradeoff:
    assert inferred.tradeoff is not None
    return inferred.tradeoff


def test_validation_alone_chooses(found: Tradeoff) -> None:
    assert {one.arm for one in found.settings} == set(GRID)
    best = {
        name: max(found.settings, key=lambda one: getattr(one.point, name).value).arm
        for name in ("validation", "test", "zero_shot")
    }
    assert best["test"] == "tests" and best["zero_shot"] == "keeps"
    assert found.chosen == "learns", "of two that are as good, the lower learning rate"
    assert found.best.point.zero_shot.value == min(one.point.zero_shot.value for one in found.settings)


def test_what_is_reported_of_it(world: World, found: Tradeoff) -> None:
    results = world.open()
    point = found.best.point
    assert point.validation.value == pytest.approx(0.74, abs=2e-3)
    assert point.test is not None and point.test.value == pytest.approx(0.6, abs=2e-3)
    counted = [b for b in results.suite.classification if b.disjoint]
    assert found.sets == len(counted) < len(results.suite.classification)
    tops = [results.hits("learns", 1, b, "top1")[0].mean() for b in counted]
    assert point.zero_shot.value == pytest.approx(np.mean(tops))
    expected = pair(results, "learns").mean(counted, "top1").estimate()
    assert point.change is not None and point.change.sign == -1
    assert [point.change.value, point.change.low, point.change.high] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    assert found.start.arm == "random" and found.start.change is None
    assert found.treatment is not None and found.treatment.arm == "concept"
    assert {one.adapter for one in found.settings} == {"QKV", "LoRA, rank 4", "whole tower"}


def test_ties_go_to_the_smaller_change() -> None:
    level = {"a": 0.7, "b": 0.7 + 1e-15, "c": 0.7, "d": 0.69}
    assert choose(level, {"a": (20, 1e-5), "b": (10, 1e-3), "c": (10, 1e-4), "d": (1, 1e-6)}) == "c"
    assert choose(level, dict.fromkeys("dcba", (10, 1e-4))) == "a", "then the first name"
    assert choose(level | {"d": 0.7 + 1e-9}, {"d": (99, 1.0)} | dict.fromkeys("abc", (1, 1e-9))) == "d"


def test_the_chosen_arm_stands_for_posthoc(world: World, inferred: Inference) -> None:
    results = world.open()
    judged = {one.claim.id: one for one in inferred.claims}["before-beats-after"]
    against = pair(results, "concept", "learns")
    counted = [b for b in results.suite.classification if b.disjoint]
    expected = against.mean(counted, "top1").estimate().scaled(100)
    assert judged.computed.components[0].estimate.value == pytest.approx(expected.value)
    assert science.named_arms(world.settings, results, inferred.posthoc) == ["random", "concept", "learns"]
    assert science.arms_in_order(world.settings, results)[2] == "posthoc", "without a choice, the one that is named"


def test_no_grid_no_tradeoff(world: World) -> None:
    results = world.open()
    assert tradeoff({**world.settings, "report": None}, results) is None, "only where science is asked for"
    alone = world.open()
    alone.arms = {name: arm for name, arm in alone.arms.items() if name not in ("tests", "learns", "again")}
    assert tradeoff(world.settings, alone) is None, "one setting is no choice"
    results.held = tuple(held for held in results.held if held.split != "val")
    assert tradeoff(world.settings, results) is None, "nothing may be chosen by the test split"
    untested = world.open()
    untested.held = tuple(held for held in untested.held if held.split == "val")
    found = tradeoff(world.settings, untested)
    assert found is not None and found.chosen == "learns" and found.best.point.test is None


def test_the_page_and_the_text_say_what_was_chosen(world: World, inferred: Inference) -> None:
    results = world.open()
    findings = find(results)
    known = style.looks(science.arms_in_order(world.settings, results, inferred.posthoc), results.baseline)
    words, found = headline(results, findings), inferred.tradeoff
    assert found is not None
    with style.drawing(pdf=True):
        drawn = (tradeoff_shown.picture(found, "A notice."),)
    assert drawn[0].pdf.startswith(b"%PDF-")
    (rows,) = [table.records() for table in inference_tables(inferred) if table.name == "tradeoff"]
    assert [row["arm"] for row in rows if row["chosen"]] == ["learns"]
    assert [row["arm"] for row in rows][:2] == ["random", "concept"] and {row["arm"] for row in rows[2:]} == set(GRID)
    tex = tradeoff_shown.tex(found).decode()
    assert tex.count(r"\textbf{") == 1 and all(cells == _columns(tex) for cells in _widths(tex))
    html = science.science_page(world.settings, results, findings, inferred, words, drawn, known).decode()
    assert html.count('<section id="tradeoff">') == 1 and html.count('id="tradeoff-figure_1"') == 1
    text = brief(world.settings, results, findings, words, drawn, inferred).decode()
    said = "learns (QKV, learning rate 0.0001, 40 updates) has the highest 2AFC on validation triplets"
    assert said in html and said in text and "| **learns** |" in text
    without = replace(inferred, tradeoff=None)
    bare = science.science_page(world.settings, results, findings, without, words, (), known).decode()
    assert (
        "radeoff" not in bare and "radeoff" not in brief(world.settings, results, findings, words, (), without).decode()
    )


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_the_stage_writes_it(world: World, tmp_path: Path) -> None:
    out = run(world, tmp_path / "out", "1")
    for name in ("figures/tradeoff.svg", "figures/tradeoff.pdf", "tables/tradeoff.csv", "latex/tradeoff.tex"):
        assert (out / name).stat().st_size > 500
    assert '<section id="tradeoff">' in (out / "index.html").read_text(encoding="utf-8")
