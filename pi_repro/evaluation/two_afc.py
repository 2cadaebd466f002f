"""Two-alternative forced choice: which of two images is closer to the reference, as people say.

Rule: the closer one has the smaller cosine distance; a tie is half right. Pixel error judges the same
items beside the model, because it needs no model at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi_repro.data.shards import Shards
from pi_repro.data.triplets import TripletSet
from pi_repro.errors import StateError

from .benchmark import Conditions
from .embed import Embedder, Pulse, no_pulse
from .metrics import two_afc_metric
from .pictures import Pictures
from .results import Result

PARTS = ("ref", "left", "right")
_RIGHT, _TIE, _WRONG = 2, 1, 0


class TwoAFC:
    """One split of a triplet set, open.

    Args:
        name: the set's card.
        split: train, val, test or a half of test.
        shards: its samples, verified.
        conditions: what holds for all sets.

    Raises:
        StateError: when the split is empty.
    """

    def __init__(self, name: str, split: str, shards: Shards, conditions: Conditions) -> None:
        self._name = name
        self._split = split
        self._dataset_sha256 = shards.sha256
        self._conditions = conditions
        triplets = TripletSet(shards)
        rows = triplets.rows(split)
        if len(rows) == 0:
            raise StateError("split has no triplets", where=str(shards.folder), given=split)
        #: uint8 [n]; 1 where people chose the right image.
        self._label = np.asarray(triplets.label(rows), dtype=np.uint8)
        members = [(part, int(row)) for row in rows for part in PARTS]
        self._pictures = Pictures(shards, members, conditions)
        #: Distinct-image numbers of (ref, left, right), int64 [n, 3].
        self._index = self._pictures.index.reshape(-1, len(PARTS))
        self._pixel: NDArray[np.uint8] | None = None

    @property
    def id(self) -> str:
        """2afc-<card>-<split>."""
        return f"2afc-{self._name}-{self._split}"

    def judge(self, embedder: Embedder, pulse: Pulse = no_pulse) -> Result:
        """Scores of the model and of pixel error on the same items."""
        images = self._pictures.embed(embedder, pulse).double()
        ref, left, right = images[0::3], images[1::3], images[2::3]
        to_left = 1 - (ref * left).sum(-1)
        to_right = 1 - (ref * right).sum(-1)
        score = choose(to_left.cpu().numpy(), to_right.cpu().numpy(), self._label)
        if self._pixel is None:
            self._pixel = choose(*self._pixel_errors(), self._label)
        record = {
            "dataset": self._name,
            "task": "2afc",
            "family": None,
            "split": self._split,
            "metrics": {"two_afc": two_afc_metric(score), "pixel_mse": two_afc_metric(self._pixel)},
            "n": len(self._label),
            "images": len(self._pictures),
            "chance": 0.5,
            "distance": "1 - cosine",
            "preprocess": self._conditions.preprocess.record,
            "precision": self._conditions.precision,
            "batch": self._conditions.batch,
            "dataset_sha256": self._dataset_sha256,
        }
        return Result(self.id, record, {"score": score, "pixel": self._pixel})

    def _pixel_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Sums of squares of bytes stay below 2**53, so float64 holds them exactly and ties are ties.
        errors = np.empty((2, len(self._index)), dtype=np.float64)
        for item, (ref, left, right) in enumerate(self._index.tolist()):
            reference = self._pictures.image(ref).double()
            for side, other in enumerate((left, right)):
                errors[side, item] = float((reference - self._pictures.image(other).double()).square().sum())
        return errors[0], errors[1]


def choose(to_left: NDArray[np.float64], to_right: NDArray[np.float64], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """2 where the nearer image is the one people chose (label 1: right), 1 on a tie, 0 otherwise; uint8 [n]."""
    right_is_nearer = to_right < to_left
    agrees = np.where(label == 1, right_is_nearer, to_left < to_right)
    return np.where(to_left == to_right, _TIE, np.where(agrees, _RIGHT, _WRONG)).astype(np.uint8)
