"""Wins at chance don't count; each count by hand."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from pi_repro.analysis import gating
from pi_repro.analysis.gating import Bout, Chance
from pi_repro.analysis.statistics import Estimate

CARD = Path(__file__).parents[2] / "specs" / "data" / "zeroshot-29-2.yaml"


def bout(name: str, seeds: tuple[float, ...], above: tuple[bool, bool]) -> Bout:
    value = float(np.mean(seeds))
    return Bout(name, Estimate(value, None, None), seeds, Chance(0.1, None, None), above, gating.overlap(name))


BOUTS = [
    bout("imagenet1k", (0.02, 0.01), (True, True)),
    bout("imagenet-a", (0.01, -0.03), (True, True)),
    bout("mnist", (0.004, 0.001), (False, False)),
    bout("vtab-svhn", (0.004, 0.001), (False, True)),
    bout("vtab-pcam", (-0.01, -0.02), (False, True)),
    bout("gtsrb", (0.01, -0.01), (True, False)),
    bout("demo/flags", (0.0, 0.0), (False, False)),
]


def test_counts_by_hand() -> None:
    found = gating.count(BOUTS)
    raw, gated = found.raw, found.gated
    assert (raw.wins, raw.losses, raw.ties, raw.dropped) == (3, 2, 2, 0)
    # Out: mnist (both at chance), svhn (the winner is), flags (a tie of guesses).
    assert (gated.wins, gated.losses, gated.ties, gated.dropped) == (1, 2, 1, 3)
    assert raw.p == 1.0 and gated.p == pytest.approx(1.0)
    # A seed's ties count half: seed 0 wins imagenet1k, imagenet-a, gtsrb of 4, loses pcam.
    assert gated.seeds == (3.0, 1.0)
    assert {kind: (tally.wins, tally.losses) for kind, tally in found.split.items()} == {
        "named": (1, 0),
        "derived": (0, 1),
        "none": (0, 1),
        "not listed": (0, 0),
    }


def test_wins_of_seeds_count_ties_half() -> None:
    assert gating.wins_of_seeds(np.array([[0.1, -0.1, 0.0], [0.1, 0.2, 1e-15]])) == [1.5, 2.5]


def test_above_is_the_exact_one_sided_binomial() -> None:
    n, bar = 500, 0.1
    edge = next(k for k in range(n) if stats.binomtest(k, n, bar, alternative="greater").pvalue < 0.025)

    def above(*seeds: float) -> bool:
        return gating.above(np.array(seeds), n, bar)

    assert above(edge / n) and not above((edge - 1) / n)
    assert not above((edge - 1) / n, edge / n), "half a hit, a mean of seeds, is not rounded up"
    assert not gating.above(np.ones(1), 3, 1.0)


def test_networks_that_know_no_name_are_not_above_chance() -> None:
    """Ten kinds of image, perfectly sorted, and named at random: 10,000 images make a lucky mean of seeds certain."""
    rng, trials = np.random.default_rng(4), 400
    for seeds in (2, 5):
        runs = [[(rng.permutation(10) == np.arange(10)).mean() for _ in range(seeds)] for _ in range(trials)]
        assert np.mean([gating.above(np.array(row), 10_000, 0.1) for row in runs]) <= 0.025 + 0.02
    assert gating.above(np.array([0.32, 0.323]), 50_000, 0.001), "two seeds tell what is clear"


def test_the_bar_is_the_best_answer_that_needs_no_image() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    assert gating.chance("demo/x", 1 / 3, labels) == Chance(1 / 3, 0.6, None)
    assert gating.chance("demo/x", 1 / 3, labels).bar == 0.6
    assert gating.chance("vtab-kitti_closest_vehicle_distance", 0.25, None).bar == 0.295289
    assert gating.chance("demo/x", 0.25, None).bar == 0.25


def test_every_set_of_the_papers_suite_is_known_once() -> None:
    sets = [row for row in yaml.safe_load(CARD.read_text())["sets"] if row["task"] == "classification"]
    known = json.loads(resources.files("pi_repro.analysis").joinpath("sets.json").read_text())
    listed = [name for kind in ("named", "derived", "none") for name in known["overlap"][kind]]
    assert len(listed) == len(set(listed))
    assert set(listed) - {"sun397"} == {row["id"] for row in sets} == set(known["random_score"])
    for row in sets:
        # DataComp's score is the accuracy of guessing in proportion to the classes: at least one in their number.
        assert known["random_score"][row["id"]] >= round(1 / row["classes"], 6) - 1e-6, row["id"]
        shares = "shared with the prompts" in row.get("note", "")
        assert not shares or gating.overlap(row["id"]) in ("named", "derived"), row["id"]
    assert set(known["overlap"]["named"]) == {
        *("imagenet1k", "vtab-cifar10", "vtab-cifar100", "vtab-flowers", "food101", "sun397")
    }
    assert gating.overlap("demo/flags") == "not listed"
