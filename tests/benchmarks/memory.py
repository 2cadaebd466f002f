"""Peak memory of a contrastive step as the batch grows, against a loss over the whole batch.

Rule: tensors alone are counted, every allocation and release that torch's profiler saw on the CPU, so the
figures are the same on every machine. The encoders are tiny, so that the loss is what grows.

A process that owns M/W of the M micro-batches of m pairs (N = m M) holds at most

    4 (4 N D + 7 m N + 4 N) + G M/W + 4 P (log2(M/W) + 3)   bytes

over the weights and optimizer: features of both towers, as parts and joined (4 N D); a micro-batch's rows of
both logit matrices, their gradients and a product that is summed in float64 (7 m N); row sums (4 N); the
graphs of its micro-batches, G bytes each, of which one is held at a time where they don't fit
(`training.memory`); partial sums of P gradients in the tree. Nothing is N x N: at fixed m it grows in
proportion to N. open_clip's ClipLoss holds both whole logit matrices, what the softmax saved of them, and their
gradients: 4 N^2 bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import open_clip
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pi_repro.training.contrastive import Contrastive
from pi_repro.training.step import Conditions

from .rows import Row, row

DIMENSION, MICRO_BATCH, SIDE, WORDS = 16, 64, 2, 8
BATCHES = (512, 1024, 2048, 4096)
_MIB = 2**20


def measure() -> list[Row]:
    """Rows: the exponents of growth, and the peak at the largest batch."""
    theirs = [theirs_peak(batch) for batch in BATCHES]
    rows = []
    for keep, words in ((True, "graphs kept"), (False, "forward passes repeated")):
        ours = [ours_peak(batch, keep_graphs=keep) for batch in BATCHES]
        setting = f"{words}, micro-batches of {MICRO_BATCH}"
        growth = f"growth of a step's peak memory, N^x from {BATCHES[0]} to {BATCHES[-1]:,} pairs, {setting}"
        # A ratio of exponents would say nothing.
        figure = row(growth, exponent(BATCHES, ours), exponent(BATCHES, theirs), "exponent x", "<= 1, not 2")
        rows.append({**figure, "ratio": None})
        what = f"peak memory of a step's tensors, tiny encoders, {BATCHES[-1]:,} pairs, {setting}"
        rows.append(row(what, ours[-1] / _MIB, theirs[-1] / _MIB, "MiB"))
    return cast("list[Row]", rows)


def exponent(sizes: Sequence[int], figures: Sequence[float]) -> float:
    """x of the power law size^x that fits best, by least squares of logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(figure) for figure in figures]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def bound(batch: int, *, keep_graphs: bool) -> float:
    """The formula above for one process and the tiny model."""
    model = Tiny()
    micro_batches = batch // MICRO_BATCH
    parameters = sum(parameter.numel() for parameter in model.parameters())
    first = _pairs(MICRO_BATCH)
    # A graph: what the forward passes of a micro-batch leave behind as long as their outputs are held.
    graph = peak(lambda: _forward(model, first))
    loss = 4 * batch * (4 * DIMENSION + 7 * MICRO_BATCH + 4)
    return loss + graph * (micro_batches if keep_graphs else 1) + 4 * parameters * (math.log2(micro_batches) + 3)


def ours_peak(batch: int, *, keep_graphs: bool) -> int:
    """Bytes of one gradient by micro-batches."""
    model = Tiny()
    count = batch // MICRO_BATCH
    conditions = Conditions(torch.device("cpu"), "fp32", 0, MICRO_BATCH, count)
    learner = Contrastive(model, conditions, 1, 100.0, keep_graphs=keep_graphs)
    whole = _pairs(batch)
    parts = [
        {name: tensor[start : start + MICRO_BATCH] for name, tensor in whole.items()}
        for start in range(0, batch, MICRO_BATCH)
    ]
    return peak(lambda: learner.gradient(1, iter(parts)))


def theirs_peak(batch: int) -> int:
    """Bytes of one backward pass of open_clip's ClipLoss over the whole batch."""
    model = Tiny()
    whole = _pairs(batch)
    loss = open_clip.ClipLoss()

    def step() -> None:
        image, text = _forward(model, whole)
        loss(image, text, model.logit_scale.exp()).backward()

    return peak(step)


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that the work held at one moment, beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = work()
    del kept
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _forward(model: Tiny, pairs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    image = model.encode_image(pairs["image"] / 255)
    text = model.encode_text(pairs["text"])
    return nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)


def _pairs(count: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=random),
        "text": torch.randint(0, WORDS, (count, 1), generator=random),
    }


class Tiny(nn.Module):
    """As much of an open_clip model as a step needs: two linear towers."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Linear(3 * SIDE * SIDE, DIMENSION)
        self.token_embedding = nn.Embedding(WORDS, DIMENSION)
        self.projection = nn.Linear(DIMENSION, DIMENSION)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        return cast("torch.Tensor", self.visual(images.flatten(1)))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        return cast("torch.Tensor", self.projection(self.token_embedding(tokens)[:, 0]))
