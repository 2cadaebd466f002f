"""draw, align and pretrain end to end: what they write, what they leave alone, and that nothing else alters a bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest, read_json, sha256_file
from pi_repro.stages import align, draw, pretrain
from pi_repro.training import checkpoint, ledger, weights
from pi_repro.training import model as models

from . import samples
from .samples import MODEL, QKV


def pretrained(start: Path, pairs: Path, folder: Path, settings: Any = None, **resources: Any) -> Path:
    inputs = {"start": start, "pairs": pairs}
    context = samples.context("pretrain", {"pretrain": settings or samples.pretrain()}, inputs, folder, **resources)
    pretrain.run(context)
    return context.out


def aligned(start: Path, triplets: Path, folder: Path, settings: Any = None, **resources: Any) -> Path:
    inputs = {"start": start, "triplets": triplets}
    context = samples.context("initialize", {"align": settings or samples.align()}, inputs, folder, **resources)
    align.run(context)
    return context.out


@pytest.fixture(scope="module")
def out(start: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(start, pairs, tmp_path_factory.mktemp("pretrain"))


def test_draw_is_open_clips_own_draw(start: Path) -> None:
    drawn = load_file(weights.last(start))
    models.register(MODEL)
    torch.manual_seed(3)
    expected = open_clip.create_model(MODEL["name"]).state_dict()
    assert drawn.pop("logit_scale").item() == pytest.approx(2.659)
    expected.pop("logit_scale")
    assert drawn.keys() == expected.keys()
    assert all(drawn[name].equal(tensor) for name, tensor in expected.items())


def test_draw_repeats_and_depends_on_the_seed(start: Path, tmp_path: Path) -> None:
    folders = []
    for seed in (3, 4):
        context = samples.context("draw", {"seed": seed}, {}, tmp_path / str(seed))
        draw.run(context)
        folders.append(context.out)
    assert path_digest(folders[0]) == path_digest(start) != path_digest(folders[1])


def test_pretrain_writes_what_later_stages_read(out: Path, start: Path) -> None:
    training = read_json(out / "training.json")
    assert [row["epoch"] for row in training["checkpoints"]] == [0, 2, 3]
    assert [row["update"] for row in training["checkpoints"]] == [0, 12, 18]
    assert [row["samples"] for row in training["checkpoints"]] == [0, 96, 144]
    assert all(sha256_file(out / row["file"]) == row["sha256"] for row in training["checkpoints"])
    assert training["stage"] == "pretrain" and training["model"] == MODEL
    assert weights.last(out) == out / training["last"] == out / "weights/epoch-0003.safetensors"
    begun, drawn = load_file(out / "weights/epoch-0000.safetensors"), load_file(weights.last(start))
    assert all(begun[name].equal(tensor) for name, tensor in drawn.items())
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [
        "curves.csv",
        "ledger.jsonl",
        "states/update-000007/optimizer.safetensors",
        "states/update-000007/state.json",
        "states/update-000007/weights.safetensors",
        "training.json",
        "weights/epoch-0000.safetensors",
        "weights/epoch-0002.safetensors",
        "weights/epoch-0003.safetensors",
    ]


def test_weights_load_in_open_clip_unchanged(out: Path) -> None:
    file = weights.last(out)
    models.register(MODEL)
    loaded = open_clip.create_model(MODEL["name"], pretrained=str(file)).state_dict()
    expected = load_file(file)
    assert all(loaded[name].equal(tensor) for name, tensor in expected.items())
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata()
    assert list(metadata) == ["pirepro"]
    about = json.loads(metadata["pirepro"])
    assert about["model"] == MODEL and (about["stage"], about["epoch"], about["update"]) == ("pretrain", 3, 18)


def test_ledger_and_curves_tell_every_update(out: Path) -> None:
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, 19))
    assert all(ledger.value(line["loss_bits"]) == line["loss"] for line in lines)
    assert [line["update"] for line in lines if "weights" in line] == [4, 8, 12, 16, 18]
    assert lines[11]["weights"] == weights.checksum(load_file(out / "weights/epoch-0002.safetensors"))
    assert len({line["samples"] for line in lines}) == 18
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows][5::6] == [1.0, 2.0, 3.0]
    for row, line in zip(rows, lines, strict=True):
        assert float(row["loss"]) == line["loss"] and float(row["logit_scale"]) == line["logit_scale"]
        assert float(row["grad_norm"]) == ledger.value(line["grad_norm_bits"])
        assert int(row["samples"]) == 8 * line["update"]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_published_state_is_the_whole_state_and_tells_no_host(out: Path) -> None:
    state = checkpoint.read(out / "states/update-000007")
    assert state.update == 7 and state.notes == {}
    assert {name.split("/")[0] for name in state.optimizer} == {"exp_avg", "exp_avg_sq", "step"}
    assert set(state.weights) == set(load_file(weights.last(out)))


@pytest.mark.parametrize("changes", [{"workers": 1}, {"workers": 3, "prefetch": 1, "checkpoint_every": 1000}])
def test_workers_alter_no_bit(changes: Any, out: Path, start: Path, pairs: Path, tmp_path: Path) -> None:
    assert path_digest(pretrained(start, pairs, tmp_path, **changes)) == path_digest(out)


def test_workers_alter_no_bit_of_an_alignment(start: Path, triplets: Path, tmp_path: Path) -> None:
    first, second = (aligned(start, triplets, tmp_path / str(n), workers=n) for n in (0, 2))
    assert path_digest(first) == path_digest(second)


def test_accumulation_micro_batches_and_bf16_train(start: Path, pairs: Path, tmp_path: Path) -> None:
    settings = samples.pretrain(
        accumulation=2,
        micro_batch=2,
        precision="bf16",
        epochs=1,
        publish_states=[],
        keep_epochs=[1],
        schedule={"kind": "constant", "warmup_updates": 0},
    )
    out = pretrained(start, pairs, tmp_path, settings)
    assert read_json(out / "training.json")["samples_per_update"] == 16
    assert len((out / "ledger.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("implementation", ["foreach", "single"])
def test_other_optimizer_kernels_resume_too(implementation: str, start: Path, pairs: Path, tmp_path: Path) -> None:
    optimizer = {**samples.OPTIMIZER, "implementation": implementation, "name": "adam", "clip_norm": 0.5}
    settings = samples.pretrain(optimizer=optimizer, epochs=1, keep_epochs=[], publish_states=[])
    whole = pretrained(start, pairs, tmp_path / "whole", settings)

    left = iter([False] * 4)
    with pytest.raises(StopIteration):
        context = samples.context(
            "pretrain",
            {"pretrain": settings},
            {"start": start, "pairs": pairs},
            tmp_path / "cut",
            should_stop=lambda: next(left),
        )
        pretrain.run(context)
    assert path_digest(pretrained(start, pairs, tmp_path / "cut", settings)) == path_digest(whole)


def test_alignment_trains_the_image_tower_alone(start: Path, triplets: Path, tmp_path: Path) -> None:
    out = aligned(start, triplets, tmp_path)
    before, after = load_file(weights.last(start)), load_file(weights.last(out))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if name.startswith("visual.")}
    training = read_json(out / "training.json")
    assert training["stage"] == "initialize" and training["data"]["count"] == 40
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == 15 and lines[-1]["loss"] < lines[0]["loss"]
    assert "logit_scale" not in lines[0]


def test_a_pattern_trains_what_it_matches_alone(start: Path, triplets: Path, tmp_path: Path) -> None:
    settings = samples.align(adapter={"name": "pattern", "options": {"pattern": [QKV]}})
    out = aligned(start, triplets, tmp_path, settings)
    before, after = load_file(weights.last(start)), load_file(weights.last(out))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {
        f"visual.transformer.resblocks.{block}.attn.in_proj_{kind}" for block in (0, 1) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"name": "triplet_hing", "options": {}}}, "did you mean 'triplet_hinge'"),
        ({"objective": {"name": "triplet_hinge", "options": {"margin": 0.1}}}, "distance"),
        ({"objective": {"name": "triplet_hinge", "options": {"margin": -1.0, "distance": "cosine"}}}, "margin"),
        ({"adapter": {"name": "dora", "options": {}}}, "full, lora, pattern"),
        (
            {"adapter": {"name": "lora", "options": {"rank": 99, "alpha": 1.0, "targets": ["qkv"]}}},
            "larger than the matrix",
        ),
        ({"adapter": {"name": "full", "options": {"rank": 4}}}, "rank"),
        ({"adapter": {"name": "pattern", "options": {"pattern": ["visual.nothing"]}}}, "matches no parameter"),
        ({"adapter": {"name": "pattern", "options": {"pattern": ["("]}}}, "no regular expression"),
        ({"adapter": {"name": "pattern", "options": {"pattern": ["transformer.*"]}}}, "matches no parameter"),
        ({"batch": 64, "micro_batch": 64}, "does not fill one update"),
        ({"schedule": {"kind": "cosine", "warmup_updates": 15}}, "15"),
    ],
)
def test_what_an_alignment_refuses(changes: Any, message: str, start: Path, triplets: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        aligned(start, triplets, tmp_path, samples.align(**changes))
    assert message in str(error.value)


def test_what_a_pretraining_refuses(start: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="past the last"):
        pretrained(start, pairs, tmp_path, samples.pretrain(publish_states=[7, 19]))


def test_damaged_weights_are_named_before_anything_runs(start: Path, pairs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "start"
    (broken / "weights").mkdir(parents=True)
    (broken / "training.json").write_bytes((start / "training.json").read_bytes())
    content = bytearray(weights.last(start).read_bytes())
    content[-1] ^= 1
    (broken / "weights/epoch-0000.safetensors").write_bytes(content)
    with pytest.raises(StateError, match="damaged") as error:
        pretrained(broken, pairs, tmp_path)
    assert "epoch-0000.safetensors" in str(error.value)


def test_a_damaged_shard_stops_before_the_first_update(start: Path, tmp_path: Path) -> None:
    pairs = samples.write_pairs(tmp_path / "pairs")
    shard = pairs / "shards/00001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StateError) as error:
        pretrained(start, pairs, tmp_path)
    assert "00001.tar" in str(error.value)
    assert not (tmp_path / "scratch/ledger.jsonl").exists()


def test_divergence_is_said(start: Path, pairs: Path, tmp_path: Path) -> None:
    optimizer = {**samples.OPTIMIZER, "lr": 1e30}
    with pytest.raises(StateError, match="diverged"):
        pretrained(start, pairs, tmp_path, samples.pretrain(optimizer=optimizer))
