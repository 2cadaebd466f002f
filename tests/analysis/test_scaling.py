"""Power laws that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from pi_repro.analysis.scaling import fit

SAMPLES = (0, 1000, 2000, 4000, 8000)


def law(a: float, beta: float) -> np.ndarray:
    return np.array([0.001, *(a * s**beta for s in SAMPLES[1:])])


def test_an_exact_power_law_is_found_and_the_start_left_out() -> None:
    found = fit(SAMPLES, np.stack([law(0.002, 0.5), law(0.002, 0.5)]))
    assert found is not None
    assert found.beta.value == pytest.approx(0.5)
    assert found.scale == pytest.approx(0.002)
    assert found.r2 == pytest.approx(1)
    assert found.points == 4
    assert (found.beta.low, found.beta.high) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.accuracy(np.array([4000.0]))[0] == pytest.approx(0.002 * 4000**0.5)


def test_seeds_are_fitted_apart_and_differences_paired() -> None:
    base = fit(SAMPLES, np.stack([law(0.002, 0.4), law(0.002, 0.6)]))
    arm = fit(SAMPLES, np.stack([law(0.001, 0.5), law(0.001, 0.7)]), base)
    assert base is not None and arm is not None and arm.difference is not None
    assert base.betas == (pytest.approx(0.4), pytest.approx(0.6))
    assert arm.difference.value == pytest.approx(0.1)
    assert arm.difference.high - arm.difference.low < 1e-9  # type: ignore[operator]
    assert arm.beta.high - arm.beta.low > 1  # type: ignore[operator]


def test_one_seed_has_no_interval() -> None:
    found = fit(SAMPLES, law(0.002, 0.5)[None])
    assert found is not None and found.beta.low is None


def test_checkpoints_with_zero_accuracy_are_left_out() -> None:
    accuracy = law(0.002, 0.5)
    accuracy[1] = 0
    found = fit(SAMPLES, accuracy[None])
    assert found is not None and found.points == 3
    accuracy[2] = 0
    assert fit(SAMPLES, accuracy[None]) is None


def test_agrees_with_polyfit() -> None:
    rng = np.random.default_rng(0)
    accuracy = law(0.002, 0.4) * rng.uniform(0.8, 1.2, 5)
    found = fit(SAMPLES, accuracy[None])
    slope, intercept = np.polyfit(np.log(SAMPLES[1:]), np.log(accuracy[1:]), 1)
    assert found is not None
    assert found.beta.value == pytest.approx(slope)
    assert found.scale == pytest.approx(np.exp(intercept))
