"""A training step on the CPU against open_clip's own training loop.

Rule: same model, same batches in memory, same batch of N pairs, one thread each, by turns. Ours is the
whole of `training.loop.train`: pixels normalized in the step, gradient, norm, optimizer, ledger with its
checksums. Theirs is `open_clip_train.train.train_one_epoch` with what `open_clip_train.main` gives it
(ClipLoss, AdamW, the cosine schedule, fp32); its images come normalized already, as its own loader gives
them. Theirs runs twice: with kernels pinned as exact mode pins them, and free to use any instructions. Times
are the processor's for the one thread, which others on the machine disturb least.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .rows import Row, row
from .workers import FREE, PINNED, ROOT, Worker, race, ratio, serve, tell, wait

BATCH = 128
STEPS = 3  # of one turn
_ROUNDS = 10
_MODULE = "tests.benchmarks.step"  # __name__ is another when this is the command
_BATCHES = 8
_MODEL = "pi-demo-64"
_CONFIG = ROOT / "specs" / "models" / f"{_MODEL}.json"


def measure() -> list[Row]:
    """Rows for micro-batches of half the batch and of all of it."""
    rows = []
    for size in (64, 128):
        workers = {
            "ours": Worker(_MODULE, ["ours", "--micro-batch", str(size)], PINNED),
            "pinned": Worker(_MODULE, ["theirs"], PINNED),
            "free": Worker(_MODULE, ["theirs"], FREE),
        }
        times = race(workers, _ROUNDS)
        ours = 1000 * statistics.median(times["ours"]) / STEPS
        for name, words, target in (
            ("pinned", "open_clip with the same pinned kernels", ">= 1"),
            ("free", "open_clip with its kernels left free", ""),
        ):
            theirs = 1000 * statistics.median(times[name]) / STEPS
            what = f"CPU step, {_MODEL}, {BATCH} pairs by micro-batches of {size}, against {words}"
            rows.append(row(what, ours, theirs, "ms", target, ratio=ratio(times[name], times["ours"])))
    return rows


def model_settings() -> dict[str, Any]:
    """The demo's model as a stage is given it."""
    return {
        "name": _MODEL,
        "architecture": json.loads(_CONFIG.read_text()),
        "initialization": "open_clip",
        "logit_scale_init": 2.659,
        "logit_scale_max": 100.0,
    }


def _ours(size: int) -> None:
    """The training loop, which waits at the end of every STEPS updates."""
    from .ours import pretrain
    from .pairs import Stored, synthetic

    begun = 0.0

    def gate(done: int, total: int, unit: str, note: str = "") -> None:
        nonlocal begun
        if done % STEPS == 0:
            tell(time.process_time() - begun)
            if not wait():
                raise SystemExit
            begun = time.process_time()

    source = Stored(synthetic(_BATCHES, BATCH, 64, 16))
    if wait():
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            pretrain(model_settings(), source, size, 10**6, Path(folder), gate)


def _theirs() -> None:
    """One of its epochs a turn, of STEPS batches."""
    import open_clip
    import torch
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from .pairs import synthetic

    torch.set_num_threads(1)
    open_clip.add_model_config(_CONFIG)
    model = open_clip.create_model(_MODEL, precision="fp32", output_dict=True)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    data = Loader(
        [((images / 255 - mean) / std, texts) for images, texts in synthetic(_BATCHES, BATCH, 64, 16)], STEPS, BATCH
    )
    optimizer = open_clip_adamw(model)
    arguments = SimpleNamespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=False,
        horovod=False,
        grad_clip_norm=None,
        rank=0,
        world_size=1,
        batch_size=BATCH,
        log_every_n_steps=100,
        wandb=False,
    )
    schedule = cosine_lr(optimizer, 1e-3, 20, 10**6)
    loss = open_clip.ClipLoss()
    serve(lambda: train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, schedule, None, arguments))


def open_clip_adamw(model: Any, **kernel: bool) -> Any:
    """AdamW as `open_clip_train.main` makes it, which asks torch for no particular kernel unless told here."""
    import torch

    def kept(name: str, parameter: Any) -> bool:
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if kept(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not kept(name, p)], "weight_decay": 0.1},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8, **kernel)


class Loader:
    """What `train_one_epoch` asks of open_clip's DataInfo and its loader: an epoch of so many of these batches."""

    def __init__(self, parts: list[tuple[Any, Any]], steps: int, batch: int) -> None:
        self.dataloader = self
        self.parts = parts
        self.num_batches = steps
        self.num_samples = steps * batch
        self.taken = 0

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(self.num_batches):
            yield self.parts[self.taken % len(self.parts)]
            self.taken += 1


if __name__ == "__main__":
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["ours", "theirs"])
    parser.add_argument("--micro-batch", type=int, default=BATCH)
    given = parser.parse_args()
    if given.who == "ours":
        _ours(given.micro_batch)
    else:
        _theirs()
