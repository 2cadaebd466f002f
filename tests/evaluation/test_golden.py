"""`pirepro evaluate --against`: a row that others computed agrees, one that is 0.2 points off does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pi_repro.errors import RequestError
from pi_repro.evaluation.export import export
from pi_repro.files import write_json
from pi_repro.launch import published
from pi_repro.spec.loading import load_card
from pi_repro.training import model as models
from tests.data.servers import HubServer

from .samples import MODEL, SIZE, random_model, write_classification, write_retrieval
from .test_parity import clip_benchmarks

ROOT = Path(__file__).parents[2]
ROWS = sorted((ROOT / "specs" / "published").glob("*.json"))


def judge(weights: str, suite: Path, row: Path, status: int, *more: str, **environment: str) -> str:
    """Run the command as a user would; what it prints."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pi_repro", "evaluate"),
            *("--weights", weights, "--suite", str(suite), "--against", str(row), *more),
        ],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "110", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_row(path: Path, weights: str, results: dict[str, dict[str, float]]) -> Path:
    content = {"weights": weights, "source": "a test", "note": "", "results": results}
    path.write_text(json.dumps(content))
    return path


def independent(
    suite: Path, model: torch.nn.Module, names: tuple[str, ...], tokenizer: Any, size: int = SIZE
) -> dict[str, Any]:
    """Results by clip_benchmark, rounded as published rows are."""
    found = {}
    for name in names:
        metrics = clip_benchmarks(suite / name, model, tokenizer, size)
        found[name] = {metric: round(value, 4) for metric, value in metrics.items() if value == value}
    return found


def test_a_row_computed_by_others_agrees_and_an_altered_one_does_not(
    suite: Path, weights: Path, tmp_path: Path
) -> None:
    file = export(weights, "last", tmp_path / "export")
    results = independent(suite, random_model(1), ("seven", "captions-5"), models.tokenizer(MODEL))
    row = write_row(tmp_path / "row.json", str(file), {**results, "imagenet1k": {"acc1": 0.3}})
    altered = {**results, "seven": {**results["seven"], "acc1": results["seven"]["acc1"] + 0.002}}
    other = write_row(tmp_path / "other.json", "others", {**altered, "imagenet1k": {"acc1": 0.3}})
    output = tmp_path / "results.json"
    printed = judge(str(file), suite, other, 3, "--output", str(output))
    (line,) = [line for line in printed.splitlines() if "DIFFERS" in line]
    assert line.split()[:2] == ["seven", "acc1"] and "-0.20" in line
    assert "8 of 9 figures agree, 1 DIFFER" in printed and f"judged was {file}" in printed
    assert "not in this suite: imagenet1k" in printed and "three" not in printed
    found = published.compare(published.read_row(row), json.loads(output.read_text()))
    assert found.agrees and len(found.lines) == 9 and found.absent == ("imagenet1k",)


def _within(difference: float) -> bool:
    row = published.Row("w", "s", "", {"a": {"acc1": 0.5}})
    return published.compare(row, {"a": {"metrics": {"acc1": 0.5 + difference}}}).agrees


def test_the_tolerance_is_a_tenth_of_a_point() -> None:
    assert _within(0.0) and _within(0.001) and _within(-0.001)
    assert not _within(0.00101) and not _within(-0.002)
    undefined = published.compare(published.Row("w", "s", "", {"a": {"acc5": 0.5}}), {"a": {"metrics": {"acc5": None}}})
    assert not undefined.agrees and undefined.lines[0].difference_pp is None
    with pytest.raises(RequestError, match="no such metric"):
        published.compare(published.Row("w", "s", "", {"a": {"acc": 0.5}}), {"a": {"metrics": {"acc1": 0.5}}})


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("note"),
        lambda row: row.update(results={}),
        lambda row: row.update(results={"a": {"acc1": 32.75}}),
        lambda row: row.update(results={"a": {"acc1": "0.3"}}),
        lambda row: row.update(results=[1]),
    ],
)
def test_a_malformed_row_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    row = json.loads(ROWS[0].read_text())
    change(row)
    (tmp_path / "row.json").write_text(json.dumps(row))
    with pytest.raises(RequestError, match="no published row"):
        published.read_row(tmp_path / "row.json")


def test_a_row_that_is_no_json_is_refused_with_one_given(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text("acc1: 0.3")
    with pytest.raises(RequestError, match="no published row") as error:
        published.read_row(tmp_path / "row.json")
    assert str(error.value).count("given:") == 1 and "no valid JSON: Expecting value" in str(error.value)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_the_rows_that_are_shipped(path: Path) -> None:
    row = published.read_row(path)
    model, _, tag = row.weights.removeprefix("open_clip:").rpartition("/")
    assert (model, tag) in open_clip.list_pretrained()
    card = load_card(ROOT / "specs" / "data" / "zeroshot-29-2.yaml")
    assert row.results.keys() <= {entry.id for entry in card.sets}
    if model == "RN50-quickgelu":
        assert row.results == {"imagenet1k": {"acc1": 0.3275}} and "QuickGELU" in row.note
    else:
        assert row.results.keys() == {entry.id for entry in card.sets} and "activation mismatch" in row.note


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_the_published_weights_name_works_through_a_hub(tmp_path: Path) -> None:
    """open_clip:RN50-quickgelu/yfcc15m, whose weights the hub on this machine makes up."""
    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu").eval()
    with torch.no_grad():  # fresh residual branches end in zeros
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(1.0)
    suite = tmp_path / "suite"
    write_classification(suite / "seven", classes=7, count=12, seed=1)
    write_retrieval(suite / "captions-5", captions=5, count=11, seed=2)
    write_json(suite / "suite.json", {"sets": [{"id": "seven"}, {"id": "captions-5"}]})
    results = independent(suite, model, ("seven", "captions-5"), open_clip.get_tokenizer("RN50-quickgelu"), 224)
    good = write_row(tmp_path / "good.json", "open_clip:RN50-quickgelu/yfcc15m", results)
    results["seven"]["acc1"] += 0.002
    altered = write_row(tmp_path / "altered.json", "open_clip:RN50-quickgelu/yfcc15m", results)
    output = tmp_path / "results.json"
    # 400 MB twice, which pytest would keep.
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "weights")
        repository.mkdir()
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, repository / "open_clip_model.safetensors")
        with HubServer({}, models={"timm/resnet50_clip.yfcc15m": repository}) as hub:
            home = {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_XET": "1"}
            printed = judge("open_clip:RN50-quickgelu/yfcc15m", suite, altered, 3, "--output", str(output), **home)
            assert any("open_clip_model.safetensors" in asked.path for asked in hub.cdn.asked)
    (line,) = [line for line in printed.splitlines() if "DIFFERS" in line]
    assert line.split()[:2] == ["seven", "acc1"] and "-0.20" in line
    found = published.compare(published.read_row(good), json.loads(output.read_text()))
    assert found.agrees and len(found.lines) >= 7 and len({one.measured for one in found.lines}) > 2
