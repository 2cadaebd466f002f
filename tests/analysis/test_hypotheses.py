"""Tests against scipy, against statsmodels (whose answers stand here), and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import hypotheses
from pi_repro.analysis.hypotheses import Outcome

RNG = np.random.default_rng(0)
#: statsmodels' documentation example of many p.
MANY = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]


def test_paired_t_is_scipys() -> None:
    values = RNG.normal(0.3, 1, 7)
    assert hypotheses.paired_t(values).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert hypotheses.paired_t(values[:1]) == Outcome("paired t", 1.0, 1)
    assert hypotheses.paired_t(np.full(3, 0.2)).p == 1, "no spread is no evidence"


@pytest.mark.parametrize("n", [6, 12, 40])
def test_wilcoxon_is_scipys(n: int) -> None:
    values = RNG.normal(0.4, 1, n)
    method = "exact" if n <= 16 else "asymptotic"
    assert hypotheses.wilcoxon(values).p == pytest.approx(stats.wilcoxon(values, method=method, correction=True).pvalue)


def test_wilcoxon_by_hand_with_ties_and_zeros() -> None:
    # Sizes 1, 1, 2: ranks 1.5, 1.5, 3; all positive is the most extreme of 8 patterns, and so is all negative.
    assert hypotheses.wilcoxon(np.array([1.0, 1.0, 2.0, 0.0])) == Outcome("Wilcoxon", 2 / 8, 3)
    # + + -: sums 0; every pattern is at least as far: 1.
    assert hypotheses.wilcoxon(np.array([1.0, 1.0, -2.0])).p == 1.0
    assert hypotheses.wilcoxon(np.zeros(3)) == Outcome("Wilcoxon", 1.0, 0)


def test_ties_but_for_the_last_bits_are_ties() -> None:
    values = np.array([(0.1 + 0.2 + 0.3) / 3, -0.2, 0.3])
    assert values[0] != 0.2
    assert hypotheses.wilcoxon(values) == hypotheses.wilcoxon(np.array([0.2, -0.2, 0.3]))


def test_sign_flips_are_scipys_permutation_test() -> None:
    values = RNG.normal(0.5, 1, 9)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples").pvalue
    assert hypotheses.sign_flip(values, "x").p == pytest.approx(theirs)
    assert hypotheses.sign_flip(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "x").p == 2 / 32, "five seeds can't reach 5 %"


def test_many_units_are_drawn_and_near_the_exact_answer() -> None:
    values = RNG.normal(0.4, 1, 20)
    drawn = hypotheses.sign_flip(values, "x")
    assert drawn == hypotheses.sign_flip(values, "x")
    assert drawn.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_sign_test_leaves_ties_out() -> None:
    assert hypotheses.sign(np.array([1.0, 2.0, 0.0, -1.0])) == Outcome("exact sign", 1.0, 3)
    # statsmodels 0.15: sign_test of 23 and 6.
    assert hypotheses.sign(np.array([1.0] * 23 + [-1.0] * 6)).p == pytest.approx(0.002315700054168701)


def test_holm_and_benjamini_hochberg_are_statsmodels() -> None:
    # statsmodels 0.15: multipletests(method="holm") and "fdr_bh".
    holm = [0.01, 0.072, 0.312, 0.312, 0.312, 0.312, 0.312, 0.615, 0.615, 0.615]
    bh = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.10571428571428572, 0.216, 0.216, 0.216]
    order = RNG.permutation(len(MANY))
    shuffled = [MANY[at] for at in order]
    assert hypotheses.holm(shuffled) == pytest.approx([holm[at] for at in order])
    assert hypotheses.benjamini_hochberg(shuffled) == pytest.approx([bh[at] for at in order])
    assert hypotheses.benjamini_hochberg(shuffled) == pytest.approx(stats.false_discovery_control(shuffled))
    assert hypotheses.holm([]) == hypotheses.benjamini_hochberg([]) == ()


def test_effective_sets() -> None:
    shared = RNG.normal(0, 1, (400, 1))
    alike, apart = np.repeat(shared, 13, axis=1), RNG.normal(0, 1, (400, 13))
    assert hypotheses.effective_sets(alike) == pytest.approx(1)
    assert hypotheses.effective_sets(apart) == pytest.approx(13, abs=2)
    assert hypotheses.effective_sets(apart[:2]) is None
    assert hypotheses.effective_sets(apart[:3] * 0) is None


def test_groups_are_statsmodels_and_scipys() -> None:
    a, b = np.array([0.101, 0.113, 0.097, 0.108, 0.105]), np.array([0.109, 0.104, 0.117, 0.111])
    found = hypotheses.groups(a, b, 0.02)
    # statsmodels 0.15: ttest_ind, ttost_ind and CompareMeans.tconfint_diff, usevar="unequal".
    assert found.p_different == pytest.approx(0.20099923635513053)
    assert found.p_equivalent == pytest.approx(0.0035640863055297037)
    assert found.difference.ends == pytest.approx((-0.0036932362745759582, 0.014593236274575951))
    assert found.p_different == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue)


def test_one_run_is_held_to_a_prediction_interval() -> None:
    values = np.array([0.10, 0.12, 0.11, 0.13])
    edge = values.mean() + stats.t.ppf(0.975, 3) * values.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert hypotheses.groups(values, np.array([edge]), 1).p_different == pytest.approx(0.05)
    with pytest.raises(ValueError, match="one run"):
        hypotheses.groups(values[:1], values[:1], 1)


def test_groups_without_spread() -> None:
    same = np.full(3, 0.5)
    assert hypotheses.groups(same, same, 0.01).p_different == 1
    assert hypotheses.groups(same, same, 0.01).p_equivalent == 0
    assert hypotheses.groups(same, same + 0.1, 0.01).p_different == 0
    assert hypotheses.groups(same, same + 0.1, 0.01).p_equivalent == 1
