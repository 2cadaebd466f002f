"""Micro-batches in a given order, decoded here or in worker processes.

Rule: a micro-batch is a function of its list of (epoch, row); so neither the number of workers nor
the prefetch can change a bit. Nothing is dropped: a sample that cannot be decoded stops the run
and is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from pi_repro.data import captions, transforms
from pi_repro.data.draws import swapped
from pi_repro.data.order import Order
from pi_repro.data.randomness import generator
from pi_repro.data.shards import Shards
from pi_repro.data.triplets import IMAGES, SPLITS, TripletSet
from pi_repro.data.workers import START_METHOD, Guarded, as_is, next_batch, running, start_worker
from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.spec.training import Augmentation

Sample = tuple[int, int]  # epoch, row
Batch = dict[str, torch.Tensor]

#: Decoded images kept by transforms that draw nothing, in all processes together.
CACHE_BYTES = 512 * 2**20
#: Captions whose tokens are kept, in each process; 100,000 of 77 tokens are 31 MB.
_CACHED_CAPTIONS = 100_000


class Source(Protocol):
    """Anything that makes a micro-batch of a list of (epoch, row)."""

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Tensors whose first dimension is that of `samples`."""
        ...

    def divide_caches(self, processes: int) -> None:
        """This process is one of so many, each with caches of its own; called again in a loader's worker."""
        ...

    def batch_bytes(self, samples: int) -> int:
        """Bytes of the tensors of a micro-batch of so many samples."""
        ...


class _Images:
    """Transformed images of a dataset, kept where the transform draws nothing."""

    def __init__(self, shards: Shards, augmentation: Augmentation, image_size: int, seed: int) -> None:
        self.shards = shards
        self.size = image_size
        self.nbytes = 3 * image_size * image_size
        self.seed = seed
        self.room = 0 if transforms.is_random(augmentation) else CACHE_BYTES
        self._draws = transforms.is_random(augmentation)
        self._transform = transforms.build(augmentation, image_size)
        self._kept: dict[tuple[str, int], np.ndarray] = {}

    def stack(self, member: str, samples: Sequence[Sample]) -> torch.Tensor:
        """uint8 [samples, 3, S, S], in memory as the transform lays out the first; values say the same either way."""
        pixels = np.empty((0, 3, self.size, self.size), dtype=np.uint8)
        for place, (epoch, row) in enumerate(samples):
            one = self._one(member, epoch, row)
            if place == 0:
                shape = (len(samples), 3, self.size, self.size)
                # A decoder has the channels innermost; sorting them out is the device's work (`pixels.normalize`).
                inner = (shape[0], *shape[2:], 3)
                pixels = (
                    np.empty(shape, np.uint8)
                    if one.flags.c_contiguous
                    else np.empty(inner, np.uint8).transpose(0, 3, 1, 2)
                )
            pixels[place] = one
        return torch.from_numpy(pixels)

    def _one(self, member: str, epoch: int, row: int) -> np.ndarray:
        kept = self._kept.get((member, row))
        if kept is not None:
            return kept
        random = generator("augment", self.seed, epoch, row, member) if self._draws else None
        try:
            pixels = self._transform(self.shards.read(member, row), random)
        except StateError as error:
            if error.where is not None:
                raise
            where = f"{member} of {self.shards.describe(row)}"
            raise StateError(error.problem, where=where, given=error.given, todo="fetch the dataset again") from None
        if self.room >= pixels.nbytes:
            self.room -= pixels.nbytes
            self._kept[member, row] = pixels
        return pixels


