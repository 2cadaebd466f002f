"""Multi-label scoring: a prediction is right when it is one of the image's labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pi_repro.data.zeroshot.real import FILE
from pi_repro.errors import StateError
from pi_repro.evaluation.battery import Battery
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.embed import Embedder

LABELS = [[(at * 3) % 7, (at * 5 + 1) % 7] if at % 10 else [] for at in range(90)]


@pytest.fixture
def labelled(suite: Path, tmp_path: Path) -> Path:
    shutil.copytree(suite, tmp_path / "suite")
    (tmp_path / "suite" / "seven" / FILE).write_text(json.dumps(LABELS))
    return tmp_path / "suite"


def test_images_without_labels_are_not_counted(labelled: Path, conditions: Conditions, embedder: Embedder) -> None:
    found = Battery(labelled, (), conditions).open("seven").judge(embedder, lambda done, total: None)
    predicted = found.items["predicted"].tolist()
    right = [given in one for given, one in zip(predicted, LABELS, strict=True) if one]
    assert 0 < sum(right) < len(right) == 81 == found.record["real_n"]
    assert found.record["metrics"]["real_acc1"] == pytest.approx(sum(right) / 81, abs=1e-12)
    assert len(found.record["real_labels_sha256"]) == 64
    plain = Battery(labelled, (), conditions).open("three").judge(embedder, lambda done, total: None)
    assert "real_acc1" not in plain.record["metrics"] and "real_n" not in plain.record


@pytest.mark.parametrize("wrong", [LABELS[:-1], [[7], *LABELS[1:]], [[]] * 90, {"a": 1}])
def test_labels_that_do_not_fit_are_refused(labelled: Path, conditions: Conditions, wrong: object) -> None:
    (labelled / "seven" / FILE).write_text(json.dumps(wrong))
    with pytest.raises(StateError, match="label"):
        Battery(labelled, (), conditions).open("seven")
