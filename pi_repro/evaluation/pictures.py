"""The images of a set, decoded once for all checkpoints where memory allows.

Rule: each distinct image of a set is decoded and embedded once, in order of first appearance; whether
it comes from memory, this process or a loader's worker changes no bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pi_repro.data import loader
from pi_repro.data.shards import Shards
from pi_repro.errors import StateError

from .benchmark import Conditions
from .embed import Embedder, Pulse, no_pulse

#: Starting loader workers costs more than decoding this many small images here.
_WORTH_WORKERS = 2048

#: One stored image: the member's column and the sample's row.
Member = tuple[str, int]


class Pictures:
    """Distinct images of a set, as full batches, any number of times.

    Args:
        shards: where the images are stored.
        members: the images wanted, repetitions allowed.
        conditions: how they are decoded, batched and kept.
    """

    def __init__(
        self,
        shards: Shards,
        members: Sequence[Member],
        conditions: Conditions,
    ) -> None:
        self._shards = shards
        self._decode = conditions.preprocess.decode
        self._batch = conditions.batch
        self._prefetch = conditions.prefetch
        self._allowance = conditions.allowance
        self._kept: list[torch.Tensor] | None = None
        self._distinct, self.index = _distinct(shards, members)
        self._workers = conditions.workers if len(self._distinct) >= _WORTH_WORKERS else 0

    def __len__(self) -> int:
        """Number of distinct images; `index` int64 [members] says which of them each member is."""
        return len(self._distinct)

    def batches(self) -> Iterator[torch.Tensor]:
        """Decoded images in order, `batch` at a time, the last batch maybe shorter."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[torch.Tensor] | None = []
        for batch in self._decoded():
            if kept is not None and self._allowance.take(batch.nbytes):
                kept.append(batch)
            elif kept is not None:
                # A set is kept whole or not at all; what it had taken goes back.
                self._allowance.give_back(sum(part.nbytes for part in kept))
                kept = None
            yield batch
        self._kept = kept

    def embed(self, embedder: Embedder, pulse: Pulse = no_pulse) -> torch.Tensor:
        """Unit-length features [members, D]."""
        features = embedder.images(self.batches(), len(self), pulse)
        return features[torch.from_numpy(self.index).to(features.device)]

    def image(self, number: int) -> torch.Tensor:
        """One distinct image, decoded."""
        if self._kept is not None:
            return self._kept[number // self._batch][number % self._batch]
        return self._one(number)

    def batch(self, samples: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The loader's view: (epoch, number) of distinct images; there is but one epoch."""
        return {"image": torch.stack([self._one(number) for _, number in samples])}

    def divide_caches(self, processes: int) -> None:
        """The loader's workers keep nothing here."""

    def batch_bytes(self, samples: int) -> int:
        """The loader's view: all images are decoded to one shape."""
        return samples * self.image(0).nbytes

    def _one(self, number: int) -> torch.Tensor:
        column, row = self._distinct[number]
        try:
            return self._decode(self._shards.read(column, row))
        except StateError as error:
            where = error.where or f"{column} of {self._shards.describe(row)}"
            raise StateError(error.problem, where=where, given=error.given, todo=error.todo) from None

    def _decoded(self) -> Iterator[torch.Tensor]:
        numbers = [(0, number) for number in range(len(self._distinct))]
        schedule = [numbers[start : start + self._batch] for start in range(0, len(numbers), self._batch)]
        for loaded in loader.micro_batches(self, schedule, workers=self._workers, prefetch=self._prefetch):
            yield loaded["image"]

    def __getstate__(self) -> dict[str, object]:
        # What is kept in memory stays in this process.
        return {**vars(self), "_kept": None}


def _distinct(shards: Shards, members: Sequence[Member]) -> tuple[list[Member], NDArray[np.int64]]:
    number_of: dict[bytes, int] = {}
    distinct: list[Member] = []
    index = np.empty(len(members), dtype=np.int64)
    for place, (column, row) in enumerate(members):
        digest = hashlib.sha256(shards.read(column, row)).digest()
        if digest not in number_of:
            number_of[digest] = len(distinct)
            distinct.append((column, row))
        index[place] = number_of[digest]
    return distinct, index
