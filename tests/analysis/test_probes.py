"""Rows of probes: means and paired differences over seeds by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import probes
from pi_repro.errors import StateError
from pi_repro.files import read_json, write_json

SEEDS = (0, 1, 2)
#: arm -> stage -> effective rank of each seed, at epochs 0 and 3.
RANKS = {
    "random": {"pretrain": {0: [5.0, 6.0, 7.0], 3: [9.0, 9.5, 10.0]}},
    "pi": {"initialize": {3: [4.0, 4.0, 4.0]}, "pretrain": {0: [4.0, 5.5, None], 3: [9.5, 11.0, 10.5]}},
}


@pytest.fixture
def results(tmp_path: Path) -> Any:
    for arm, stages in RANKS.items():
        for number, seed in enumerate(SEEDS):
            folder, lines = tmp_path / "probes" / f"{arm}-s{seed}", []
            for stage, epochs in stages.items():
                for epoch, ranks in epochs.items():
                    place = f"{stage}/epoch-{epoch:04d}"
                    spectrum = dict.fromkeys(("participation_ratio", "first_share", "mean_cosine"), 0.5)
                    like = {"cka": 0.5, "cka_debiased": 0.4, "rsa_spearman": 0.3}
                    record = {
                        "probe": "features",
                        "set": "a/set",
                        "spectrum": spectrum | {"effective_rank": ranks[number]},
                        "likeness": {"draw": like} | ({"twin": like} if arm == "pi" and stage == "pretrain" else {}),
                    }
                    write_json(folder / place / "features.json", record)
                    about = {"stage": stage, "epoch": epoch, "folder": place, "probes": ["features"]}
                    lines.append({**about, "sha256": f"{arm}{seed}{stage}{epoch}"})
            write_json(folder / "probes.json", {"arm": arm, "seed": seed, "checkpoints": lines})
    points = [SimpleNamespace(epoch=epoch) for epoch in (0, 3)]
    return SimpleNamespace(
        folder=tmp_path,
        seeds=SEEDS,
        baseline="random",
        arms={arm: SimpleNamespace(stages=tuple(stages)) for arm, stages in RANKS.items()},
        checkpoints=dict.fromkeys(RANKS, points),
        weights={arm: tuple(f"{arm}{seed}pretrain3" for seed in SEEDS) for arm in RANKS},
        held=(SimpleNamespace(id="2afc-votes-val"),),
        two_afc=lambda arm, place, held: np.array([[2, 2], [2, 1], [place, place]]),
    )


def rows(results: Any, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in probes.table(results).records() if all(row[key] == value for key, value in wanted.items())]


def test_values_and_differences_by_hand(results: Any) -> None:
    (row,) = rows(results, arm="pi", stage="pretrain", epoch=3, measure="effective_rank")
    assert row["value"] == pytest.approx(31 / 3, abs=1e-6)
    assert [row[f"seed {seed}"] for seed in SEEDS] == [9.5, 11.0, 10.5]
    half = stats.t.ppf(0.975, 2) * np.std([9.5, 11.0, 10.5], ddof=1) / np.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((31 / 3 - half, 31 / 3 + half), abs=1e-6)
    test = stats.ttest_rel([9.5, 11.0, 10.5], [9.0, 9.5, 10.0]).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(2.5 / 3, abs=1e-6)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((test.low, test.high), abs=1e-6)
    (alone,) = rows(results, arm="random", epoch=3, measure="effective_rank")
    assert alone["difference"] is None
    # Epoch 3 of stage 1 is not epoch 3 of pretraining.
    (early,) = rows(results, stage="initialize", measure="effective_rank")
    assert early["value"] == 4 and early["difference"] is None and early["low"] == 4


def test_an_undefined_value_makes_no_mean(results: Any) -> None:
    (row,) = rows(results, arm="pi", stage="pretrain", epoch=0, measure="effective_rank")
    assert (row["value"], row["difference"], row["seed 2"], row["seed 1"]) == (None, None, None, 5.5)


def test_each_comparison_is_a_row_and_2afc_is_the_evaluation_s(results: Any) -> None:
    (twin,) = rows(results, arm="pi", epoch=3, against="twin", measure="cka")
    assert twin["value"] == 0.5 and twin["difference"] is None  # the baseline has no twin
    assert len(rows(results, against="draw", measure="cka_debiased")) == 5
    found = rows(results, probe="two_afc")
    assert [(row["arm"], row["stage"], row["epoch"]) for row in found] == [
        *(("random", "pretrain", 0), ("random", "pretrain", 3)),
        *(("pi", "pretrain", 0), ("pi", "pretrain", 3)),
    ]
    assert [found[1][f"seed {seed}"] for seed in SEEDS] == [1.0, 0.75, 0.5]


def test_what_does_not_fit_together_is_refused(results: Any) -> None:
    file = results.folder / "probes/pi-s1/probes.json"
    content = read_json(file)
    write_json(file, {**content, "checkpoints": content["checkpoints"][:2]})
    with pytest.raises(StateError, match="other checkpoints than those of seed 0"):
        probes.table(results)
    content["checkpoints"][2]["sha256"] = "other"
    write_json(file, content)
    with pytest.raises(StateError, match="other weights than the evaluation"):
        probes.table(results)
    content["checkpoints"][2]["sha256"] = "pi1pretrain3"
    content["checkpoints"][2]["probes"] = []
    write_json(file, content)
    with pytest.raises(StateError, match="missing for some seeds"):
        probes.table(results)
    file.unlink()
    with pytest.raises(StateError, match="missing"):
        probes.table(results)
