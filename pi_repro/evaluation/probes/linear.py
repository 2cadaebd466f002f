"""What a linear readout gets out of frozen features: ridge regression to one-hot labels, in closed form.

Rule: features are standardized by the training half's mean and spread; the penalty is the one of a given list with the
smallest leave-one-out error on the training half (closed form, no second fit); the class with the largest output wins.
The test half decides nothing. Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed.,
3.4.1 (ridge), 4.2 (indicator matrix) and 7.10 (leave-one-out of a linear smoother).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pi_repro.data.randomness import permutation

from .exact import Floats, eigen, floats, product

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Ridge:
    """A fitted readout.

    Attributes:
        mean, spread: [d] of the training features.
        weights: [d, C] on standardized features.
        intercept: [C], the training half's share of each class.
        penalty: chosen, a training image.
        errors: leave-one-out mean squared error of each penalty offered.
    """

    mean: Floats
    spread: Floats
    weights: Floats
    intercept: Floats
    penalty: float
    errors: tuple[float, ...]

    def outputs(self, features: Floats) -> Floats:
        """[n, C] of features [n, d]."""
        return product((floats(features) - self.mean) / self.spread, self.weights) + self.intercept


def split(labels: Labels, share: float, *key: int | str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the training and of the test half, rising; of every class a share (rounded) is for training, by key."""
    order = permutation(len(labels), *key)
    train = [
        rows[: round(share * len(rows))] for label in np.unique(labels) for rows in [order[labels[order] == label]]
    ]
    chosen = np.sort(np.concatenate(train)).astype(np.int64)
    rest = np.setdiff1d(np.arange(len(labels), dtype=np.int64), chosen)
    return chosen, rest


def fit(features: Floats, labels: Labels, classes: int, penalties: Sequence[float]) -> Ridge:
    """Ridge regression with the penalty that leaves the smallest leave-one-out error; of equals the larger.

    Minimizes |Y - XW|^2 + penalty x n x |W|^2 with X standardized and Y the one-hot labels, centred: the intercept
    is not penalized.

    Args:
        features: [n, d] of the training half.
        labels: [n] classes 0..C-1.
        classes: C.
        penalties: those offered, each above 0.
    """
    rows = floats(features)
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    x = (rows - mean) / spread
    count = len(x)
    intercept = np.bincount(labels, minlength=classes) / count
    y = np.eye(classes)[labels] - intercept
    values, vectors = eigen(product(x.T, x))
    values = np.maximum(values, 0.0)
    turned = product(x, vectors)
    aimed = product(turned.T, y)
    found: list[tuple[float, float, Floats]] = []
    for penalty in penalties:
        shrunk = 1.0 / (values + penalty * count)
        left = y - product(turned, shrunk[:, None] * aimed)
        # The smoother's diagonal, the mean's share (1 / n) included.
        leverage = (np.square(turned) * shrunk).sum(axis=1) + 1.0 / count
        error = float(np.square(left / (1.0 - leverage)[:, None]).mean())
        found.append((error, -penalty, product(vectors, shrunk[:, None] * aimed)))
    best = min(found, key=lambda each: each[:2])
    return Ridge(mean, spread, best[2], intercept, -best[1], tuple(error for error, _, _ in found))
