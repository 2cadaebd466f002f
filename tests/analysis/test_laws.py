"""Curves of a known form are recognized, with noise and without."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from pi_repro.analysis import laws
from pi_repro.analysis.laws import Saturating, rivals

SAMPLES = (0, *(1000 * 2**k for k in range(9)))
SEEN = np.maximum(SAMPLES, 1).astype(float)
POWER = 0.001 * SEEN**0.4
BENDS = Saturating(0.3, 30_000, 0.9).accuracy(SEEN)


def noisy(curve: np.ndarray, sd: float, seeds: int = 5) -> np.ndarray:
    return np.asarray(curve * np.exp(np.random.default_rng(0).normal(0, sd, (seeds, len(curve)))))


def test_exact_curves() -> None:
    bends = rivals(SAMPLES, BENDS[None], "x")
    assert bends is not None and bends.better == "saturating" and bends.points == 9
    (fit,) = bends.fits
    assert (fit.ceiling, fit.half, fit.steepness) == pytest.approx((0.3, 30_000, 0.9), rel=1e-5)
    straight = rivals(SAMPLES, POWER[None], "x")
    assert straight is not None and straight.better == "power law" and straight.gain.value < 0
    assert straight.gain.low is None, "one seed has no interval"


def test_noisy_curves() -> None:
    for curve, form in ((POWER, "power law"), (BENDS, "saturating")):
        found = rivals(SAMPLES, noisy(curve, 0.05), "x")
        assert found is not None and found.better == form
        assert found.gain.sign == (1 if form == "saturating" else -1)
    assert found is not None and found.ceiling == pytest.approx(0.3, abs=0.05)
    blurred = rivals(SAMPLES, noisy(BENDS, 0.8), "x")
    assert blurred is not None and blurred.bends < 0.95, "noise is not evidence of a ceiling"


def test_aicc_by_hand() -> None:
    # n ln(RSS / n) + 2k + 2k(k + 1) / (n - k - 1)
    assert laws._aicc(0.02, 9, 3) == pytest.approx(9 * np.log(0.02 / 9) + 6 + 24 / 5)


def test_few_checkpoints_and_zeros_are_not_judged() -> None:
    assert rivals(SAMPLES[:6], POWER[None, :6], "x") is None
    curve = POWER.copy()
    curve[3:7] = 0
    assert rivals(SAMPLES, curve[None], "x") is None


def test_ceiling_is_at_most_one() -> None:
    found = rivals(SAMPLES, noisy(POWER, 0.02), "x")
    assert found is not None and all(fit.ceiling <= 1 for fit in found.fits)


@pytest.mark.parametrize("curve", [POWER, BENDS, Saturating(0.05, 2_000, 2.0).accuracy(SEEN), 0.9 * SEEN**-0.1])
@pytest.mark.parametrize("sd", [0.02, 0.2])
def test_fits_are_scipys(curve: np.ndarray, sd: float) -> None:
    """The least squares that scipy finds from the same starts, the ceiling not above 1 and the steepness bounded."""
    x, rows = np.log(SEEN[1:]), np.log(noisy(np.minimum(curve, 1.0), sd)[:, 1:])

    def away(at: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(at[0] - np.logaddexp(0.0, np.exp(at[2]) * (at[1] - x)) - y)

    bounds = ([-np.inf, -np.inf, np.log(1e-3)], [0.0, np.inf, np.log(50.0)])
    fits, rests = laws._saturating(x, rows)
    for y, fit, rest in zip(rows, fits, rests, strict=True):
        starts = [(-1e-6, half, steepness) for half, steepness in laws._starts(x, y)]
        tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "max_nfev": 2000}
        found = min((optimize.least_squares(away, s, bounds=bounds, args=(y,), **tight) for s in starts), key=_cost)
        assert rest == pytest.approx(2 * _cost(found), rel=1e-6)
        assert fit.ceiling <= 1 and 1e-3 <= fit.steepness <= 50 * (1 + 1e-12)
        if fit.half == 0:  # a falling curve: its half is before any number
            continue
        here = [np.log(fit.ceiling), np.log(fit.half), np.log(fit.steepness)]
        assert rest == pytest.approx(float((away(np.array(here), y) ** 2).sum()), rel=1e-9)


def _cost(found: optimize.OptimizeResult) -> float:
    return float(found.cost)
