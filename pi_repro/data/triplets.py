"""Triplets: a reference, two variants, and which of them people (or a known distance) call closer.

Rule: a row belongs to one split, and whoever asks for a split gets no row of another.
"""

from __future__ import annotations

import numpy as np

from pi_repro.data.draws import share_of
from pi_repro.data.order import Order, Repeated
from pi_repro.data.shards import Shards
from pi_repro.errors import RequestError, StateError

SPLITS = {"train": 0, "val": 1, "test": 2}
#: Halves of the test split, where the data say whether a category comes from ImageNet: the column's value.
HALVES = {"test_imagenet": 1, "test_no_imagenet": 0}
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
        """Which rows belong to a split, bool [count]: train, val, test, or one half of test (NIGHTS).

        Raises:
            RequestError: no such split; halves need the column is_imagenet.
        """
        halves = HALVES if "is_imagenet" in self.shards.columns else {}
        if split not in SPLITS and split not in halves:
            allowed = ", ".join((*SPLITS, *halves))
            raise RequestError("no such split", where=f"dataset {self.shards.name}", given=split, allowed=allowed)
        chosen: np.ndarray = self.shards.column("split") == SPLITS["test" if split in halves else split]
        return chosen & (self.shards.column("is_imagenet") == halves[split]) if split in halves else chosen

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split in rising order, int64."""
        return np.flatnonzero(self.mask(split))

    def drawn(self, split: str, fraction: float, seed: int) -> np.ndarray:
        """A share of a split's rows, drawn by the seed, in rising order, int64; a smaller one is part of a larger one.

        Raises:
            RequestError: the share is less than one row.
        """
        rows = self.rows(split)
        chosen: np.ndarray = np.sort(rows[share_of(len(rows), fraction, "fraction", seed)])
        if len(chosen) == 0:
            where, given = f"dataset {self.shards.name}", f"{fraction:g} of {len(rows)}"
            raise RequestError("fraction leaves no triplet", where=where, given=given, todo="raise fraction")
        return chosen

    def label(self, rows: np.ndarray) -> np.ndarray:
        """1 where the right image is closer to the reference, else 0; uint8, one a row."""
        labels: np.ndarray = self.shards.column("label")[rows]
        return labels

    def order(self, split: str, seed: int, block: int, rows: np.ndarray | None = None) -> Order:
        """The shuffled order of a split, `block` shards at a time; of a part of its rows, repeated to its length."""
        mask = self.mask(split)
        if rows is None or len(rows) == mask.sum():
            return Order.of_part(self.shards.counts, mask, seed, block)
        part = np.zeros_like(mask)
        part[rows] = True
        return Repeated(Order.of_part(self.shards.counts, part, seed, block), int(mask.sum()))
