"""What we export and measure is what open_clip and clip_benchmark make of the same files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ROOT, Workspace

COMMAND = ROOT / "tests" / "evaluation" / "clip_benchmark_command.py"


def test_exported_weights_load_in_open_clip_and_give_the_same_features(workspace: Workspace, tmp_path: Path) -> None:
    import open_clip

    from pi_repro.training import model as models

    stage = workspace.root / "artifacts/demo-tiny/pi-s0/pretrain"
    output = workspace.run("pirepro", "export", str(stage), str(tmp_path / "exported"))
    exported = Path(output.split("wrote ", 1)[1].strip())
    card = (exported.parent / "README.md").read_text()
    assert "CC-BY-SA-4.0" in card and "no evidence" in card
    open_clip.add_model_config(exported.parent / "pi-demo-64.json")
    theirs, _, preprocess = open_clip.create_model_and_transforms("pi-demo-64", pretrained=str(exported))
    training = json.loads((stage / "training.json").read_text())
    ours = models.load(training["model"], stage / training["last"])
    assert preprocess.transforms[0].size == 64
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    texts = open_clip.get_tokenizer("pi-demo-64")(["a red apple", "two dogs"])
    for model in (theirs, ours):
        model.eval()
    with torch.no_grad():
        assert torch.equal(theirs.encode_image(images), ours.encode_image(images))
        assert torch.equal(theirs.encode_text(texts), ours.encode_text(texts))


@pytest.mark.full
@pytest.mark.parametrize("name", ["demo-tiny", "demo"])
def test_results_are_those_of_clip_benchmark_s_command(finished: Workspace, name: str, tmp_path: Path) -> None:
    """Every set of the suite, the last checkpoint of arm pi, to 1e-6."""
    root = finished.root if name == "demo-tiny" else ROOT
    if not (root / "results" / name).is_dir():
        assert os.environ.get("CI") != "true", "make demo comes first"
        pytest.skip("make demo first")
    last = sorted((root / "results" / name / "pi-s0").glob("epoch-*"))[-1]
    Workspace(root).run("pirepro", "export", f"artifacts/{name}/pi-s0/pretrain", str(tmp_path / "exported"))
    weights = tmp_path / "exported" / "open_clip_model.safetensors"
    ours = {record["dataset"]: record for path in last.rglob("*.json") if (record := json.loads(path.read_text()))}
    for task, wanted in (("zeroshot_classification", "classification"), ("zeroshot_retrieval", "retrieval")):
        sets = [set_id for set_id, record in ours.items() if record["task"] == wanted]
        assert sets
        suite = root / "data" / ("tiny-suite" if name == "demo-tiny" else "demo-suite")
        _clip_benchmark(suite, weights, task, sets, tmp_path)
        for set_id in sets:
            theirs = json.loads((tmp_path / f"{set_id.replace('/', '_')}.json").read_text())["metrics"]
            for metric, value in theirs.items():
                mine = ours[set_id]["metrics"][metric]
                if mine is None:
                    assert math.isnan(value)
                else:
                    assert mine == pytest.approx(value, abs=1e-6), (set_id, metric)


def _clip_benchmark(suite: Path, weights: Path, task: str, sets: list[str], folder: Path) -> None:
    config = weights.parent / "pi-demo-64.json"
    done = subprocess.run(
        [
            *(sys.executable, str(COMMAND), str(config), "eval", "--task", task),
            *("--dataset", *(f"wds/{set_id}" for set_id in sets), "--dataset_root", f"{suite}/{{dataset}}"),
            *("--model", "pi-demo-64", "--pretrained", str(weights), "--no_amp", "--batch_size", "64"),
            *("--recall_k", "1", "5", "10", "--num_workers", "0", "--output", f"{folder}/{{dataset}}.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
