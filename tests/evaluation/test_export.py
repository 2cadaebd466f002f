"""An export loads in open_clip as it stands and gives the same features to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from pi_repro.errors import RequestError, StateError
from pi_repro.evaluation.checkpoints import read_training
from pi_repro.evaluation.export import export
from pi_repro.files import write_json
from pi_repro.training import model as models

from .samples import MODEL, SIZE


def test_features_are_identical_in_open_clip(weights: Path, tmp_path: Path) -> None:
    file = export(weights, "last", tmp_path / "export")
    ours = models.load(MODEL, weights / "weights" / "epoch-0001.safetensors").eval()
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    open_clip.add_model_config(tmp_path / "export" / f"{MODEL['name']}.json")
    sources = [(MODEL["name"], str(file)), (f"local-dir:{tmp_path / 'export'}", None)]
    for name, pretrained in sources:
        theirs, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        theirs.eval()
        tokens = open_clip.get_tokenizer(name)(["a red thing", "something else"])
        with torch.no_grad():
            assert torch.equal(theirs.encode_image(images), ours.encode_image(images))  # type: ignore[operator]
            assert torch.equal(theirs.encode_text(tokens), ours.encode_text(tokens))  # type: ignore[operator]
        assert f"Resize(size={SIZE}, interpolation=bicubic" in repr(preprocess)


def test_the_cards_snippet_runs(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(weights, 0, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "export")
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    ours = models.load(MODEL, weights / "weights" / "epoch-0000.safetensors").state_dict()
    theirs = names["model"].state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_weights_file_is_told_from_its_folder(weights: Path, tmp_path: Path) -> None:
    file = next(weights.rglob("*.safetensors"))
    with pytest.raises(StateError, match="expected a folder, found a file") as error:
        export(file, "last", tmp_path / "out")
    assert error.value.where == str(file) and "name the stage's folder" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_card_states_what_is_recorded(weights: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    sha256 = read_training(weights).last.sha256
    line = {"epoch": 1, "update": 10, "samples": 160, "folder": "epoch-0001", "sha256": sha256}
    write_json(results / "evaluation.json", {"checkpoints": [line], "sets": ["seven"]})
    write_json(results / "epoch-0001" / "seven.json", {"n": 90, "metrics": {"acc1": 0.25, "acc5": None}})
    source = {"name": "a-source", "revision": "1.2.3", "licence": "CC-BY-4.0", "attribution": "Somebody"}
    cards = [{"name": "pairs", "title": "Some pairs", "licence": "mixed", "sources": [source]}]
    recipe = {"epochs": 16}
    export(weights, 1, tmp_path / "export", recipe=recipe, cards=cards, results=results, notice="A demonstration.")
    card = (tmp_path / "export" / "README.md").read_text()
    for words in ("| seven | 90 | acc1 | 0.2500 |", "acc5 | undefined", "CC-BY-4.0; Somebody", '"epochs": 16', sha256):
        assert words in card
    assert "> A demonstration." in card and "Limitations" in card and str(tmp_path) not in card
    with pytest.raises(RequestError, match="no metrics of these weights"):
        export(weights, 0, tmp_path / "other", results=results)


def test_refusals(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no weights were kept") as caught:
        export(weights, 5, tmp_path / "export")
    assert "one of 0, 1" in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(RequestError, match="holds files"):
        export(weights, "last", tmp_path / "full")
    damaged = shutil.copytree(weights, tmp_path / "damaged")
    file = damaged / "weights" / "epoch-0001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StateError, match=r"epoch-0001\.safetensors"):
        export(damaged, "last", tmp_path / "export")
