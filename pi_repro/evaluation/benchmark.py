"""What every benchmark has in common.

Rule: a benchmark is opened once and judges any number of models; whatever does not depend on the weights
(prompts, tokens, decoded images) it keeps from one model to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .embed import Embedder, Pulse
from .preprocess import Preprocess
from .results import Result

#: Decoded images kept in memory by one process; larger sets are decoded again for each checkpoint.
KEPT_BYTES = 512 << 20

Tokenizer = Callable[[list[str]], torch.Tensor]


class Allowance:
    """Bytes that decoded images of all sets together may keep in memory."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._left = limit

    def take(self, size: int) -> bool:
        """Reserve `size` bytes if they are left."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """Return what was reserved."""
        self._left += size


@dataclass(frozen=True)
class Conditions:
    """What stays the same for all sets and checkpoints.

    Attributes:
        preprocess: how images reach the model.
        tokenizer: texts -> int64 [n, L].
        batch: items a forward pass.
        precision: recorded; the embedder applies it.
        recall_k: the k of recall@k.
        workers: loader processes, for large sets; changes no bit.
        prefetch: batches each of them keeps ready; changes no bit.
        allowance: memory for decoded images; changes no bit.
    """

    preprocess: Preprocess
    tokenizer: Tokenizer
    batch: int
    precision: str
    recall_k: tuple[int, ...]
    workers: int = 0
    prefetch: int = 2
    allowance: Allowance = field(default_factory=Allowance)


class Benchmark(Protocol):
    """One set under one metric."""

    @property
    def id(self) -> str:
        """Names the result files."""
        ...

    def judge(self, embedder: Embedder, pulse: Pulse) -> Result:
        """Judge a model; the same bits for the same weights."""
        ...
