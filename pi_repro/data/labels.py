"""Who says which side of a triplet is closer: other labels for the training split than its own votes.

Rule: a label source answers for the rows that training sees and for no other, as a function of the data and the
seed; val and test keep their votes, so what was learned is always judged by them. Others are added by entry points
in pi_repro.labels: a callable that takes the options as keywords and returns a `LabelSource`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pi_repro.data.draws import share_of
from pi_repro.data.randomness import permutation, raw
from pi_repro.data.triplets import TripletSet
from pi_repro.errors import RequestError
from pi_repro.spec.plugins import ConceptLabels, FlippedLabels, PixelLabels, ShuffledLabels


@dataclass(frozen=True)
class Question:
    """What a label source is asked.

    Attributes:
        triplets: the dataset.
        rows: the rows that training sees, rising, int64 [n].
        seed: of the training.
        pictures: called for the images of these rows, in parts and in order: {"ref", "left", "right"}, each uint8
            [m, 3, S, S] at the model's input size, resized and not augmented. Reading them all takes as long as an
            epoch of decoding.
    """

    triplets: TripletSet
    rows: np.ndarray
    seed: int
    pictures: Callable[[], Iterator[Mapping[str, torch.Tensor]]]

    @property
    def votes(self) -> np.ndarray:
        """The labels that the dataset has, uint8 [n]; 1: right is closer."""
        return self.triplets.label(self.rows)


@dataclass(frozen=True)
class Regrouped:
    """Labels of other triplets than the dataset's: at the sides of each reference stand references of other rows.

    Attributes:
        labels: uint8 [n], one for each row asked: 1 where right is called closer, else 0.
        sides: int64 [n, 2], the rows whose references stand left and right, each one of those asked.
    """

    labels: np.ndarray
    sides: np.ndarray


class LabelSource(Protocol):
    """Gives labels."""

    def labels(self, question: Question) -> np.ndarray | Regrouped:
        """uint8 [n], one for each row asked: 1 where right is called closer, else 0; or other sides as well."""
        ...


class Shuffled:
    """The votes, permuted among the rows."""

    def __init__(self, options: ShuffledLabels) -> None:
        self.options = options

    def labels(self, question: Question) -> np.ndarray:
        """See `LabelSource`."""
        votes = question.votes
        labels: np.ndarray = votes[permutation(len(votes), "labels", "shuffled", question.seed)]
        return labels


class Flipped:
    """The votes, with round(share x n) of them turned."""

    def __init__(self, options: FlippedLabels) -> None:
        self.share = options.share

    def labels(self, question: Question) -> np.ndarray:
        """See `LabelSource`."""
        labels = question.votes.copy()
        labels[share_of(len(labels), self.share, "labels", "flipped", question.seed)] ^= 1
        return labels


class Pixels:
    """The side whose pixels differ less from the reference's, in squares summed as integers; a tie means left."""

    def __init__(self, options: PixelLabels) -> None:
        self.options = options

    def labels(self, question: Question) -> np.ndarray:
        """See `LabelSource`."""
        found = [_right_is_nearer(part) for part in question.pictures()]
        return np.concatenate(found).astype(np.uint8)


class Concepts:
    """One side shows another of the reference's class, the other side one of another class (`ConceptLabels`).

    Both are drawn evenly, by the seed, among the references asked for; a class of one is its own example.
    """

    def __init__(self, options: ConceptLabels) -> None:
        self.field = options.field

    def labels(self, question: Question) -> Regrouped:
        """See `LabelSource`.

        Raises:
            RequestError: the samples have no such field, or all are of one class.
        """
        rows, key = question.rows, ("labels", "concepts", question.seed)
        names, codes = np.unique([self._class(question.triplets, row) for row in rows.tolist()], return_inverse=True)
        if len(names) < 2:
            raise RequestError("all are of one class", where="label source 'concepts'", given=str(names[0]))
        # A class is a block of the sorted rows, seen as a ring: go on inside it, or past its end.
        order, size = np.argsort(codes, kind="stable"), np.bincount(codes)
        start = np.concatenate([[0], np.cumsum(size)])[codes]
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        size = size[codes]
        draws = [raw(len(rows), *key, what) for what in ("same", "other")]
        further = 1 + (draws[0] % np.maximum(size - 1, 1).astype(np.uint64)).astype(np.int64)
        same = start + (place - start + further) % size
        beyond = (draws[1] % (len(rows) - size).astype(np.uint64)).astype(np.int64)
        other = (start + size + beyond) % len(rows)
        labels = (permutation(len(rows), *key, "side") % 2).astype(np.uint8)
        pairs = rows[order[np.stack([same, other], axis=1)]]
        return Regrouped(labels, np.where(labels[:, None] == 1, pairs[:, ::-1], pairs))

    def _class(self, triplets: TripletSet, row: int) -> str:
        about = json.loads(triplets.shards.read("json", row))
        if self.field not in about:
            raise RequestError(
                "samples have no such field",
                where=f"label source 'concepts', dataset {triplets.shards.name}",
                given=self.field,
                allowed=", ".join(sorted(about)) or "none: their json is empty",
            )
        return str(about[self.field])


#: name -> maker, as `training.parts.make` takes it.
BUILT_IN: dict[str, Callable[[Any], LabelSource]] = {
    "shuffled": Shuffled,
    "flipped": Flipped,
    "pixels": Pixels,
    "concepts": Concepts,
}


def _right_is_nearer(part: Mapping[str, torch.Tensor]) -> np.ndarray:
    left, right = (
        (part[side].int() - part["ref"].int()).square().sum(dim=(1, 2, 3), dtype=torch.int64)
        for side in ("left", "right")
    )
    return (right < left).numpy()
