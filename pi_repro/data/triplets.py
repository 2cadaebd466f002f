"""Triplets: a reference, two variants, and which of them people (or a known distance) call closer.

Rule: a row belongs to one split, and whoever asks for a split gets no row of another.
"""

from __future__ import annotations

import numpy as np

from pi_repro.data.order import Order
from pi_repro.data.shards import Shards
from pi_repro.errors import RequestError, StateError

SPLITS = {"train": 0, "val": 1, "test": 2}
IMAGES = ("ref", "left", "right")


class TripletSet:
    """The triplets of a dataset, by split.

    Args:
        shards: a dataset of kind "triplets" (ours or NIGHTS, which has the same form).

    Raises:
        RequestError: another kind of dataset.
        StateError: it lacks a member or column that triplets have.
    """

    def __init__(self, shards: Shards) -> None:
        where = f"dataset {shards.name}"
        if shards.kind != "triplets":
            raise RequestError("dataset holds no triplets", where=where, given=shards.kind, allowed="triplets")
        missing = {*IMAGES, "label", "split"} - set(shards.columns)
        if missing:
            raise StateError("triplets are incomplete", where=where, given=f"no {', '.join(sorted(missing))}")
        self.shards = shards

    def mask(self, split: str) -> np.ndarray:
        """Which rows belong to a split ("train", "val" or "test"), bool [count]."""
        if split not in SPLITS:
            allowed = ", ".join(SPLITS)
            raise RequestError("no such split", where=f"dataset {self.shards.name}", given=split, allowed=allowed)
        chosen: np.ndarray = self.shards.column("split") == SPLITS[split]
        return chosen

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split in rising order, int64."""
        return np.flatnonzero(self.mask(split))

    def label(self, rows: np.ndarray) -> np.ndarray:
        """1 where the right image is closer to the reference, else 0; uint8, one a row."""
        labels: np.ndarray = self.shards.column("label")[rows]
        return labels

    def order(self, split: str, seed: int, block: int) -> Order:
        """The shuffled order of a split, `block` shards at a time."""
        return Order.of_part(self.shards.counts, self.mask(split), seed, block)
