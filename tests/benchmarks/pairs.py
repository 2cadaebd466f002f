"""Pairs in memory for benchmarks that need no loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pi_repro.data.order import Order

VOCABULARY = 49_408


def synthetic(batches: int, batch: int, size: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images uint8 [N, 3, S, S] of noise and captions int64 [N, L] that repeat words as captions do."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(batches):
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=random)
        words = (2000 * torch.rand(batch, length, generator=random) ** 3).long() + 300
        ends = torch.randint(4, length, (batch, 1), generator=random)
        places = torch.arange(length)
        texts = words.masked_fill(places == ends, VOCABULARY - 1).masked_fill(places > ends, 0)
        texts[:, 0] = VOCABULARY - 2
        made.append((images, texts))
    return made


@dataclass(frozen=True)
class Stored:
    """A `data.loader.Source` of batches that are there already; row r is pair r % N of batch r // N."""

    parts: Sequence[tuple[torch.Tensor, torch.Tensor]]

    @property
    def order(self) -> Order:
        """One shard a batch."""
        return Order([len(images) for images, _ in self.parts], 0, 1)

    def batch(self, samples: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Neighbours of the first sample, as a view: copying rows would be the loader's work, not the step's."""
        size, count = len(self.parts[0][0]), len(samples)
        number, place = divmod(samples[0][1], size)
        begin = place // count * count
        images, texts = self.parts[number]
        return {"image": images[begin : begin + count], "text": texts[begin : begin + count]}

    def divide_caches(self, processes: int) -> None:
        """There are none."""

    def batch_bytes(self, samples: int) -> int:
        """See `data.loader.Source`."""
        return sum(tensor[:samples].nbytes for tensor in self.parts[0])
