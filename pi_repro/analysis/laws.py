"""Two forms of a scaling curve compared: a power law, and one that bends towards a ceiling.

Rule: both are least-squares fits of log accuracy, one a seed, over the same checkpoints after the start:
    power       accuracy = a * samples^beta
    saturating  accuracy = c / (1 + (h / samples)^b),  0 < c <= 1
The second is the first where samples << h, with ceiling c beyond. AICc (Hurvich and Tsai, Biometrika 76, 1989) charges
each its parameters; the residuals of neighbouring checkpoints move together, so the comparison is more certain in
form than in truth. Which form a curve has is resampled over seeds, which are independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from .intervals import bootstrap
from .statistics import Estimate, Floats, generator

#: AICc of the saturating form is defined from here on.
LEAST_POINTS = 6
_REPLICATES = 2000
#: Residuals below this are rounding: a fit that is exact must not win by infinity.
_NOISE = 1e-9
#: Least and most log steepness of the saturating form.
_STEEPNESS = (float(np.log(1e-3)), float(np.log(50.0)))
#: Most steps of a fit, and the relative step that is none.
_STEPS = 400
_SETTLED = 1e-11


@dataclass(frozen=True)
class Saturating:
    """Ceiling, half-way samples and steepness of one seed's curve."""

    ceiling: float
    half: float
    steepness: float

    def accuracy(self, samples: Floats) -> Floats:
        """The fitted accuracy at some numbers of samples."""
        return np.asarray(self.ceiling / (1 + (self.half / np.asarray(samples, dtype=np.float64)) ** self.steepness))


@dataclass(frozen=True)
class Rivals:
    """Both forms on the curves of one arm.

    Attributes:
        points: checkpoints used.
        gain: AICc of the power law minus that of the saturating form, mean over seeds (positive: it bends), with a
            BCa interval over seeds, None of one.
        bends: share of resamplings of seeds in which the saturating form is better.
        ceiling: fitted c, mean over seeds.
        fits: the saturating fit of each seed.
    """

    points: int
    gain: Estimate
    bends: float
    ceiling: float
    fits: tuple[Saturating, ...]

    @property
    def better(self) -> str:
        """The form to speak of: another than the power law only where nearly all resamplings say so."""
        return "saturating" if self.bends >= 0.95 else "power law" if self.bends <= 0.05 else "undecided"


def rivals(samples: Sequence[int], accuracy: Floats, label: str) -> Rivals | None:
    """Fit and compare.

    Args:
        samples: [C] samples seen at each checkpoint; those at 0 are left out.
        accuracy: [S, C] in 0..1; a checkpoint where any seed has 0 is left out.
        label: names the curve.

    Returns:
        None with fewer than six checkpoints left.
    """
    seen = np.asarray(samples, dtype=np.float64)
    usable = (seen > 0) & (accuracy > 0).all(axis=0)
    points = int(usable.sum())
    if points < LEAST_POINTS:
        return None
    x, rows = np.log(seen[usable]), np.log(accuracy[:, usable])
    fits, rests = _saturating(x, rows)
    gains = np.array(
        [_aicc(_straight(x, y), points, 3) - _aicc(rest, points, 4) for y, rest in zip(rows, rests, strict=True)]
    )
    gain, bends = Estimate(float(gains.mean()), None, None), float(gains.mean() > 0)
    if len(gains) > 1:
        gain = bootstrap(gains, lambda drawn: drawn.mean(axis=1), f"{label}/AICc")
        drawn = generator("forms", label).integers(0, len(gains), size=(_REPLICATES, len(gains)))
        bends = float((gains[drawn].mean(axis=1) > 0).mean())
    ceiling = float(np.mean([fit.ceiling for fit in fits]))
    return Rivals(points, gain, bends, ceiling, tuple(fits))


def _straight(x: Floats, y: Floats) -> float:
    """Sum of squared residuals of a line."""
    centred = x - x.mean()
    slope = float((y * centred).sum() / (centred**2).sum())
    return float(((y - y.mean() - slope * centred) ** 2).sum())


