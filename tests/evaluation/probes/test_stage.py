"""The probe stage: its files, what they say of known weights, and the same bytes after any interruption."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.evaluation.embed import Embedder
from pi_repro.evaluation.pictures import Pictures
from pi_repro.evaluation.preprocess import clip_preprocess
from pi_repro.evaluation.probes.clip_loss import PairLoss, clip_loss
from pi_repro.files import files_under, path_digest, write_json
from pi_repro.spec.experiment import Resources
from pi_repro.stages import probe
from pi_repro.stages.context import StageContext
from pi_repro.training import model as models

from ..samples import MODEL, SIZE, WORDS, picture, random_model, write_weights

RESOURCES = Resources(
    gpus=0, parallel=1, workers=0, prefetch=2, checkpoint_every=1, device_watts=1.0, grid_g_per_kwh=0.0, rates={}
)
PROBES: dict[str, Any] = {
    "batch": 16,
    "precision": "fp32",
    "stages": ["initialize", "pretrain"],
    "epochs": [0, "last"],
    "distance": True,
    "features": {"set": "seven", "images": 40, "similarity": "cosine"},
    "sharpness": {"pairs": 20, "radii": [0.05, 0.2], "directions": 2, "towers": "image", "epochs": [0]},
    "linear": {"sets": ["three"], "images": None, "train": 0.5, "penalties": [0.01, 1.0]},
    "rsa": {"matrix": "rsa/m.npy", "images": "rsa/m.txt", "set": "seven", "similarity": "cosine"},
}
KEYS = [f"s{number:04d}" for number in (3, 1, 40, 77, 12, 8)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random, folder = np.random.default_rng(9), tmp_path_factory.mktemp("pairs") / "pairs"
    with ShardWriter(folder, "pairs", "pairs", shard_size=10) as writer:
        for number in range(30):
            caption = f"{' '.join(random.choice(WORDS, 3))} {number}"
            writer.add(f"p{number:03d}", {"png": picture(random), "txt": caption.encode()})
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """draw, and an arm whose initialize went from weights 0 to 1 and pretrain from 1 to 3, past 2."""
    root = tmp_path_factory.mktemp("trained")
    write_weights(root / "draw", (0,))
    write_weights(root / "arm" / "initialize", (0, 1))
    write_weights(root / "arm" / "pretrain", (1, 2, 3))
    for place, epochs in (("initialize", (0, 1)), ("pretrain", (0, 1, 2))):
        file = root / "arm" / place / "training.json"
        content = json.loads(file.read_text())
        for line, epoch in zip(content["checkpoints"], epochs, strict=True):
            line["epoch"] = epoch
        write_json(file, content)
    return root


@pytest.fixture
def make(suite: Path, trained: Path, pairs: Path, tmp_path: Path) -> Callable[..., StageContext]:
    """Contexts that share a scratch folder, each with an output folder of its own."""
    (tmp_path / "m.txt").write_text("\n".join(KEYS) + "\n")
    x = np.random.default_rng(1).standard_normal((6, 3))
    np.save(tmp_path / "m.npy", np.linalg.norm(x[:, None] - x[None], axis=-1))

    def context(
        attempt: str,
        scratch: str = "scratch",
        twin: Path | None = None,
        probes: dict[str, Any] | None = None,
        **more: Any,
    ) -> StageContext:
        settings = {
            **{"recipe": 1, "device": "cpu", "model": MODEL, "probes": {**PROBES, **(probes or {})}},
            **{"arm": "pi", "baseline": "random", "stages": ["initialize", "pretrain"], "seed": 3},
        }
        inputs = {
            **{"draw": trained / "draw", "start": trained / "draw", "trained": trained / "arm", "suite": suite},
            **{"pairs": pairs, "rsa-matrix": tmp_path / "m.npy", "rsa-images": tmp_path / "m.txt"},
            **({"twin": twin} if twin else {}),
        }
        (tmp_path / attempt).mkdir()
        (tmp_path / scratch).mkdir(exist_ok=True)
        return StageContext(
            name="probe@test-pi-s3",
            settings=settings,
            inputs=inputs,
            scratch=tmp_path / scratch,
            out=tmp_path / attempt,
            resources=RESOURCES,
            **more,
        )

    return context


def read(context: StageContext, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.out / f"{place}.json").read_text())
    return found


def test_files_and_what_they_say_of_known_weights(make: Callable[..., StageContext], suite: Path) -> None:
    probe.run(context := make("out"))
    index = read(context, "probes")
    folders = [f"initialize/epoch-000{n}" for n in (0, 1)] + [f"pretrain/epoch-000{n}" for n in (0, 2)]
    assert [line["folder"] for line in index["checkpoints"]] == folders
    names = ["features", "distance", "linear/three", "rsa"]
    wanted = {"probes.json"}
    for folder in folders:
        here = names + (["sharpness"] if folder.endswith("0000") else [])
        wanted |= {f"{folder}/{name}{end}" for name in here for end in (".json", ".items.safetensors")}
    assert {path.relative_to(context.out).as_posix() for path in files_under(context.out)} == wanted

    drawn = read(context, "initialize/epoch-0000/features")["likeness"]
    assert drawn["draw"]["cka"] == pytest.approx(1) and drawn["draw"]["rsa_spearman"] == pytest.approx(1)
    last = read(context, "pretrain/epoch-0002/features")
    assert set(last["likeness"]) == {"draw", "start"} and last["likeness"]["draw"]["cka"] < 0.9
    # The weights at a stage's beginning are those that the stage before it ended with.
    handed = read(context, "pretrain/epoch-0000/distance")["to"]
    assert handed["start"]["groups"]["whole"]["relative"] == 0 < handed["draw"]["groups"]["whole"]["relative"]
    moved = read(context, "pretrain/epoch-0002/distance")["to"]["start"]["groups"]["image tower"]
    one, other = (
        torch.cat(
            [
                p.detach().double().reshape(-1)
                for n, p in random_model(seed).named_parameters()
                if n.startswith("visual.")
            ]
        )
        for seed in (3, 1)
    )
    assert moved["l2"] == pytest.approx(float((one - other).norm()))

    items = load_file(context.out / "pretrain/epoch-0002/features.items.safetensors")
    embedder = Embedder(random_model(3), clip_preprocess(SIZE).prepare, "cpu", "fp32", 16)
    prepare = clip_preprocess(SIZE)
    shards = Shards.open(suite / "seven")
    images = torch.stack([prepare.decode(shards.read("image", int(row))) for row in items["row"]])
    assert len(items["row"]) == 40
    assert items["features"] == pytest.approx(embedder.images(torch.split(images, 16), 40).numpy(), abs=1e-5)
    readout = read(context, "pretrain/epoch-0002/linear/three")
    assert (readout["n_train"] + readout["n_test"], readout["classes"]) == (50, 3)
    listed = load_file(context.out / "pretrain/epoch-0002/rsa.items.safetensors")["row"]
    assert [shards.key(int(row)).rpartition("/")[2] for row in listed] == KEYS
    texts = b"".join(path.read_bytes() for path in files_under(context.out) if path.suffix == ".json")
    assert str(context.out.parent).encode() not in texts and b"NaN" not in texts


def stop_after(calls: int) -> Callable[[], bool]:
    """False so many times, then true."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_same_bytes_however_often_interrupted(
    make: Callable[..., StageContext], caplog: pytest.LogCaptureFixture
) -> None:
    probe.run(whole := make("whole", scratch="other"))
    caplog.set_level(logging.INFO, logger="pirepro")
    for attempt in range(30):
        context = make(f"out-{attempt}", should_stop=stop_after(40))
        try:
            probe.run(context)
            break
        except Interrupted:
            assert not files_under(context.out)
    else:
        pytest.fail("no attempt came to its end")
    assert attempt > 1
    assert "resume: initialize/epoch-0000 has" in caplog.text
    assert path_digest(context.out) == path_digest(whole.out)


