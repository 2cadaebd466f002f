"""Results are functions of weights, data and settings, and say what they depend on."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pi_repro.data.shards import Shards
from pi_repro.errors import StateError
from pi_repro.evaluation import pictures
from pi_repro.evaluation.battery import Battery
from pi_repro.evaluation.benchmark import Allowance, Conditions
from pi_repro.evaluation.embed import Embedder, no_pulse, pad
from pi_repro.evaluation.metrics import classification_metrics, mean_margin, retrieval_metrics
from pi_repro.evaluation.results import Result
from pi_repro.evaluation.two_afc import choose

from .samples import write_suite

ALL = ("seven", "three", "captions-1", "captions-5", "2afc-votes-val", "2afc-votes-test")


@pytest.fixture
def battery(suite: Path, triplets: Path, conditions: Conditions) -> Battery:
    return Battery(suite, (("votes", triplets, ("val", "test")),), conditions)


def same(one: Result, other: Result) -> bool:
    """Equal to the bit."""
    arrays = all(one.items[name].tobytes() == other.items[name].tobytes() for name in one.items)
    return one.record == other.record and one.items.keys() == other.items.keys() and arrays


@pytest.mark.parametrize("name", ALL)
def test_same_bits_for_any_workers_memory_and_repetition(
    suite: Path, triplets: Path, conditions: Conditions, embedder: Embedder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_WORTH_WORKERS", 1)
    tasks = (("votes", triplets, ("val", "test")),)
    first = Battery(suite, tasks, conditions).open(name)
    wanted = first.judge(embedder, no_pulse)
    assert same(wanted, first.judge(embedder, no_pulse))
    variants = [{"workers": 2, "prefetch": 1}, {"allowance": Allowance(0)}, {"allowance": Allowance(60_000)}]
    for variant in variants:
        bench = Battery(suite, tasks, replace(conditions, **variant)).open(name)
        assert same(wanted, bench.judge(embedder, no_pulse)), variant
        assert same(wanted, bench.judge(embedder, no_pulse)), variant


def test_metrics_follow_from_the_items(battery: Battery, embedder: Embedder) -> None:
    seven = battery.open("seven").judge(embedder, no_pulse)
    items = seven.items
    assert seven.record["metrics"] == classification_metrics(items["rank"], items["label"], items["predicted"], 7)
    assert ((items["rank"] == 0) == (items["predicted"] == items["label"])).all()
    found = battery.open("captions-5").judge(embedder, no_pulse)
    metrics = retrieval_metrics(found.items["text_rank"], found.items["image_rank"], (1, 5, 10))
    metrics |= {name: mean_margin(found.items[name]) for name in ("text_margin", "image_margin")}
    assert found.record["metrics"] == metrics
    assert len(found.items["text_rank"]) == 45 and len(found.items["image_rank"]) == 225
    assert ((found.items["text_rank"] == 0) == (found.items["text_margin"] > 0)).all()


def test_records_say_what_they_depend_on(battery: Battery, embedder: Embedder, suite: Path) -> None:
    record = battery.open("three").judge(embedder, no_pulse).record
    names = (suite / "three" / "classnames.txt").read_bytes()
    assert record["classnames_sha256"] == hashlib.sha256(names).hexdigest()
    assert record["dataset_sha256"] == Shards.open(suite / "three").sha256
    assert record["templates"] == ["a photo of a {c}.", "{c}", "the {c} thing, drawn"]
    assert (record["n"], record["classes"], record["precision"], record["metrics"]["acc5"]) == (50, 3, "fp32", None)
    assert record["preprocess"]["image_size"] == 32


def test_examples_are_fixed_queries_with_their_best_answers(battery: Battery, embedder: Embedder) -> None:
    result = battery.open("captions-5").judge(embedder, no_pulse)
    asked = result.record["examples"]
    assert [query["row"] for query in asked["image_to_text"]] == [0, 9, 18, 26, 35, 44]
    assert [query["caption_row"] for query in asked["text_to_image"]] == [0, 45, 90, 134, 179, 224]
    for direction, ranks in (("image_to_text", "text_rank"), ("text_to_image", "image_rank")):
        for query in asked[direction]:
            cosines = [answer["cosine"] for answer in query["top"]]
            place = query["row"] if direction == "image_to_text" else query["caption_row"]
            assert cosines == sorted(cosines, reverse=True) and len(cosines) == 5
            assert query["rank"] == result.items[ranks][place]
            right = [answer["right"] for answer in query["top"]]
            assert right.index(True) == query["rank"] if query["rank"] < 5 else not any(right)
    query = asked["image_to_text"][1]
    assert query["id"] == "s0009" and len(query["captions"]) == 5 and query["captions"][0].endswith(" 9 0")


def test_two_afc_against_plain_arithmetic(battery: Battery, embedder: Embedder, triplets: Path) -> None:
    result = battery.open("2afc-votes-test").judge(embedder, no_pulse)
    shards = Shards.open(triplets)
    rows = np.flatnonzero(shards.column("split") == 2)
    decode = battery.conditions.preprocess.decode
    model, pixel = [], []
    for row in rows.tolist():
        images = torch.stack([decode(shards.read(part, row)) for part in ("ref", "left", "right")])
        batch = embedder.prepare(pad(images, embedder.batch))
        with torch.no_grad():
            ref, left, right = embedder.model.encode_image(batch)[:3].double()  # type: ignore[operator]
        cosine = torch.nn.functional.cosine_similarity
        ours = "right" if cosine(ref, right, 0) > cosine(ref, left, 0) else "left"
        errors = [float(((images[0].double() - images[side].double()) ** 2).mean()) for side in (1, 2)]
        people = "right" if shards.column("label")[row] == 1 else "left"
        model.append(2 * (ours == people))
        pixel.append(2 * (("right" if errors[1] < errors[0] else "left") == people))
    assert result.items["score"].tolist() == model
    assert result.items["pixel"].tolist() == pixel
    assert result.record["metrics"] == {"two_afc": np.mean(model) / 2, "pixel_mse": np.mean(pixel) / 2}
    assert result.record["images"] <= 12 < result.record["n"]


def test_a_tie_scores_one() -> None:
    near, far = np.array([0.1, 0.1, 0.2, 0.1]), np.array([0.1, 0.2, 0.1, 0.2])
    assert choose(near, far, np.array([1, 0, 1, 1], dtype=np.uint8)).tolist() == [1, 2, 2, 0]


def test_a_flipped_byte_in_a_shard_is_refused_by_name(tmp_path: Path, suite: Path, conditions: Conditions) -> None:
    copy = shutil.copytree(suite, tmp_path / "suite")
    shard = copy / "seven" / "test" / "1.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    battery = Battery(copy, (), conditions)
    with pytest.raises(StateError, match=r"seven/test/1\.tar"):
        battery.open("seven")
    assert battery.open("three").id == "three"


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("seven/classnames.txt", "a\nb\n", "don't fit"),
        ("seven/classnames.txt", "a\n\nb\n", "no line empty"),
        ("seven/zeroshot_classification_templates.txt", "a photo\n", "takes no class name"),
        ("seven/zeroshot_classification_templates.txt", "a {photo}\n", "takes no class name"),
        ("suite.json", '{"sets": []}', "lists its sets"),
        ("suite.json", '{"sets": [{"id": "../x"}]}', "id is unusable"),
        ("suite.json", '{"sets": [{"id": "seven"}, {"id": "seven"}]}', "listed twice"),
    ],
)
def test_broken_suites_are_refused(
    tmp_path: Path, conditions: Conditions, file: str, content: str, problem: str
) -> None:
    folder = write_suite(tmp_path / "suite")
    (folder / file).write_text(content)
    with pytest.raises(StateError, match=problem):
        Battery(folder, (), conditions).open("seven")


def test_a_diverged_model_is_refused(battery: Battery, embedder: Embedder) -> None:
    with torch.no_grad():
        next(iter(embedder.model.parameters())).fill_(float("nan"))
    with pytest.raises(StateError, match="not finite"):
        battery.open("seven").judge(embedder, no_pulse)


def test_bf16_gives_close_numbers(battery: Battery, embedder: Embedder) -> None:
    full = battery.open("seven").judge(embedder, no_pulse)
    half = battery.open("seven").judge(replace(embedder, precision="bf16"), no_pulse)
    assert half.record["metrics"]["acc1"] == pytest.approx(full.record["metrics"]["acc1"], abs=0.15)