def _saturating(x: Floats, rows: Floats) -> tuple[list[Saturating], Floats]:
    """The best of several starts of each seed, and its sum of squared residuals.

    The logarithm of the ceiling enters linearly, so at any half and steepness the best one is known, and what is left
    are two parameters with analytic derivatives (variable projection: Golub and Pereyra, SIAM Journal on Numerical
    Analysis 10, 1973). All starts of all seeds take their damped steps side by side (Levenberg and Marquardt).

    Args:
        x: [C] log samples.
        rows: [S, C] log accuracy.

    Returns:
        A fit a seed, and [S] sums.
    """
    starts = [(number, *start) for number, y in enumerate(rows) for start in _starts(x, y)]
    owner = np.array([number for number, _, _ in starts])
    y = rows[owner]
    at = np.array([[half, steepness] for _, half, steepness in starts])
    damping = np.full(len(at), 1e-3)
    ceiling, away, slopes = _projected(x, y, at)
    cost = (away**2).sum(axis=1)
    for _ in range(_STEPS):
        tried = at + _step(at, away, slopes, damping)
        tried[:, 1] = np.clip(tried[:, 1], *_STEEPNESS)
        if (np.abs(tried - at) <= _SETTLED * (1 + np.abs(at))).all():
            break
        there = _projected(x, y, tried)
        better = (there[1] ** 2).sum(axis=1) < cost
        damping = np.where(better, np.maximum(damping / 9, 1e-12), np.minimum(damping * 5, 1e12))
        at = np.where(better[:, None], tried, at)
        ceiling = np.where(better, there[0], ceiling)
        away = np.where(better[:, None], there[1], away)
        slopes = np.where(better[:, None, None], there[2], slopes)
        cost = (away**2).sum(axis=1)
    best = [int(np.where(owner == number, cost, np.inf).argmin()) for number in range(len(rows))]
    fits = [Saturating(float(np.exp(ceiling[i])), float(np.exp(at[i, 0])), float(np.exp(at[i, 1]))) for i in best]
    return fits, cost[best]


def _starts(x: Floats, y: Floats) -> Iterator[tuple[float, float]]:
    """Log half and log steepness: the line's slope and twice that, under ceilings from the last value's up to 1."""
    centred = x - x.mean()
    slope = max(0.05, float((y * centred).sum() / (centred**2).sum()))
    top = float(y.max())
    for ceiling in dict.fromkeys((0.0, min(0.0, top + 0.2), min(0.0, top + 1.0))):
        for steepness in (slope, 2 * slope):
            yield (
                float(x.mean()) + (ceiling - float(y.mean())) / steepness,
                float(np.clip(np.log(steepness), *_STEEPNESS)),
            )


def _projected(x: Floats, y: Floats, at: Floats) -> tuple[Floats, Floats, Floats]:
    """The best log ceiling up to 0 at each [F, 2] log half and log steepness, residuals [F, C] and slopes [F, C, 2]."""
    half, steepness = at[:, :1], np.exp(at[:, 1:])
    behind = steepness * (half - x)
    # log(1 + (h / n)^b) without overflow.
    bend = np.logaddexp(0.0, behind)
    free = (y + bend).mean(axis=1)
    ceiling = np.minimum(0.0, free)
    share = special.expit(behind)
    slopes = -np.stack([share * steepness, share * behind], axis=2)
    # A ceiling that is not held at 1 follows the mean.
    follows = (free < 0)[:, None, None]
    return ceiling, ceiling[:, None] - bend - y, slopes - np.where(follows, slopes.mean(axis=1, keepdims=True), 0.0)


def _step(at: Floats, away: Floats, slopes: Floats, damping: Floats) -> Floats:
    """The damped step [F, 2] of each fit; a steepness at a bound that would leave it stays."""
    gradient = np.einsum("fci,fc->fi", slopes, away)
    normal = np.einsum("fci,fcj->fij", slopes, slopes)
    low, high = _STEEPNESS
    held = ((at[:, 1] <= low) & (gradient[:, 1] > 0)) | ((at[:, 1] >= high) & (gradient[:, 1] < 0))
    scale = np.maximum(normal[:, [0, 1], [0, 1]], 1e-30) * damping[:, None]
    one, two = normal[:, 0, 0] + scale[:, 0], normal[:, 1, 1] + scale[:, 1]
    cross = np.where(held, 0.0, normal[:, 0, 1])
    right = np.where(held, 0.0, gradient[:, 1])
    determinant = one * two - cross**2
    step = np.stack([cross * right - two * gradient[:, 0], cross * gradient[:, 0] - one * right], axis=1)
    return np.asarray(step / determinant[:, None])


def _aicc(rest: float, points: int, parameters: int) -> float:
    """Corrected Akaike criterion of a least-squares fit; the variance is one of the parameters."""
    penalty = 2 * parameters + 2 * parameters * (parameters + 1) / (points - parameters - 1)
    return float(points * np.log(max(rest / points, _NOISE**2)) + penalty)
