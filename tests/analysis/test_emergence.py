"""From when on a gain lasts, by hand."""

from __future__ import annotations

from collections.abc import Sequence

from pi_repro.analysis import emergence
from pi_repro.analysis.emergence import Onset
from pi_repro.analysis.statistics import Estimate

EPOCHS = (0, 1, 2, 4, 8)


def around(*values: float, half: float = 0.5) -> list[Estimate]:
    return [Estimate(value, value - half, value + half) for value in values]


def onset(epochs: Sequence[int], differences: Sequence[Estimate], threshold: float = 0.0) -> Onset:
    """Where the intervals at hand are those that hold together."""
    return emergence.onset(epochs, differences, differences, threshold)


def test_a_later_epoch_rules_an_onset_out_by_the_joint_interval_alone() -> None:
    own, wide = around(-1, 1, -0.6, 1, 1), around(-1, 1, -0.6, 1, 1, half=0.7)
    assert onset(EPOCHS, own).low == 3 and emergence.onset(EPOCHS, own, wide).low == 1
    assert emergence.onset(EPOCHS, own, wide).high == 4, "the epoch before is one chance, at its own level"


def test_between_kept_epochs_nothing_is_known() -> None:
    assert onset((0, 8, 16), around(-1, -1, 1)) == Onset(16, 9, 16)


def test_a_clear_rise() -> None:
    assert onset(EPOCHS, around(-1, -1, 0.2, 1, 2)) == Onset(2, 2, 4)
    assert onset(EPOCHS, around(-1, -0.2, 0.2, 1, 2)) == Onset(2, 1, 4)


def test_a_gain_that_goes_away_is_none() -> None:
    assert onset(EPOCHS, around(0, 2, 2, 2, -0.1)) == Onset(None, 0, None)
    assert onset(EPOCHS, around(0, 2, 2, 2, -1)) == Onset(None, None, None)


def test_a_dip_moves_the_onset_behind_it() -> None:
    assert onset(EPOCHS, around(1, 1, -0.1, 1, 1)) == Onset(4, 0, 4)


def test_from_the_start() -> None:
    found = onset(EPOCHS, around(1, 1, 1, 1, 1))
    assert found == Onset(0, 0, 0) and found.established


def test_a_threshold() -> None:
    assert onset(EPOCHS, around(0, 1, 2, 3, 4), threshold=2.4) == Onset(4, 2, 4)


def test_one_seed_without_interval_establishes_nothing() -> None:
    assert onset((1, 2), [Estimate(1, None, None)] * 2) == Onset(1, 1, None)
