"""The order: exact, computed from its key alone, block by block."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pi_repro.data.order import Order, epoch_rows, steps_per_epoch
from pi_repro.data.randomness import generator, permutation

COUNTS = [7, 3, 0, 10, 5, 1, 8]
KNOWN = [6, 11, 10, 9, 4, 5, 7, 8, 1, 2, 0, 3]
KNOWN_DRAW = 0.04531583606138667


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_every_row_once_in_every_epoch(block: int) -> None:
    seen = {tuple(epoch_rows(COUNTS, 5, epoch, block)) for epoch in range(4)}
    assert len(seen) == 4
    assert all(sorted(rows) == list(range(sum(COUNTS))) for rows in seen)


def test_a_position_depends_on_nothing_before_it() -> None:
    whole = [epoch_rows(COUNTS, 5, epoch, 2) for epoch in range(3)]
    places = [(epoch, position) for epoch in range(3) for position in range(sum(COUNTS))]
    shuffled = [places[i] for i in permutation(len(places), "test")]
    used = Order(COUNTS, 5, 2)
    for epoch, position in shuffled:
        assert used.row(epoch, position) == whole[epoch][position]
    assert Order(COUNTS, 5, 2).rows(1, 9, 30).tolist() == whole[1][9:30].tolist()
    assert not np.array_equal(epoch_rows(COUNTS, 6, 0, 2), whole[0])


def test_a_block_stays_inside_its_shards() -> None:
    counts = [10] * 12
    rows = epoch_rows(counts, 1, 0, 3)
    for block in rows.reshape(4, 30):
        assert len(set(block // 10)) == 3
        assert block.tolist() != sorted(block.tolist())


def test_known_values_so_that_no_release_changes_the_order_silently() -> None:
    assert epoch_rows([4, 4, 4], 0, 0, 2).tolist() == KNOWN
    assert generator("augment", 0, 0, 0).random() == pytest.approx(KNOWN_DRAW, abs=0)


def test_part_of_a_dataset_keeps_its_row_numbers() -> None:
    chosen = np.zeros(sum(COUNTS), dtype=bool)
    chosen[[0, 2, 8, 11, 12, 20, 33]] = True
    order = Order.of_part(COUNTS, chosen, 3, 2)
    assert order.count == 7
    for epoch in range(3):
        assert sorted(order.rows(epoch, 0, 7)) == [0, 2, 8, 11, 12, 20, 33]


def test_updates_cut_epochs_and_leave_the_rest_out() -> None:
    order = Order(COUNTS, 5, 2)
    assert steps_per_epoch(order.count, 8) == 4
    assert order.update(0, 8)[0] == 0
    epoch, rows = order.update(6, 8)
    assert epoch == 1
    assert rows.tolist() == epoch_rows(COUNTS, 5, 1, 2)[16:24].tolist()
    with pytest.raises(ValueError, match="fill no update"):
        steps_per_epoch(7, 8)


def test_positions_outside_an_epoch_are_refused() -> None:
    with pytest.raises(IndexError):
        Order(COUNTS, 5, 2).rows(0, 30, 35)


def test_fifteen_million_rows_need_one_block_of_memory() -> None:
    counts = [10_000] * 1_500
    tracemalloc.start()
    order = Order(counts, 1, 32)
    middle = order.rows(3, 7_000_000, 7_004_096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(middle.tolist())) == 4_096
    assert peak < 40 * 2**20


def test_keys_of_different_purpose_or_type_differ() -> None:
    draws = [generator(*key).random() for key in [("a", 1), ("b", 1), (1,), ("1",), (1, 1), (11,), (-1,)]]
    assert len(set(draws)) == len(draws)
    assert generator("a", np.int64(1)).random() == draws[0]
