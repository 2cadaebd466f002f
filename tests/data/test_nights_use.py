"""NIGHTS in use: stage 1 trains on its training split alone, and 2AFC judges the halves of its test split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pi_repro.data.nights import fetch as nights
from pi_repro.data.shards import Shards
from pi_repro.data.triplets import TripletSet
from pi_repro.errors import RequestError
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.embed import Embedder
from pi_repro.evaluation.preprocess import clip_preprocess
from pi_repro.evaluation.two_afc import TwoAFC
from pi_repro.files import read_json
from pi_repro.spec.experiment import TwoAFC as Asked
from pi_repro.stages import align, draw
from pi_repro.training import model as models
from pi_repro.training import weights

from ..training import samples
from .test_nights import MINI, card, context


def test_stage_1_and_2afc_on_the_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINI.write_zip(tmp_path / "nights.zip")
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"nights-zip": str(tmp_path / "nights.zip")}))
    nights.fetch(card("http://127.0.0.1:9"), fetched := context(tmp_path))
    draw.run(begin := samples.context("draw", {}, {}, tmp_path / "draw"))
    inputs = {"start": begin.out, "triplets": fetched.out}
    stage = samples.context("initialize", {"align": samples.align(epochs=1)}, inputs, tmp_path / "align")
    align.run(stage := replace(stage, data_root=fetched.data_root))
    train = [row for row in MINI.kept if row["split"] == "train"]
    assert read_json(stage.out / "training.json")["data"]["count"] == len(train)

    # The control by class labels: NIGHTS's category is its prompt.
    concepts = {"name": "concepts", "options": {"field": "prompt"}}
    control = samples.context("initialize", {"align": samples.align(epochs=1, labels=concepts)}, inputs, tmp_path / "c")
    align.run(control := replace(control, data_root=fetched.data_root))
    assert read_json(control.out / "training.json")["data"]["labels"] == {"source": "concepts", "of": len(train)}

    shards = Shards.open(fetched.out, fetched.data_root)
    preprocess, splits = clip_preprocess(samples.SIZE), ("test", "test_imagenet", "test_no_imagenet")
    conditions = Conditions(preprocess, models.tokenizer(samples.MODEL), 8, "fp32", (1,))
    embedder = Embedder(models.load(samples.MODEL, weights.last(stage.out)), preprocess.prepare, "cpu", "fp32", 8)
    total, *halves = (
        TwoAFC("nights", split, shards, conditions).judge(embedder)
        for split in Asked.model_validate({"data": "nights", "splits": splits}).splits
    )
    assert [half.id for half in halves] == ["2afc-nights-test_imagenet", "2afc-nights-test_no_imagenet"]
    assert sum(half.record["n"] for half in halves) == total.record["n"]
    weighted = sum(half.record["n"] * half.record["metrics"]["two_afc"] for half in halves)
    assert weighted / total.record["n"] == pytest.approx(total.record["metrics"]["two_afc"])


def test_halves_are_asked_of_data_that_have_them_alone(tmp_path: Path) -> None:
    samples.write_triplets(tmp_path / "votes")
    triplets = TripletSet(Shards.open(tmp_path / "votes"))
    with pytest.raises(RequestError, match="no such split") as caught:
        triplets.rows("test_imagenet")
    assert "test_imagenet" not in str(caught.value).partition("allowed")[2]
