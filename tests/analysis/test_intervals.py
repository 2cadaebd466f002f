"""Crossed intervals against an analysis of variance by hand, and the bootstrap against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import intervals
from pi_repro.analysis.intervals import Part
from pi_repro.analysis.statistics import Floats

RNG = np.random.default_rng(0)
TABLE = RNG.normal(0, 1, (4, 1)) + RNG.normal(0, 2, (1, 9)) + RNG.normal(0, 0.5, (4, 9))


def test_variances_are_those_of_a_two_way_layout_by_hand() -> None:
    table = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 5.0]])
    # Rows 3 and 4, columns 2, 3, 5.5, mean 3.5; rest -0.5, -0.5, 1, 0.5, 0.5, -1: sum of squares 3, 2 degrees.
    found = intervals.part(table)
    assert found.seeds.tolist() == [3, 4]
    assert found.rest == pytest.approx(1.5 / 6)
    assert found.items == pytest.approx((1.5**2 + 0.5**2 + 2**2) / 2 / 3 - 1.5 / 6)


def test_half_width_adds_the_squares_of_both_parts() -> None:
    found, estimate = intervals.part(TABLE), intervals.part(TABLE).estimate()
    seeds = stats.t.ppf(0.975, 3) * stats.sem(TABLE.mean(axis=1))
    items = stats.t.ppf(0.975, 8) * np.sqrt(found.items)
    assert estimate.high is not None
    assert estimate.high - estimate.value == pytest.approx(np.hypot(seeds, items))


def test_one_seed_is_students_interval_over_items() -> None:
    row = TABLE[:1]
    low, high = stats.t.interval(0.95, 8, loc=row.mean(), scale=stats.sem(row[0]))
    estimate = intervals.part(row).estimate()
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_one_item_and_one_seed_have_none() -> None:
    assert intervals.part(np.array([[0.3]])).estimate().low is None
    assert Part(np.array([0.5]), 0.0, 1).estimate().low is None
    assert Part(np.array([0.5]), 0.0, 1).p() == 1


def test_one_number_a_seed_that_is_always_the_same_has_no_interval() -> None:
    same = Part(np.full(2, 5.0), 0.0, 1)
    assert same.estimate().low is None and same.p() == 1, "as of a saving that is cut off at the whole of training"
    assert Part(np.array([5.0, 5.1]), 0.0, 1).estimate().low is not None


def test_seeds_that_happen_to_agree_do_not_make_an_interval_of_no_width() -> None:
    rows = (RNG.random((2, 40)) < 0.3).astype(float)
    rows[1] = np.roll(rows[0], 7)  # the same mean, other items
    estimate = intervals.part(rows).estimate()
    assert estimate.low is not None and estimate.low < estimate.value - 0.05
    same = intervals.part(np.stack([rows[0], rows[0]]) * 0).estimate()
    assert (same.low, same.high) == (0, 0)


def test_counts_that_agree_are_known_to_within_rounding() -> None:
    two, five = intervals.counts(np.array([8.0, 8.0])).estimate(), intervals.counts(np.full(5, 8.0)).estimate()
    assert two.high == pytest.approx(8 + stats.t.ppf(0.975, 1) * np.sqrt(1 / 24))
    assert five.high == pytest.approx(8 + stats.t.ppf(0.975, 4) * np.sqrt(1 / 60))
    spread = np.array([6.0, 9.0, 12.0])
    low, _ = stats.t.interval(0.95, 2, loc=9, scale=stats.sem(spread))
    assert intervals.counts(spread).estimate().low == pytest.approx(low)
    assert intervals.counts(np.array([8.0])).estimate().low is None


def test_p_is_where_the_interval_stops_covering_zero() -> None:
    shifted = intervals.part(TABLE + 2)
    p = shifted.p()
    assert shifted.estimate(1 - p * 1.001).sign == 1 and shifted.estimate(1 - p * 0.999).sign == 0
    row = TABLE[:1]
    assert intervals.part(row).p() == pytest.approx(stats.ttest_1samp(row[0], 0).pvalue)
    assert intervals.part(np.zeros((3, 5))).p() == 1


def test_mean_of_parts_keeps_what_seeds_share_and_averages_items() -> None:
    parts = [intervals.part(TABLE), intervals.part(TABLE + RNG.normal(0, 1, TABLE.shape))]
    mean = intervals.mean(parts)
    assert mean.seeds == pytest.approx((parts[0].seeds + parts[1].seeds) / 2)
    assert mean.items == pytest.approx((parts[0].items + parts[1].items) / 4)
    assert mean.scaled(100).estimate().high == pytest.approx(100 * (mean.estimate().high or 0))


def test_new_sets_cost_more_than_new_items() -> None:
    parts = [intervals.part(shift + RNG.normal(0, 0.2, (3, 50))) for shift in (-2, -1, 1, 2)]
    given, drawn = intervals.mean(parts).estimate(), intervals.over_sets(parts)
    assert given.value == pytest.approx(drawn.value)
    assert drawn.high - drawn.low > 5 * (given.high - given.low)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(3,), (0, 5), (2, 0), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seeds, items"):
        intervals.part(np.zeros(shape))


def means(drawn: Floats) -> Floats:
    return np.asarray(drawn.mean(axis=1))


@pytest.mark.parametrize(("method", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_agrees_with_scipy(method: str, theirs: str) -> None:
    values = RNG.exponential(1, 30)
    ours = intervals.bootstrap(values, means, "x", method, replicates=20_000)  # type: ignore[arg-type]
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=theirs, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == (pytest.approx(other.low, abs=0.02), pytest.approx(other.high, abs=0.02))


def test_bootstrap_depends_on_data_and_label_alone() -> None:
    values = RNG.normal(0, 1, 8)
    assert intervals.bootstrap(values, means, "a") == intervals.bootstrap(values, means, "a")
    assert intervals.bootstrap(values, means, "a") != intervals.bootstrap(values, means, "b")
    assert intervals.bootstrap(np.full(4, 2.0), means, "a").ends == (2, 2)
    with pytest.raises(ValueError, match="resampled"):
        intervals.bootstrap(values[:1], means, "a")