def test_the_baseline_s_features_at_the_same_epoch_are_compared_with(make: Callable[..., StageContext]) -> None:
    few = {"rsa": None, "linear": None, "sharpness": None}
    probe.run(baseline := make("baseline", scratch="a", probes=few))
    probe.run(context := make("out", scratch="b", probes=few, twin=baseline.out))
    for epoch in (0, 2):
        likeness = read(context, f"pretrain/epoch-000{epoch}/features")["likeness"]
        assert likeness["twin"]["cka"] == pytest.approx(1)
    assert "twin" not in read(context, "initialize/epoch-0001/features")["likeness"]
    other = {**few, "features": {"set": "three", "images": 40, "similarity": "cosine"}}
    with pytest.raises(StateError, match="of other images"):
        probe.run(make("no", scratch="c", probes=other, twin=baseline.out))


@pytest.mark.parametrize("towers", ["image", "both"])
def test_the_gradient_is_autograd_s_and_the_model_gets_its_weights_back(
    towers: str, pairs: Path, conditions: Any
) -> None:
    model, conditions = random_model(5), replace(conditions, batch=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shards = Shards.open(pairs)
    # One image twice: it is embedded once, and its gradient is the sum of both places.
    rows = [0, 4, 9, 4, 11, 20]
    pictures = Pictures(shards, [("image", row) for row in rows], conditions)
    tokens = models.tokenizer(MODEL)([shards.read("text", row).decode() for row in rows])
    embedder = Embedder(model, conditions.preprocess.prepare, "cpu", "fp32", 4)
    loss = PairLoss(embedder, pictures, tokens, towers)
    found = loss.gradient()
    at = loss.at(loss.weights)
    nudged = {name: w + 1.0 for name, w in loss.weights.items()}
    assert loss.at(nudged) != at
    loss.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    model.requires_grad_(True)
    images = torch.stack([conditions.preprocess.decode(shards.read("image", row)) for row in rows])
    normal = torch.nn.functional.normalize
    features = normal(model.encode_image(conditions.preprocess.prepare(images)), dim=-1)  # type: ignore[operator]
    text = normal(model.encode_text(tokens), dim=-1)  # type: ignore[operator]
    whole = clip_loss(features, text, float(model.logit_scale.detach().exp()))  # type: ignore[union-attr, operator]
    whole.backward()
    assert at == pytest.approx(float(whole.detach()), rel=1e-6)
    assert any(name.startswith("visual.") for name in found)
    assert any(not name.startswith("visual.") for name in found) == (towers == "both")
    for name, gradient in found.items():
        wanted = model.get_parameter(name).grad
        assert wanted is not None
        apart, near = np.abs(gradient - wanted.numpy()), np.maximum(1e-3 * np.abs(wanted.numpy()), 1e-6)
        assert (apart <= near).all(), name


def test_what_is_missing_or_damaged_is_refused_by_name(
    make: Callable[..., StageContext], pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="no such set"):
        probe.run(make("a", probes={"features": {"set": "eight", "images": 40, "similarity": "cosine"}}))
    context = make("b")
    (tmp_path / "m.txt").write_text("s0001\ns0002\nnobody\ns0004\ns0005\ns0006\n")
    with pytest.raises(RequestError, match="not in the set") as error:
        probe.run(context)
    assert "nobody" in str(error.value) and error.value.where == "rsa/m.txt"
    (tmp_path / "m.txt").write_text("\n".join(KEYS))
    copy = shutil.copytree(pairs, tmp_path / "pairs")
    shard = next(iter(sorted(copy.rglob("*.tar"))))
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    bad = make("c")
    inputs = {**bad.inputs, "pairs": copy}
    with pytest.raises(StateError, match="shard is damaged"):
        probe.run(StageContext(bad.name, bad.settings, inputs, bad.scratch, bad.out, bad.resources))