class PairSource:
    """Image-text pairs: {"image": uint8 [m, 3, S, S], "text": int64 [m, L]}.

    Args:
        shards: a dataset with members "image" and "text".
        augmentation: the training transform.
        image_size: S in pixels.
        tokenizer: captions to int64 [captions, L], such as open_clip's.
        seed: of the augmentation.
        caption_noise: share of the pairs that show another's caption (`spec.training.Pretrain`); such a caption
            is read wherever it stands, so the reads of a large set are no longer near-sequential.
    """

    def __init__(
        self,
        shards: Shards,
        augmentation: Augmentation,
        image_size: int,
        tokenizer: Callable[[list[str]], torch.Tensor],
        seed: int,
        caption_noise: float = 0.0,
    ) -> None:
        if not {"image", "text"} <= set(shards.members):
            raise RequestError(
                "dataset holds no pairs", where=f"dataset {shards.name}", given=shards.kind, allowed="pairs"
            )
        self.shards = shards
        self.seed = seed
        self._images = _Images(shards, augmentation, image_size, seed)
        self._tokenizer = captions.fast(tokenizer)
        self._tokens: dict[bytes, np.ndarray] = {}
        self.captions = swapped(shards.count, caption_noise, "captions", seed) if caption_noise else None

    def order(self, block: int) -> Order:
        """The shuffled order of all pairs, `block` shards at a time."""
        return Order(self.shards.counts, self.seed, block)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The pairs of a list of (epoch, row)."""
        return {
            "image": self._images.stack("image", samples),
            "text": self._text([row for _, row in samples]),
        }

    def divide_caches(self, processes: int) -> None:
        """See `Source`."""
        self._images.room //= processes

    def batch_bytes(self, samples: int) -> int:
        """See `Source`."""
        return samples * (self._images.nbytes + self._tokenizer([""]).nbytes)

    def __getitem__(self, sample: Sample) -> Batch:
        """One pair: image uint8 [3, S, S], text int64 [L]."""
        return {name: tensor[0] for name, tensor in self.batch([sample]).items()}

    def _text(self, rows: list[int]) -> torch.Tensor:
        if self.captions is not None:
            rows = self.captions[rows].tolist()
        texts = [self.shards.read("text", row) for row in rows]
        new = {text: row for text, row in zip(texts, rows, strict=True) if text not in self._tokens}
        found = dict(zip(new, self._tokenize(new), strict=True))
        tokens = [found[text] if text in found else self._tokens[text] for text in texts]
        if len(self._tokens) + len(found) <= _CACHED_CAPTIONS:
            self._tokens |= found
        return torch.from_numpy(np.stack(tokens).astype(np.int64))

    def _tokenize(self, new: dict[bytes, int]) -> np.ndarray:
        texts = []
        for caption, row in new.items():
            try:
                texts.append(caption.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise StateError("caption is not UTF-8", where=self.shards.describe(row), given=str(error)) from None
        return self._tokenizer(texts).numpy().astype(np.int32) if texts else np.empty((0, 0), dtype=np.int32)


class TripletSource:
    """Triplets of one split: {"ref", "left", "right": uint8 [m, 3, S, S], "label": uint8 [m]}.

    Each image of a triplet draws for itself where the augmentation draws.

    Args:
        shards: a dataset of kind "triplets".
        split: "train", "val" or "test".
        augmentation: the training transform.
        image_size: S in pixels.
        seed: of the augmentation and of the draw of a fraction.
        fraction: share of the split that is drawn (`spec.training.Align`).
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        augmentation: Augmentation,
        image_size: int,
        seed: int,
        fraction: float = 1.0,
    ) -> None:
        self.triplets = TripletSet(shards)
        self.split = split
        self.seed = seed
        self.rows = self.triplets.rows(split) if fraction == 1 else self.triplets.drawn(split, fraction, seed)
        self._images = _Images(shards, augmentation, image_size, seed)
        self._labels: np.ndarray | None = None
        self._sides: np.ndarray | None = None

    def order(self, block: int) -> Order:
        """The shuffled order of the rows, `block` shards at a time; an epoch is as long as that of the split."""
        return self.triplets.order(self.split, self.seed, block, self.rows)

    @property
    def labels(self) -> np.ndarray:
        """The labels that are given out, uint8, one for each of `rows`."""
        return self.triplets.label(self.rows) if self._labels is None else self._labels[self.rows]

    def relabel(self, labels: np.ndarray, sides: np.ndarray | None = None) -> None:
        """Have other labels than the votes, one for each of `rows`; and other sides (`data.labels.Regrouped`)."""
        count = self.triplets.shards.count
        self._labels = self.triplets.label(np.arange(count)).copy()
        self._labels[self.rows] = labels
        if sides is not None:
            self._sides = np.full((count, 2), -1, np.int64)
            self._sides[self.rows] = sides

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The triplets of a list of (epoch, row); rows of another split are refused."""
        rows = np.array([row for _, row in samples], dtype=np.int64)
        if (self.triplets.shards.column("split")[rows] != SPLITS[self.split]).any():
            raise ValueError(f"rows outside split {self.split}")
        labels = self.triplets.label(rows) if self._labels is None else self._labels[rows]
        return {name: self._stack(name, samples) for name in IMAGES} | {"label": torch.from_numpy(labels)}

    def _stack(self, name: str, samples: Sequence[Sample]) -> torch.Tensor:
        if self._sides is None or name == "ref":
            return self._images.stack(name, samples)
        side = self._sides[:, IMAGES.index(name) - 1]
        return self._images.stack("ref", [(epoch, int(side[row])) for epoch, row in samples])

    def divide_caches(self, processes: int) -> None:
        """See `Source`."""
        self._images.room //= processes

    def batch_bytes(self, samples: int) -> int:
        """See `Source`."""
        return samples * (len(IMAGES) * self._images.nbytes + 1)

    def __getitem__(self, sample: Sample) -> Batch:
        """One triplet: three images uint8 [3, S, S] and a label."""
        return {name: tensor[0] for name, tensor in self.batch([sample]).items()}


def micro_batches(
    source: Source,
    schedule: Iterable[list[Sample]],
    workers: int,
    prefetch: int,
    *,
    bytes_limit: int | None = None,
    pin: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of a schedule, in its order.

    Args:
        source: makes a micro-batch.
        schedule: one list of (epoch, row) for each micro-batch; it may be endless.
        workers: processes that decode; 0 decodes here. Call from the main thread: workers die
            with the thread that started them.
        prefetch: micro-batches each worker prepares ahead, at least 1; unused without workers.
        bytes_limit: of all micro-batches that are being prepared or wait, together, each taken to be as
            large as the first; fewer are prepared ahead, by fewer workers if need be, but never none.
        pin: give tensors in pinned memory, from which CUDA copies without waiting; needs CUDA.

    Raises:
        StateError: a sample cannot be read or decoded, or a worker was killed.
    """
    if workers == 0:
        for samples in schedule:
            here = source.batch(samples)
            yield {name: tensor.pin_memory() for name, tensor in here.items()} if pin else here
        return
    schedule = iter(schedule)
    first = next(schedule, None)
    if first is None:
        return
    if bytes_limit is not None:
        ready = max(1, bytes_limit // source.batch_bytes(len(first)))
        workers = min(workers, ready)
        prefetch = min(prefetch, ready // workers)
    loader = DataLoader(
        Guarded(source),
        batch_size=None,
        sampler=chain([first], schedule),
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin,
        collate_fn=as_is,
        worker_init_fn=partial(start_worker, os.getpid()),
        multiprocessing_context=START_METHOD,
        # Else the loader would draw its seed from the global generator and so shift training's.
        generator=torch.Generator(),
    )
    with running(loader) as batches:
        while (batch := next_batch(batches)) is not None:
            if isinstance(batch, PireproError):
                raise batch
            yield batch
