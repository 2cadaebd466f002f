"""Scaling fits: accuracy ~ a * samples^beta.

Rule: an ordinary least-squares line through (log samples, log accuracy), one fit a seed, over the
checkpoints after the start; chance is not subtracted and no checkpoint is weighted. The interval of the
mean exponent is Student's t over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import Estimate, Floats, over_seeds

LEAST_POINTS = 3


@dataclass(frozen=True)
class Fit:
    """A power law of one arm.

    Attributes:
        beta: exponent, mean over seeds with its interval.
        difference: exponent minus the baseline's, paired by seed; None for the baseline itself.
        scale: a, from the mean log intercept.
        r2: share of log-accuracy variance that the lines explain, mean over seeds.
        points: checkpoints used.
        betas: exponent of each seed.
    """

    beta: Estimate
    difference: Estimate | None
    scale: float
    r2: float
    points: int
    betas: tuple[float, ...]

    def accuracy(self, samples: Floats) -> Floats:
        """The fitted accuracy at some numbers of samples."""
        return np.asarray(self.scale * np.asarray(samples, dtype=np.float64) ** self.beta.value)


def fit(samples: Sequence[int], accuracy: Floats, baseline: Fit | None = None) -> Fit | None:
    """Fit the power law.

    Args:
        samples: [C] samples seen at each checkpoint; those at 0 are left out.
        accuracy: [S, C] in 0..1; a checkpoint where any seed has 0 is left out (it has no logarithm).
        baseline: the fit to compare with.

    Returns:
        None when fewer than three checkpoints are left.
    """
    seen = np.asarray(samples, dtype=np.float64)
    usable = (seen > 0) & (accuracy > 0).all(axis=0)
    if int(usable.sum()) < LEAST_POINTS:
        return None
    x = np.log(seen[usable])
    y = np.log(accuracy[:, usable])
    centred = x - x.mean()
    betas = (y * centred).sum(axis=1) / (centred**2).sum()
    intercepts = y.mean(axis=1) - betas * x.mean()
    residual = ((y - intercepts[:, None] - betas[:, None] * x) ** 2).sum(axis=1)
    total = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    explained = np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), 1.0)
    difference = over_seeds(betas - np.asarray(baseline.betas)) if baseline else None
    return Fit(
        beta=over_seeds(betas),
        difference=difference,
        scale=float(np.exp(intercepts.mean())),
        r2=float(explained.mean()),
        points=int(usable.sum()),
        betas=tuple(float(b) for b in betas),
    )
