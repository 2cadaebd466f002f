"""Several right labels an image: multi-label scoring as in "Are we done with ImageNet?" (ReaL).

Rule: a prediction is right when it is one of the image's labels; an image without labels is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi_repro.data.zeroshot.real import FILE, parse
from pi_repro.errors import StateError
from pi_repro.files import sha256_file


@dataclass(frozen=True)
class RealLabels:
    """The right labels of a set's images.

    Attributes:
        labels: one tuple an image, in the set's order; empty where nothing was found right.
        sha256: of the file.
    """

    labels: tuple[tuple[int, ...], ...]
    sha256: str

    @classmethod
    def read(cls, folder: Path, images: int, classes: int) -> RealLabels | None:
        """The labels in a set's folder; None where it has none.

        Raises:
            StateError: they don't fit the set's images or classes, or no image has one.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        lists = parse(path.read_bytes(), str(path))
        if len(lists) != images or not all(0 <= label < classes for one in lists for label in one) or not any(lists):
            raise StateError(
                "labels don't fit the set", where=str(path), given=f"{len(lists)} lists", allowed=f"{images} lists"
            )
        return cls(tuple(map(tuple, lists)), sha256_file(path))

    @property
    def n(self) -> int:
        """Images that have a label."""
        return sum(bool(one) for one in self.labels)

    def accuracy(self, predicted: NDArray[np.int32]) -> float:
        """Share of images with labels whose predicted class is among them."""
        pairs = zip(predicted.tolist(), self.labels, strict=True)
        return sum(given in one for given, one in pairs) / self.n
