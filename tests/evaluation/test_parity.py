"""The same numbers as clip_benchmark's own functions and as its command, on the same weights and sets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image

from pi_repro.data.shards import Shards
from pi_repro.evaluation.battery import Battery
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.candidate import evaluate_weights
from pi_repro.evaluation.embed import Embedder
from pi_repro.evaluation.export import export
from pi_repro.evaluation.prompts import Prompts

from .clip_benchmark_command import repair
from .samples import MODEL, SIZE, random_model

COMMAND = Path(__file__).with_name("clip_benchmark_command.py")


class Batches:
    """What clip_benchmark's functions want of a loader."""

    def __init__(self, shards: Shards, classes: int | None, size: int) -> None:
        self.shards = shards
        self.dataset = self
        self.classes = list(range(classes or 0))
        self.transform = open_clip.image_transform(size, is_train=False)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for start in range(0, self.shards.count, 13):
            rows = range(start, min(start + 13, self.shards.count))
            contents = [self.shards.read("image", row) for row in rows]
            images = torch.stack([self.transform(Image.open(io.BytesIO(c)).convert("RGB")) for c in contents])
            if self.classes:
                yield images, torch.tensor([int(self.shards.column("label")[row]) for row in rows])
            else:
                yield images, [self.shards.read("text", row).decode().splitlines() for row in rows]


def clip_benchmarks(folder: Path, model: torch.nn.Module, tokenizer: Any, size: int = SIZE) -> dict[str, float]:
    """The metrics of clip_benchmark's functions."""
    shards = Shards.open(folder)
    if shards.kind == "retrieval":
        batches = Batches(shards, None, size)
        return dict(zeroshot_retrieval.evaluate(model, batches, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]))
    repair()
    prompts = Prompts.read(folder)
    names, templates = list(prompts.classnames), list(prompts.templates)
    batches = Batches(shards, len(names), size)
    return dict(zeroshot_classification.evaluate(model, batches, tokenizer, names, templates, "cpu", amp=False))


def assert_same(ours: dict[str, float | None], theirs: dict[str, float]) -> None:
    """All of theirs are ours, their NaN being our None."""
    for name, value in theirs.items():
        if value != value:
            assert ours[name] is None, name
        else:
            assert ours[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["seven", "three", "captions-1", "captions-5"])
def test_metrics_are_those_of_clip_benchmarks_functions(
    suite: Path, conditions: Conditions, embedder: Embedder, name: str, seed: int
) -> None:
    model = random_model(seed)
    ours = Battery(suite, (), conditions).open(name)
    found = ours.judge(Embedder(model, embedder.prepare, "cpu", "fp32", embedder.batch), lambda done, total: None)
    theirs = clip_benchmarks(suite / name, model, conditions.tokenizer)
    assert_same(found.record["metrics"], theirs)
    # Metrics that are all alike, or all 0 or 1, would show nothing.
    assert len(set(theirs.values())) > 1 and any(0 < value < 1 for value in theirs.values())


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("zeroshot_classification", ("seven", "three")),
        ("zeroshot_retrieval", ("captions-1", "captions-5")),
    ],
)
def test_metrics_are_those_of_clip_benchmarks_command(
    suite: Path, weights: Path, tmp_path: Path, task: str, names: tuple[str, ...]
) -> None:
    file = export(weights, "last", tmp_path / "export")
    config = file.parent / f"{MODEL['name']}.json"
    subprocess.run(
        [
            *(sys.executable, str(COMMAND), str(config), "eval", "--task", task),
            *("--dataset", *(f"wds/{name}" for name in names), "--dataset_root", f"{suite}/{{dataset}}"),
            *("--model", MODEL["name"], "--pretrained", str(file), "--no_amp", "--batch_size", "16"),
            *("--recall_k", "1", "5", "10", "--num_workers", "0", "--output", f"{tmp_path}/{{dataset}}.json"),
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    ours = evaluate_weights(str(file), suite, sets=names)
    through_open_clip = evaluate_weights(str(file), suite, sets=names, model=str(config))
    for name in names:
        theirs = json.loads((tmp_path / f"{name}.json").read_text())["metrics"]
        assert_same(ours[name]["metrics"], theirs)
        assert_same(through_open_clip[name]["metrics"], theirs)
