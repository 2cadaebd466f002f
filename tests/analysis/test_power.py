"""Seeds that are needed: against statsmodels' answers and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import hypotheses, power


@pytest.mark.parametrize(
    ("effect", "seeds", "of_five"),
    # statsmodels 0.15: TTestPower().solve_power(effect, power=0.8, alpha=0.05), rounded up, and .power(effect, 5, 0.05)
    [(0.2, 199, 0.06426957404800915), (0.5, 34, 0.140516689990298), (1, 10, 0.4013899173717948),
     (2, 5, 0.9088848681009402)],
)  # fmt: skip
def test_agrees_with_statsmodels(effect: float, seeds: int, of_five: float) -> None:
    assert power.seeds_needed(effect, 1.0) == seeds
    assert power.power(effect, 1.0, 5) == pytest.approx(of_five)
    assert power.power(-3 * effect, 3.0, 5) == pytest.approx(of_five), "only effect by spread matters, not its sign"


def test_simulated_power() -> None:
    rng = np.random.default_rng(0)
    seen = [hypotheses.paired_t(rng.normal(1.5, 1, 6)).p < 0.05 for _ in range(2000)]
    assert np.mean(seen) == pytest.approx(power.power(1.5, 1, 6), abs=0.03)


def test_detectable_is_the_inverse() -> None:
    effect = power.detectable(5, 0.4)
    assert power.power(effect, 0.4, 5) == pytest.approx(0.8)
    assert power.seeds_needed(effect * 1.0001, 0.4) == 5


def test_extremes() -> None:
    assert power.power(1, 1, 1) == 0
    assert power.seeds_needed(1000, 1) == 2
    assert power.seeds_needed(0, 1) is None and power.seeds_needed(1e-4, 1) is None


def test_spread_is_the_chi_square_interval() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.6])
    sd, low, high = power.spread(values)
    assert sd == pytest.approx(values.std(ddof=1))
    assert low == pytest.approx(sd * np.sqrt(3 / stats.chi2.ppf(0.9, 3)))
    assert high == pytest.approx(sd * np.sqrt(3 / stats.chi2.ppf(0.1, 3)))
    with pytest.raises(ValueError, match="no spread"):
        power.spread(values[:1])


def test_needs_widen_with_a_small_pilot() -> None:
    (small,) = power.needs(np.array([0.0, 1.0]), [1.0])
    (large,) = power.needs(np.array([0.0, 1.0] * 20), [1.0])
    assert small.fewest is not None and small.seeds is not None and small.most is not None
    assert small.fewest <= small.seeds < small.most
    assert large.most is not None and large.seeds is not None and large.most - large.seeds < 4
    with pytest.raises(ValueError, match="don't differ"):
        power.needs(np.ones(3), [1.0])
