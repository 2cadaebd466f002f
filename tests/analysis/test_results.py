"""What a report refuses to read, by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pi_repro.analysis.findings import find
from pi_repro.analysis.results import Results
from pi_repro.errors import StateError

from .synthetic_results import World


def test_hits_give_the_recorded_metrics(results: Results) -> None:
    benchmark = results.suite.retrieval[0]
    hits, unit = results.hits("pi", 5, benchmark, "t2i_r5")
    assert hits.shape == (3, benchmark.n), "captions of one image are one item"
    recorded = results.record("pi", 2, 5, benchmark.id)["metrics"]["image_retrieval_recall@5"]
    assert hits[2].mean() * unit == pytest.approx(recorded)
    first = results.suite.classification[0]
    hits, unit = results.hits("pi", 5, first, "top5")
    assert hits[1].mean() * unit == pytest.approx(results.record("pi", 1, 5, first.id)["metrics"]["acc5"])


def test_missing_run_is_named(tiny: World) -> None:
    shutil.rmtree(tiny.results / "pi-s0")
    with pytest.raises(StateError, match="pi-s0"):
        tiny.open()


def test_no_results_at_all(tiny: World) -> None:
    shutil.rmtree(tiny.results)
    with pytest.raises(StateError, match="missing"):
        tiny.open()


@pytest.mark.parametrize("stranger", ["pi-s7", "old", ".gitignore"])
def test_stranger_is_named(tiny: World, stranger: str) -> None:
    (tiny.results / stranger).mkdir()
    with pytest.raises(StateError, match=stranger):
        tiny.open()


def test_damaged_items_are_named(tiny: World) -> None:
    path = tiny.results / "pi-s0" / "epoch-0004" / "demo" / "flags.items.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StateError, match=r"flags\.items"):
        find(tiny.open())


def test_missing_set_is_named(tiny: World) -> None:
    (tiny.results / "pi-s0" / "epoch-0004" / "demo" / "flags.items.safetensors").unlink()
    with pytest.raises(StateError, match=r"flags\.items"):
        find(tiny.open())


def test_metrics_that_items_contradict_are_refused(tiny: World) -> None:
    path = tiny.results / "pi-s0" / "epoch-0004" / "demo" / "flags.json"
    record = json.loads(path.read_text())
    record["metrics"]["acc1"] += 0.01
    path.write_text(json.dumps(record))
    with pytest.raises(StateError, match="acc1 is not what its items give"):
        find(tiny.open())


def test_other_items_are_refused(tiny: World) -> None:
    path = tiny.results / "pi-s0" / "epoch-0004" / "demo" / "flags.items.safetensors"
    items = load_file(path)
    items["label"] = np.roll(items["label"], 1)
    save_file(items, path)
    with pytest.raises(StateError, match="items are not those"):
        find(tiny.open())


def test_another_dataset_is_refused(tiny: World) -> None:
    path = tiny.results / "pi-s0" / "epoch-0004" / "2afc-demo-triplets-test.json"
    record = json.loads(path.read_text())
    record["dataset_sha256"] = "another"
    path.write_text(json.dumps(record))
    with pytest.raises(StateError, match="items are not those"):
        find(tiny.open())


def test_evaluation_without_a_set_of_the_suite(tiny: World) -> None:
    path = tiny.results / "pi-s0" / "evaluation.json"
    content = json.loads(path.read_text())
    content["sets"].remove("demo/flags")
    path.write_text(json.dumps(content))
    with pytest.raises(StateError, match="demo/flags"):
        tiny.open()


def test_seeds_with_other_checkpoints_are_refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "results"
    shutil.copytree(world.results, copy)
    path = copy / "pi-s1" / "evaluation.json"
    content = json.loads(path.read_text())
    del content["checkpoints"][2]
    path.write_text(json.dumps(content))
    with pytest.raises(StateError, match="checkpoints differ"):
        World(copy, world.suite, world.settings).open()


@pytest.mark.parametrize("content", ["{", "[]", '{"sets": [{"id": "x"}]}', '{"sets": []}'])
def test_damaged_suite_is_named(tiny: World, content: str) -> None:
    (tiny.suite / "suite.json").write_text(content)
    with pytest.raises(StateError, match=r"suite\.json"):
        tiny.open()
