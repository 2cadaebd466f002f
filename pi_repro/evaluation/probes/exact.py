"""Products and eigenvalues in float64, by the kernels that exact mode pins.

Rule: numpy's own linear algebra picks kernels by processor, torch's on a CPU is held to one choice and one thread
(provenance.determinism_env), so whatever is longer than a sum goes through here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]


def floats(values: npt.ArrayLike) -> Floats:
    """The values as contiguous float64, in memory of their own."""
    return np.array(values, dtype=np.float64, order="C")


def product(left: Floats, right: Floats) -> Floats:
    """Matrix product of float64 [n, k] and [k, m]."""
    found: Floats = (torch.from_numpy(floats(left)) @ torch.from_numpy(floats(right))).numpy()
    return found


def eigen(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of a symmetric matrix [d, d], falling, and its unit eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(floats(matrix)))
    return np.ascontiguousarray(values.numpy()[::-1]), np.ascontiguousarray(vectors.numpy()[:, ::-1])


def centred(rows: npt.ArrayLike) -> Floats:
    """Rows [n, d] less their mean."""
    values = floats(rows)
    found: Floats = values - values.mean(axis=0)
    return found
