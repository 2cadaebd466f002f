"""Findings against arrays read by hand, and what the headline makes of them."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from pi_repro.analysis.findings import Findings, find
from pi_repro.analysis.headline import checks, headline
from pi_repro.analysis.results import Results
from pi_repro.analysis.statistics import Estimate
from pi_repro.analysis.tables import metrics, tables

from . import synthetic_results
from .synthetic_results import World

LAST = "epoch-0016"


def raw(world: World, arm: str, folder: str, name: str, array: str) -> np.ndarray:
    return np.stack(
        [load_file(world.results / f"{arm}-s{s}" / folder / f"{name}.items.safetensors")[array] for s in range(3)]
    )


def test_accuracy_and_difference_by_hand(world: World, findings: Findings) -> None:
    row = next(r for r in findings.rows if r.name == "demo/flags" and r.measure == "top5")
    pi, random = (raw(world, arm, LAST, "demo/flags", "rank") < 5 for arm in ("pi", "random"))
    assert row.arms["pi"].value == pytest.approx(pi.mean())
    assert row.differences["pi"].value == pytest.approx(pi.mean() - random.mean())
    assert row.seeds["pi"] == pytest.approx(tuple(pi.mean(axis=1)))
    assert row.chance == pytest.approx(5 / 258)


def test_family_mean_is_unweighted_and_skips_undefined_top5(findings: Findings) -> None:
    def of(name: str, measure: str) -> float:
        return next(r for r in findings.rows if r.name == name and r.measure == measure).arms["pi"].value

    top1 = next(r for r in findings.families if r.name == "Domain & Small" and r.measure == "top1")
    top5 = next(r for r in findings.families if r.name == "Domain & Small" and r.measure == "top5")
    assert top1.arms["pi"].value == pytest.approx((of("demo/digits", "top1") + of("demo/arrows", "top1")) / 2)
    assert (top1.sets, top5.sets) == (2, 1)
    assert top5.arms["pi"].value == pytest.approx(of("demo/digits", "top5"))


def test_wins_count_disjoint_classification_sets_alone(results: Results, findings: Findings) -> None:
    counted = [b.id for b in results.suite.classification if b.disjoint]
    rows = {r.name: r for r in findings.rows if r.measure == "top1"}
    above = sum(rows[name].differences["concept"].value > 0 for name in counted)
    wins = findings.wins["concept"]
    assert (findings.counted, wins.wins) == (9, above)
    assert wins.wins + wins.losses + wins.ties == 9


def test_guessing_is_flagged(findings: Findings) -> None:
    rows = {r.name: r for r in findings.rows if r.measure == "top1"}
    assert set(rows["demo/digits"].at_chance) == {"random", "pi", "concept", "posthoc"}
    assert rows["demo/all"].at_chance == ()
    assert findings.guesses == ("demo/digits",)


def test_finetuned_arm_stands_at_its_start_arms_end(results: Results, findings: Findings) -> None:
    curve = findings.headline_chart.curves["posthoc"]
    assert not curve.along
    assert curve.samples == (results.checkpoints["random"][-1].samples,)
    assert "posthoc" not in findings.emergence
    assert "posthoc" not in findings.headline_chart.fits
    assert findings.headline_chart.curves["pi"].samples[0] == 0


def test_two_afc_by_hand(world: World, findings: Findings) -> None:
    choice = next(c for c in findings.choices if c.held.id == "2afc-demo-triplets-test")
    before = raw(world, "random", "epoch-0000", choice.held.id, "score").astype(float) / 2
    after = raw(world, "pi", "epoch-0000", choice.held.id, "score").astype(float) / 2
    assert choice.untrained is not None and choice.untrained.value == pytest.approx(before.mean())
    assert choice.raised["pi"].value == pytest.approx((after - before).mean())
    assert set(choice.raised) == {"pi", "concept"}
    assert set(choice.kept) == {"random", "pi", "concept", "posthoc"}
    assert [step for step, _ in choice.courses["posthoc"]] == ["finetuned"]
    assert choice.pixel == pytest.approx(raw(world, "pi", LAST, choice.held.id, "pixel")[0].mean() / 2)


def test_triplets_that_come_last_are_checked_too(world: World, results: Results, findings: Findings) -> None:
    choice = next(c for c in findings.choices if c.held.id == "2afc-demo-triplets-test")
    assert set(choice.learned) == {"posthoc"}
    steps = [f"epoch-{results.checkpoints['posthoc'][number].epoch:04d}" for number in (0, -1)]
    began, ended = (raw(world, "posthoc", step, choice.held.id, "score") / 2 for step in steps)
    assert choice.learned["posthoc"].value == pytest.approx((ended.astype(float) - began.astype(float)).mean())
    (line,) = [line for line in headline(results, findings).results if "before its triplets" in line]
    assert line.startswith("posthoc: 2AFC on demo-triplets (test) ") and "against the untrained network." in line
    told = {
        word: replace(findings, choices=tuple(replace(c, learned={"posthoc": change}) for c in findings.choices))
        for word, change in (("raised;", ABOVE), ("lowered;", BELOW), ("not raised beyond its interval;", NOTHING))
    }
    assert all(any(word in line for line in headline(results, found).results) for word, found in told.items())


def test_check_reads_each_arms_own_test_split(results: Results, findings: Findings) -> None:
    found = {arm: [c.held.id for c in choices] for arm, choices in checks(results, findings).items()}
    assert found == {"pi": ["2afc-demo-triplets-test"], "concept": ["2afc-demo-concepts-test"]}


def test_check_falls_back_to_val(results: Results, findings: Findings) -> None:
    only = replace(findings, choices=tuple(c for c in findings.choices if c.held.split == "val"))
    assert [c.held.id for c in checks(results, only)["pi"]] == ["2afc-demo-triplets-val"]


def shifted(findings: Findings, differences: dict[str, Estimate], raised: Estimate) -> Findings:
    """The findings with other differences and another manipulation check."""
    choices = tuple(replace(c, raised=dict.fromkeys(c.raised, raised)) for c in findings.choices)
    return replace(findings, headline=replace(findings.headline, differences=differences), choices=choices)


NOTHING = Estimate(0.001, -0.01, 0.012)
ABOVE = Estimate(0.02, 0.01, 0.03)
BELOW = Estimate(-0.02, -0.03, -0.01)


def test_failed_check_stands_first(results: Results, findings: Findings) -> None:
    words = headline(results, shifted(findings, dict.fromkeys(("pi", "concept", "posthoc"), ABOVE), NOTHING))
    assert words.verdict.startswith(
        "Manipulation check failed: stage 1 did not raise the held-out 2AFC of pi and concept"
    )
    assert "above random" in words.verdict


def test_a_control_that_raises_nothing_fails_no_check(results: Results, findings: Findings) -> None:
    controlled = copy(results)
    controlled.arms = {**results.arms, "concept": replace(results.arms["concept"], votes=False)}
    moved = dict.fromkeys(("pi", "concept", "posthoc"), NOTHING)
    words = headline(controlled, shifted(findings, moved, NOTHING))
    assert "did not raise the held-out 2AFC of pi above" in words.verdict
    assert "It did not for concept, controls without the votes or with altered ones." in words.verdict
    assert "It did so for concept, controls" in headline(controlled, shifted(findings, moved, ABOVE)).verdict


def test_no_difference_is_said(results: Results, findings: Findings) -> None:
    words = headline(results, shifted(findings, dict.fromkeys(("pi", "concept", "posthoc"), NOTHING), ABOVE))
    assert "No arm differs from random" in words.verdict
    assert words.verdict.startswith("Stage 1 raised")


def test_either_sign_is_reported_alike(results: Results, findings: Findings) -> None:
    words = headline(results, shifted(findings, {"pi": BELOW, "concept": ABOVE, "posthoc": NOTHING}, ABOVE))
    assert "concept (+2.0 points) ends above random" in words.verdict
    assert "pi (−2.0 points) ends below random" in words.verdict
    assert "for posthoc no difference is established" in words.verdict


def test_lowered_two_afc_is_no_success(results: Results, findings: Findings) -> None:
    words = headline(results, shifted(findings, dict.fromkeys(("pi", "concept", "posthoc"), NOTHING), BELOW))
    assert words.verdict.startswith("Manipulation check failed")
    assert all(": lowered." in line for line in words.check)


def test_unmeasured_check_is_said(results: Results, findings: Findings) -> None:
    words = headline(results, replace(findings, choices=()))
    assert "Whether stage 1 worked was not measured for pi and concept." in words.verdict


def test_multiples_of_chance(findings: Findings) -> None:
    accuracy = findings.headline.arms["random"]
    assert findings.multiples["random"].value == pytest.approx(accuracy.value * 1479)
    assert findings.multiples["random"].low == pytest.approx(accuracy.low * 1479)  # type: ignore[operator]


def test_tables_hold_every_number_once(results: Results, findings: Findings) -> None:
    made = {table.name: table for table in tables(results, findings)}
    keys = [(r["set"], r["measure"], r["arm"]) for r in made["sets"].records()]
    assert len(keys) == len(set(keys)) == (10 * 2 + 1 + 2 * 4) * 4
    assert len(made["emergence"].rows) == 2 * 6
    assert {r["step"] for r in made["two_afc"].records()} >= {"start", "epoch 16", "finetuned"}
    text = made["sets"].csv().decode()
    assert text.splitlines()[0].startswith("set,title,family,measure")
    assert "nan" not in text


def test_metrics_are_flat_finite_numbers(results: Results, findings: Findings) -> None:
    found = metrics(results, findings)
    assert all(isinstance(v, int | float) and np.isfinite(v) for v in found.values())
    assert found["headline.random.times_chance"] > 50
    assert found["check.pi.demo-triplets-test.raised.low"] > 0


def test_one_arm_one_seed_is_a_report_too(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("alone")
    arms = {"random": synthetic_results.ARMS["random"]}
    synthetic_results.write_results(folder, arms, seeds=(5,), epochs=(2,))
    alone = World(folder, world.suite, synthetic_results.settings(arms, (5,))).open()
    found = find(alone)
    assert found.wins == {} and headline(alone, found).verdict == ""


def test_sets_left_out_and_several_right_labels_are_said(tiny: World) -> None:
    assert not any("ReaL" in line or "whole suite" in line for line in _said(tiny))
    suite = json.loads((tiny.suite / "suite.json").read_text())
    suite["skipped"] = [{"id": "objectnet", "title": "ObjectNet"}, {"id": "birdsnap", "title": "Birdsnap"}]
    (tiny.suite / "suite.json").write_text(json.dumps(suite))
    for arm, value in (("random", 0.25), ("pi", 0.375)):
        path = sorted((tiny.results / f"{arm}-s0").glob("epoch-*"))[-1] / f"{suite['sets'][0]['id']}.json"
        record = json.loads(path.read_text())
        record["metrics"]["real_acc1"] = value
        path.write_text(json.dumps(record))
    said = _said(tiny)
    assert "Not the whole suite: its card leaves out ObjectNet and Birdsnap." in said
    assert [line for line in said if line.endswith("(ReaL): random 25.0 %, pi 37.5 %.")]


def _said(world: World) -> tuple[str, ...]:
    results = world.open()
    return headline(results, find(results)).results
