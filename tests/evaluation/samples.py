"""A small suite, triplets and weights in our form, made from fixed seeds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pi_repro.data.shardwriter import ShardWriter
from pi_repro.files import write_json
from pi_repro.training import model as models

SIZE = 32
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
MODEL: dict[str, Any] = {
    "name": "evaluation-test",
    "architecture": ARCHITECTURE,
    "initialization": "open_clip",
    "logit_scale_init": 2.659,
    "logit_scale_max": 100.0,
}
BATCH = 16
WORDS = (
    *("red", "green", "blue", "striped", "dotted", "small", "large", "round"),
    *("flat", "open", "closed", "new", "old", "warm", "cold"),
)


def picture(random: np.random.Generator) -> bytes:
    """A PNG of smooth noise, 40 to 90 pixels a side."""
    height, width = random.integers(40, 90, 2).tolist()
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def write_classification(folder: Path, classes: int, count: int, seed: int) -> None:
    """A classification set whose images tell nothing about their classes."""
    random = np.random.default_rng(seed)
    with ShardWriter(folder, folder.name, "classification", shard_size=40, layout="suite") as writer:
        for number in range(count):
            label = int(random.integers(classes))
            members = {"png": picture(random), "cls": str(label).encode()}
            writer.add(f"s{number:04d}", members, {"label": label})
    (folder / "classnames.txt").write_text("\n".join(WORDS[:classes]) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n{c}\nthe {c} thing, drawn\n")


def write_retrieval(folder: Path, captions: int, count: int, seed: int) -> None:
    """A retrieval set with a fixed number of distinct captions an image."""
    random = np.random.default_rng(seed)
    with ShardWriter(folder, folder.name, "retrieval", shard_size=40, layout="suite") as writer:
        for number in range(count):
            lines = [f"{' '.join(random.choice(WORDS, 3))} {number} {line}" for line in range(captions)]
            writer.add(f"s{number:04d}", {"png": picture(random), "txt": "\n".join(lines).encode()})
    (folder / "dataset_type.txt").write_text("retrieval\n")


def write_suite(folder: Path) -> Path:
    """Two classification sets, one under 5 classes, and two retrieval sets."""
    write_classification(folder / "seven", classes=7, count=90, seed=1)
    write_classification(folder / "three", classes=3, count=50, seed=2)
    write_retrieval(folder / "captions-1", captions=1, count=60, seed=3)
    write_retrieval(folder / "captions-5", captions=5, count=45, seed=4)
    tasks = {"seven": "classification", "three": "classification", "captions-1": "retrieval", "captions-5": "retrieval"}
    sets = [{"id": name, "title": name, "task": task, "family": "test"} for name, task in tasks.items()]
    write_json(folder / "suite.json", {"sets": sets})
    return folder


def write_triplets(folder: Path, count: int = 60) -> Path:
    """Triplets of few distinct images: right is the reference with noise where the label says so."""
    random = np.random.default_rng(5)
    pool = [picture(random) for _ in range(12)]
    with ShardWriter(folder, "votes", "triplets", shard_size=25) as writer:
        for number in range(count):
            ref, left, right = random.choice(len(pool), 3, replace=False)
            members = {"ref.png": pool[ref], "left.png": pool[left], "right.png": pool[right], "json": b"{}"}
            extra = {"label": int(random.integers(2)), "split": number % 3, "votes": 6}
            writer.add(f"t{number:04d}", members, extra)
    return folder


def write_weights(folder: Path, epochs: tuple[int, ...] = (0, 1)) -> Path:
    """A weights folder as a training leaves it, with random weights at each epoch."""
    checkpoints = []
    for epoch in epochs:
        name = f"weights/epoch-{epoch:04d}.safetensors"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = models.save(random_model(epoch), MODEL, path)
        checkpoints.append(
            {"epoch": epoch, "update": 10 * epoch, "samples": 160 * epoch, "file": name, "sha256": sha256}
        )
    last = checkpoints[-1]["file"]
    content = {"stage": "pretrain", "model": MODEL, "checkpoints": checkpoints, "last": last}
    write_json(folder / "training.json", content)
    return folder


def random_model(seed: int) -> torch.nn.Module:
    """The test model with weights that spread its features out."""
    torch.manual_seed(seed)
    model = models.build(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()
