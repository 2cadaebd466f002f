"""Intervals and tests against scipy, against sums done by hand, and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import statistics
from pi_repro.analysis.statistics import Estimate


def scores(seed: int, shape: tuple[int, int], chance: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < chance).astype(np.int8)


def test_one_seed_agrees_with_scipy() -> None:
    arm, baseline = scores(1, (1, 800), 0.4), scores(2, (1, 800), 0.3)
    ours = statistics.paired_bootstrap(arm, baseline, "x")
    theirs = stats.bootstrap(
        ((arm - baseline)[0].astype(float),),
        np.mean,
        n_resamples=8000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours.value == pytest.approx(float((arm - baseline).mean()), abs=1e-15)
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_pairing_by_item_removes_what_the_arms_share() -> None:
    shared = scores(3, (3, 500), 0.5)
    arm = shared.copy()
    arm[:, :10] = 1
    paired = statistics.paired_bootstrap(arm, shared, "x")
    alone = statistics.sample(arm, "x").estimate()
    assert paired.high - paired.low < (alone.high - alone.low) / 3  # type: ignore[operator]


def test_equal_scores_have_a_zero_interval_and_no_sign() -> None:
    same = scores(4, (3, 50))
    assert statistics.paired_bootstrap(same, same, "x") == Estimate(0.0, 0.0, 0.0)
    assert statistics.paired_bootstrap(same, same, "x").sign == 0


def test_unit_scales_two_afc_scores() -> None:
    values = np.array([[0, 1, 2, 2], [2, 2, 1, 0]], dtype=np.uint8)
    assert statistics.sample(values, "x", 0.5).value == pytest.approx(10 / 16)
    assert statistics.sample(values, "x", 0.5).seeds.tolist() == [0.625, 0.625]


def test_unsigned_scores_do_not_wrap() -> None:
    low, high = np.zeros((2, 30), dtype=np.uint8), np.full((2, 30), 2, dtype=np.uint8)
    assert statistics.paired_bootstrap(low, high, "x", 0.5).value == -1.0


def test_same_label_same_numbers_other_label_other_draws() -> None:
    values = scores(5, (3, 400))
    assert statistics.sample(values, "a").estimate() == statistics.sample(values, "a").estimate()
    assert statistics.sample(values, "a").estimate() != statistics.sample(values, "b").estimate()


def test_order_of_items_does_not_matter() -> None:
    values = scores(6, (3, 400))
    assert statistics.sample(values, "a").estimate() == statistics.sample(values[:, ::-1], "a").estimate()


def test_average_is_the_mean_of_the_sets_and_narrower() -> None:
    samples = [statistics.sample(scores(n, (3, 300)), f"set {n}") for n in range(4)]
    mean = statistics.average(samples)
    assert mean.value == pytest.approx(np.mean([s.value for s in samples]), abs=1e-15)
    widths = [s.estimate().high - s.estimate().low for s in samples]  # type: ignore[operator]
    assert mean.estimate().high - mean.estimate().low < 0.7 * np.mean(widths)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(3,), (0, 5), (2, 0), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seeds, items"):
        statistics.sample(np.zeros(shape, dtype=np.int8), "x")


def test_pairing_refuses_different_items() -> None:
    with pytest.raises(ValueError, match="paired"):
        statistics.paired_sample(scores(1, (2, 5)), scores(1, (2, 6)), "x")


def coverage(seeds: int, spread: float, trials: int = 160) -> float:
    """Share of intervals that hold the true difference, 0, when seeds differ by a standard deviation `spread`."""
    rng = np.random.default_rng(7)
    held = 0
    for trial in range(trials):
        lift = rng.normal(0, spread, (seeds, 1))
        arm = (rng.random((seeds, 600)) < np.clip(0.2 + lift, 0, 1)).astype(np.int8)
        baseline = (rng.random((seeds, 600)) < 0.2).astype(np.int8)
        estimate = statistics.paired_bootstrap(arm, baseline, f"trial {trial}")
        held += estimate.low <= 0 <= estimate.high  # type: ignore[operator]
    return held / trials


@pytest.mark.parametrize(
    ("seeds", "spread", "least"), [(1, 0.0, 0.91), (3, 0.0, 0.96), (3, 0.01, 0.95), (3, 0.05, 0.83)]
)
def test_coverage(seeds: int, spread: float, least: float) -> None:
    assert coverage(seeds, spread) >= least


def test_sign_test_by_hand() -> None:
    assert statistics.sign_test(0, 0) == 1.0
    assert statistics.sign_test(5, 5) == 1.0
    assert statistics.sign_test(8, 0) == pytest.approx(2 / 256)
    assert statistics.sign_test(0, 8) == pytest.approx(2 / 256)
    # 23 of 29, summed by hand: 2 * sum over k >= 23 of C(29, k) / 2^29.
    tail = sum(int(stats.binom(29, 0.5).pmf(k) * 2**29 + 0.5) for k in range(23, 30)) / 2**29
    assert statistics.sign_test(23, 6) == pytest.approx(2 * tail, rel=1e-9)
    assert statistics.sign_test(23, 6) == pytest.approx(0.0023, abs=5e-5)


def test_at_chance() -> None:
    assert statistics.at_chance(0.11, 500, 0.1)
    assert not statistics.at_chance(0.15, 500, 0.1)
    assert not statistics.at_chance(0.05, 500, 0.1)
    assert statistics.at_chance(0.0, 10, 0.1)


def test_interval_over_seeds_is_students() -> None:
    values = np.array([0.5, 0.6, 0.7])
    estimate = statistics.over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem(values))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert statistics.over_seeds(values[:1]) == Estimate(0.5, None, None)


def test_estimate_signs_and_units() -> None:
    assert [Estimate(0, low, high).sign for low, high in ((0.1, 1), (-1, -0.1), (-1, 1), (0, 1), (None, None))] == [
        1, -1, 0, 0, 0,
    ]  # fmt: skip
    assert Estimate(0.5, -0.1, 1.2).within(0, 1) == Estimate(0.5, 0, 1)
    assert Estimate(0.5, None, None).scaled(2) == Estimate(1.0, None, None)
    assert Estimate(0.5, None, None).ends == (0.5, 0.5)
