"""Checkpoints that a user brings: what is accepted, and how refusals read."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pi_repro.errors import PireproError, RequestError
from pi_repro.evaluation.candidate import evaluate_weights, read_candidate
from pi_repro.training import weights as weight_files

from .samples import MODEL, random_model


def test_our_file_names_its_architecture(weights: Path, suite: Path, triplets: Path) -> None:
    file = weights / "weights" / "epoch-0001.safetensors"
    records = evaluate_weights(str(file), suite, triplets=(("votes", triplets, ("test",)),))
    assert list(records) == ["seven", "three", "captions-1", "captions-5", "2afc-votes-test"]
    assert records["seven"]["architecture"] == MODEL["name"]
    assert records["seven"]["weights"] == file.name
    assert records["seven"]["preprocess"]["by"] == "pi_repro"


def test_a_file_of_others_needs_its_model(tmp_path: Path, suite: Path, open_clip_config: Path) -> None:
    model = random_model(3)
    file = tmp_path / "theirs.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    with pytest.raises(RequestError, match="does not say which model"):
        evaluate_weights(str(file), suite)
    for named in (MODEL["name"], str(open_clip_config)):
        record = evaluate_weights(str(file), suite, model=named, sets=("three",))["three"]
        assert record["preprocess"]["by"] == "open_clip"
        assert any(step.startswith("Resize") for step in record["preprocess"]["steps"])
        assert not any(" at 0x" in step for step in record["preprocess"]["steps"])


def test_a_checkpoint_of_open_clips_trainer_loads(tmp_path: Path, open_clip_config: Path) -> None:
    model = random_model(3)
    file = tmp_path / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    found = read_candidate(str(file), MODEL["name"])
    assert weight_files.checksum(found.model.state_dict()) == weight_files.checksum(model.state_dict())


def test_published_weights_are_named_by_their_tensors(
    tmp_path: Path, suite: Path, open_clip_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "published.safetensors"
    model = random_model(4)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    # open_clip's own table of published weights, with one that needs no network.
    table = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(table, MODEL["name"], {"tag": {"file": str(file), "mean": (0.5,) * 3, "std": (0.5,) * 3}})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda config, cache_dir=None: config["file"])
    record = evaluate_weights(f"open_clip:{MODEL['name']}/tag", suite, sets=("three",))["three"]
    assert record["weights_sha256"] == weight_files.checksum(model.state_dict())
    assert "Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))" in record["preprocess"]["steps"]


@pytest.mark.parametrize(
    ("weights", "model", "words"),
    [
        ("nowhere.safetensors", None, ["no such weights file", "open_clip:NAME/TAG"]),
        ("open_clip:ViT-B-32/openia", None, ["publishes no such weights", "open_clip:ViT-B-32/openai"]),
        ("open_clip:ViT-B-32", None, ["publishes no such weights"]),
        ("open_clip:ViT-B-32/openai", "ViT-B-32", ["name their model themselves"]),
        ("junk.safetensors", None, ["does not say which model", "--model NAME"]),
        ("junk.safetensors", "ViT-B-23", ["knows no such model", "ViT-B-32"]),
        ("junk.safetensors", "nowhere.json", ["no such model config"]),
        ("junk.safetensors", MODEL["name"], ["don't load into model"]),
    ],
)
def test_refusals_say_what_would_be_right(
    tmp_path: Path, suite: Path, open_clip_config: Path, weights: str, model: str | None, words: list[str]
) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    given = weights if weights.startswith("open_clip:") else str(tmp_path / weights)
    with pytest.raises(PireproError) as caught:
        evaluate_weights(given, suite, model=model)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_set_is_named(weights: Path, suite: Path) -> None:
    file = weights / "weights" / "epoch-0001.safetensors"
    with pytest.raises(RequestError, match="no such set") as caught:
        evaluate_weights(str(file), suite, sets=("sevn",))
    assert "seven" in str(caught.value)
