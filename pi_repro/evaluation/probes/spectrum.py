"""In how many directions features differ: the spectrum of their covariance, and its summaries.

Rule: of centred features, so that a common offset counts for nothing; of features that are all the same there is no
spectrum (None). Both summaries run from 1 (one direction) to the number of dimensions (all alike).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .exact import Floats, centred, eigen, floats, product


@dataclass(frozen=True)
class Spectrum:
    """Summaries of one spectrum.

    Attributes:
        variances: [d] eigenvalues of the covariance (divided by n), falling; those below rounding are 0.
        effective_rank: exp of the entropy of the singular values' shares (Roy and Vetterli, EUSIPCO 2007).
        participation_ratio: (sum of variances)^2 / sum of their squares (Gao et al., bioRxiv 214262, 2017).
        first_share: share of the variance along the first direction.
    """

    variances: Floats
    effective_rank: float | None
    participation_ratio: float | None
    first_share: float | None


def spectrum(features: Floats) -> Spectrum:
    """The spectrum of features [n, d]."""
    rows = centred(features)
    variances = eigen(product(rows.T, rows) / len(rows))[0]
    # A rank-deficient matrix has eigenvalues of either sign at rounding's size, which are no directions; and features
    # that are all the same leave rounding alone, to be told by their own size.
    size = float(np.square(floats(features)).sum()) / len(rows)
    epsilon = np.finfo(np.float64).eps * max(rows.shape)
    floor = max(float(variances[0]) * epsilon, size * epsilon**2)
    variances = np.where(variances > floor, variances, 0.0)
    if not variances[0] > 0:
        return Spectrum(variances, None, None, None)
    singular = np.sqrt(variances)
    shares = (singular / singular.sum())[singular > 0]
    entropy = -float((shares * np.log(shares)).sum())
    total = float(variances.sum())
    return Spectrum(
        variances=variances,
        effective_rank=float(np.exp(entropy)),
        participation_ratio=total**2 / float(np.square(variances).sum()),
        first_share=float(variances[0]) / total,
    )


def mean_cosine(features: Floats) -> float | None:
    """Mean cosine of all pairs of two different rows of unit-length features [n, d]: 1 when all point one way."""
    count = len(features)
    if count < 2:
        return None
    total = features.astype(np.float64).sum(axis=0)
    return float((np.square(total).sum() - np.square(features.astype(np.float64)).sum()) / (count * (count - 1)))
