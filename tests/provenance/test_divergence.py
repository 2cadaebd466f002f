"""Two ledgers side by side: which update, what went another way, which tensors, how far apart."""

from __future__ import annotations

import pytest

from pi_repro.files import canonical_json
from pi_repro.provenance import divergence

TRAINED = ["visual.conv1.weight", "text.bias", "logit_scale"]


def _ledger(updates: int = 6, begin: int = 0, **changed: dict[int, object]) -> list[str]:
    """Lines as a training writes them; `changed` holds other values of a field by update."""
    lines = []
    for update in range(begin + 1, begin + updates + 1):
        line = {
            "update": update,
            "samples": f"{update:016x}",
            "loss": 4.0 / update,
            "loss_bits": f"{update * 3:016x}",
            "grad_norm_bits": f"{update * 5:016x}",
            "lr": 0.001 * update,
            "tensors": "".join(f"{update + number:08x}" for number in range(len(TRAINED))),
        }
        if update % 3 == 0:
            line["weights"] = f"{update:064x}"
        lines.append(canonical_json(line | {key: at[update] for key, at in changed.items() if update in at}) + "\n")
    return lines


def test_the_same_ledgers_have_no_divergence() -> None:
    assert divergence.first(_ledger(), _ledger(), TRAINED) is None
    assert divergence.first(_ledger(3, begin=4), _ledger(3, begin=4), TRAINED) is None


# What changed at update 4 (its consequences stay to the end), what is named, which tensors.
MOVED = {4: "000000040000dead00000006", 5: "0" * 24}
CASES = [
    ({"samples": {4: "x"}, "loss_bits": {4: "y"}, "tensors": MOVED}, "order of the data", ("text.bias",)),
    ({"loss": {4: 1.5}, "loss_bits": {4: "y"}, "tensors": MOVED}, "forward pass", ("text.bias",)),
    ({"grad_norm_bits": {4: "y"}, "tensors": MOVED}, "backward pass", ("text.bias",)),
    ({"lr": {4: 0.5}, "tensors": MOVED}, "learning rate", ("text.bias",)),
    ({"tensors": MOVED, "weights": {6: "z"}}, "optimizer's step", ("text.bias",)),
    ({"weights": {6: "z"}}, "does not train", ()),
]


@pytest.mark.parametrize("changed, cause, tensors", CASES)
def test_the_first_field_of_the_first_update_names_what_went_another_way(
    changed: dict[str, dict[int, object]], cause: str, tensors: tuple[str, ...]
) -> None:
    found = divergence.first(_ledger(), _ledger(**changed), TRAINED)
    assert found is not None
    assert found.update == min(update for at in changed.values() for update in at)
    assert cause in found.cause
    assert (found.tensors, found.trained) == (tensors, 3)


def test_a_ledger_that_ends_early_differs_where_it_ends() -> None:
    found = divergence.first(_ledger(6), _ledger(4), TRAINED)
    assert found is not None and found.update == 5 and "ends" in found.cause


def test_the_environment_that_differs_leaves_circumstances_out() -> None:
    then = {
        "stage": "a",
        "begun": "2026",
        "wall_s": 1.0,
        "slurm": {"SLURM_JOB_ID": "1"},
        "python": "3.11.7",
        "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
        "gpus": ["A", "A"],
        "git": {"commit": "c0", "dirty": False},
    }
    now = then | {
        "begun": "2027",
        "wall_s": 2.0,
        "slurm": {},
        "packages": {"torch": "2.15.0", "numpy": "2.4.7"},
        "gpus": ["A"],
        "git": {"commit": "c0", "dirty": True},
        "driver": "570",
    }
    found = [(row.field, row.then, row.now) for row in divergence.environment(then, now)]
    assert found == [
        ("driver", "(absent)", "570"),
        ("git.dirty", False, True),
        ("gpus", ["A", "A"], ["A"]),
        ("packages.numpy", "2.4.6", "2.4.7"),
    ]
    assert divergence.environment(then, then | {"wall_s": 9}) == ()


def test_gaps_are_relative_and_say_where() -> None:
    one, two = _ledger(20), _ledger(20, loss={7: 4 / 7 * 1.1, 18: 4 / 18 * 1.02})
    largest = divergence.largest_gap(one, two)
    assert largest is not None and largest.relative == pytest.approx(0.1) and largest.update == 7
    # Updates 7 and 8 make the fourth tenth: their mean moves by 0.1 * (4/7) / (4/7 + 4/8).
    curve = divergence.curve_gap(one, two)
    assert curve is not None and curve.update == 8
    assert curve.relative == pytest.approx(0.1 * (4 / 7) / (4 / 7 + 4 / 8))
    assert divergence.curve_gap(_ledger(3), _ledger(3)) == divergence.Gap(0.0, 1)
    assert divergence.largest_gap([], []) is None
