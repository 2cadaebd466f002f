"""Small pairs, triplets and settings for training, made from fixed seeds; real PNG files in real shards."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pi_repro.data.shardwriter import ShardWriter
from pi_repro.files import canonical_json
from pi_repro.spec.experiment import Resources
from pi_repro.stages.context import StageContext

SIZE = 32
MODEL: dict[str, Any] = {
    "name": "training-test",
    "architecture": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIZE, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "initialization": "open_clip",
    "logit_scale_init": 2.659,
    "logit_scale_max": 100.0,
}
OPTIMIZER: dict[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "betas": [0.9, 0.98],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decay": "matrices",
    "clip_norm": None,
    "implementation": "fused",
}
QKV = r"visual\.transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)"
WORDS = ["red", "green", "striped", "dotted", "small", "large", "round", "flat", "open", "old", "warm", "cold"]


def picture(random: np.random.Generator) -> bytes:
    """A PNG of smooth noise."""
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((40, 36), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def write_pairs(folder: Path, count: int = 52) -> Path:
    """Pairs in shards of 20."""
    random = np.random.default_rng(0)
    with ShardWriter(folder, "pairs", "pairs", shard_size=20) as writer:
        for number in range(count):
            caption = f"{' '.join(random.choice(WORDS, 3))} {number}".encode()
            writer.add(f"p{number:04d}", {"png": picture(random), "txt": caption, "json": b"{}"})
    return folder


def write_triplets(folder: Path, count: int = 60) -> Path:
    """Triplets of five classes in shards of 25; two of three are for training."""
    random = np.random.default_rng(1)
    with ShardWriter(folder, "votes", "triplets", shard_size=25) as writer:
        for number in range(count):
            members = {name: picture(random) for name in ("ref.png", "left.png", "right.png")}
            extra = {"label": int(random.integers(2)), "split": (0, 0, 2)[number % 3], "votes": 6}
            about = canonical_json({"class": "abcde"[number % 5]}).encode()
            writer.add(f"t{number:04d}", {**members, "json": about}, extra)
    return folder


def pretrain(**changes: Any) -> dict[str, Any]:
    """Settings of 3 epochs of 6 updates."""
    return {
        "data": "pairs",
        "epochs": 3,
        "batch": 8,
        "micro_batch": 4,
        "accumulation": 1,
        "optimizer": OPTIMIZER,
        "schedule": {"kind": "cosine", "warmup_updates": 3},
        "augmentation": {"kind": "random_resized_crop", "scale": [0.5, 1.0]},
        "precision": "fp32",
        "shuffle_block": 2,
        "keep_epochs": [0, 2],
        "checksum_every": 4,
        "publish_states": [7],
        **changes,
    }


def align(**changes: Any) -> dict[str, Any]:
    """Settings of 3 epochs of 5 updates."""
    return {
        "data": "votes",
        "objective": {"name": "triplet_hinge", "options": {"margin": 0.05, "distance": "cosine"}},
        "adapter": {"name": "full", "options": {}},
        "epochs": 3,
        "batch": 8,
        "micro_batch": 4,
        "optimizer": OPTIMIZER,
        "schedule": {"kind": "cosine", "warmup_updates": 2},
        "augmentation": {"kind": "resize"},
        "precision": "fp32",
        "shuffle_block": 4,
        "keep_epochs": [],
        "checksum_every": 5,
        **changes,
    }


def term(**changes: Any) -> dict[str, Any]:
    """Settings of a joint stage's triplet term, for `pretrain`'s two micro-batches."""
    return {
        "data": "votes",
        "objective": {"name": "triplet_hinge", "options": {"margin": 0.05, "distance": "cosine"}},
        "weight": 0.5,
        "batch": 8,
        "micro_batch": 4,
        "augmentation": {"kind": "resize"},
        "shuffle_block": 4,
        **changes,
    }


def resources(**changes: Any) -> Resources:
    """What changes no bit."""
    rate = {"startup_s": 1.0, "per_second": 1.0, "source": "none"}
    return Resources.model_validate(
        {
            "gpus": 0,
            "parallel": 1,
            "workers": 0,
            "prefetch": 2,
            "checkpoint_every": 4,
            "device_watts": 10.0,
            "grid_g_per_kwh": 1.0,
            "rates": {"align": rate, "pretrain": rate, "evaluate": rate},
            **changes,
        }
    )


def context(
    stage: str,
    settings: dict[str, Any],
    inputs: dict[str, Path],
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    **changes: Any,
) -> StageContext:
    """A stage's context with scratch and out in a folder; out is emptied as a launcher does."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for name in ("scratch", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    whole = {"recipe": 1, "seed": 3, "device": "cpu", "mode": "exact", "model": MODEL, **settings}
    return StageContext(
        name=f"{stage}@test-arm-s3",
        settings=whole,
        inputs=inputs,
        scratch=folder / "scratch",
        out=folder / "out",
        resources=resources(**changes),
        should_stop=should_stop,
        log=logging.getLogger("pirepro.test"),
    )
