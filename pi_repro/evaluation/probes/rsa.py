"""Representational similarity: do two ways of telling the same images apart rank the pairs alike?

Rule: only dissimilarities of different images are compared, each pair once, by rank. Spearman's rho has mid-ranks for
ties; Kendall's tau-a counts a tie as neither, which is fair to a model that predicts ties (Nili et al., PLoS Comput
Biol 10, 2014). Constant dissimilarities have no rho (None) and a tau-a of 0. Kriegeskorte, Mur and Bandettini, Front
Syst Neurosci 2, 2008.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from pi_repro.errors import StateError

from .exact import Floats, floats, product

#: Asymmetry, and dissimilarity of an image to itself, that rounding explains, relative to the largest value.
_ROUNDING = 1e-6


def dissimilarities(features: Floats, distance: Literal["cosine", "correlation"]) -> Floats:
    """1 - cosine, or 1 - Pearson's correlation, of each pair of rows [n, d]; [n (n - 1) / 2] in reading order.

    Raises:
        ValueError: a row has no direction.
    """
    rows = floats(features)
    if distance == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    if not norms.min() > 0:
        raise ValueError("a row of features has no direction")
    rows = rows / norms
    return 1.0 - upper(product(rows, rows.T))


def upper(matrix: Floats) -> Floats:
    """Values above the diagonal, row by row."""
    found: Floats = matrix[np.triu_indices(len(matrix), 1)]
    return found


def spearman(one: Floats, other: Floats) -> float | None:
    """Spearman's rho: Pearson's correlation of mid-ranks."""
    x, y = (stats.rankdata(values) for values in (one, other))
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(np.square(x).sum())) * math.sqrt(float(np.square(y).sum()))
    return float((x * y).sum()) / spread if spread > 0 else None


def kendall_tau_a(one: Floats, other: Floats) -> float:
    """(concordant - discordant) / all pairs of values; exact, as both counts are whole numbers."""
    pairs = math.comb(len(one), 2)
    untied = [pairs - _ties(values) for values in (one, other)]
    if not all(untied):
        return 0.0
    # scipy counts in n log n and gives tau-b, whose numerator is a whole number again.
    tau_b = float(stats.kendalltau(one, other, variant="b", method="asymptotic").statistic)
    return round(tau_b * math.sqrt(untied[0]) * math.sqrt(untied[1])) / pairs


def _ties(values: Floats) -> int:
    counts = np.unique(values, return_counts=True)[1].tolist()
    return sum(math.comb(count, 2) for count in counts)


def read_matrix(file: Path, name: str, size: int) -> Floats:
    """A dissimilarity matrix [size, size]: NumPy's .npy without pickled objects, or numbers in CSV without a header.

    Args:
        file: where it is read from.
        name: as the spec calls it; ends in .npy or .csv.
        size: images in its list.

    Raises:
        StateError: unreadable, pickled, not square, not symmetric, not finite, or not zero on the diagonal.
    """
    try:
        if name.endswith(".npy"):
            values = np.load(file, allow_pickle=False)
        else:
            with file.open(encoding="utf-8", newline="") as text:
                values = np.array([[float(cell) for cell in row] for row in csv.reader(text) if row])
        matrix = floats(values)
    except (ValueError, TypeError, OSError) as error:
        raise StateError(
            "dissimilarity matrix can't be read", where=name, given=str(error).splitlines()[0],
            allowed="a square array of numbers: .npy without Python objects, or .csv without a header",
        ) from None  # fmt: skip
    if matrix.shape != (size, size):
        raise StateError(
            "matrix does not fit its list of images", where=name, given=matrix.shape, allowed=f"{size} x {size}"
        )
    if not np.isfinite(matrix).all():
        raise StateError("matrix holds numbers that are not finite", where=name)
    most = float(np.abs(matrix).max()) * _ROUNDING
    if float(np.abs(matrix - matrix.T).max()) > most:
        raise StateError("matrix is not symmetric", where=name)
    if float(np.abs(np.diag(matrix)).max()) > most:
        raise StateError(
            "matrix is not zero on its diagonal: it holds similarities, not dissimilarities", where=name,
            todo="give 1 - similarity",
        )  # fmt: skip
    return matrix


def read_images(file: Path, name: str) -> tuple[str, ...]:
    """The images of a matrix: one sample key a line, in the order of its rows.

    Raises:
        StateError: fewer than 3, or one twice.
    """
    keys = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(keys) < 3:
        raise StateError("a list for RSA has 3 images or more", where=name, given=len(keys))
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise StateError("an image is listed twice", where=name, given=", ".join(twice[:3]))
    return tuple(keys)
