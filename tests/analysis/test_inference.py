"""Contests, comparisons and references on results whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pi_repro.analysis import reference
from pi_repro.analysis.compare import compare
from pi_repro.analysis.effects import Side, pair
from pi_repro.analysis.findings import Findings, find
from pi_repro.analysis.hypotheses import groups
from pi_repro.analysis.inference import Inference, contest, infer
from pi_repro.analysis.inference_tables import inference_tables
from pi_repro.analysis.reference import margins
from pi_repro.analysis.results import Results
from pi_repro.errors import RequestError, StateError

from . import synthetic_results
from .synthetic_results import World, asked


@pytest.fixture(scope="module")
def inferred(world: World) -> Inference:
    full = asked(world)
    results = full.open()
    return infer(full.settings, results, find(results))


def test_contest_by_hand(results: Results, inferred: Inference) -> None:
    found = inferred.contests["concept"]
    counted = [b for b in results.suite.classification if b.disjoint]
    table = []
    for benchmark in counted:
        hits = [results.hits(a, results.last(a), benchmark, "top1")[0].mean(axis=1) for a in ("concept", "random")]
        table.append(hits[0] - hits[1])
    seeds = np.array(table).T
    assert found.mean.value == pytest.approx(seeds.mean())
    assert found.count.raw.wins == (seeds.mean(axis=0) > 0).sum()
    assert found.wins.value == pytest.approx(((np.sign(seeds) + 1) / 2).sum(axis=1).mean())
    named = {test.name: test for test in found.by_seeds}
    assert named["mean difference, paired t"].p == pytest.approx(stats.ttest_1samp(seeds.mean(axis=1), 0).pvalue)
    assert {test.name for test in found.by_sets} == {"exact sign", "Wilcoxon"}
    assert found.over_sets.high - found.over_sets.low > found.mean.high - found.mean.low  # type: ignore[operator]
    assert found.effective is not None and 1 <= found.effective <= 9
    assert found.detectable is not None and found.detectable > 0


def test_an_arm_is_one_of_as_many_comparisons_as_there_are_arms(inferred: Inference) -> None:
    tests = {arm: inferred.by_seeds(arm) for arm in inferred.contests}
    ranked = sorted(tests, key=lambda arm: tests[arm][0].p)
    by_hand = np.maximum.accumulate([(3 - rank) * tests[arm][0].p for rank, arm in enumerate(ranked)])
    assert [tests[arm][1].p for arm in ranked] == pytest.approx(np.minimum(1, by_hand))
    assert all("all arms" in some[1].name for some in tests.values())
    assert [[some[0], *some[2:]] for some in tests.values()] == [[*one.by_seeds] for one in inferred.contests.values()]


def test_guessed_sets_win_nothing(inferred: Inference) -> None:
    for one in inferred.contests.values():
        rows = {row.bout.name: row for row in one.sets}
        assert not any(rows["demo/digits"].bout.above)
        assert one.count.gated.dropped >= 1
        assert one.count.gated.sets + one.count.gated.dropped == 9
        assert all(row.holm >= row.bh >= row.p for row in one.sets)


def test_onsets_and_forms(inferred: Inference) -> None:
    assert set(inferred.onsets) == {"pi", "concept"}
    assert set(inferred.onsets["pi"]) == {s[0] for s in synthetic_results.SETS}
    assert not inferred.rivals, "five checkpoints after the start tell no form"


def test_tables_are_plain_and_finite(inferred: Inference) -> None:
    made = {table.name: table for table in inference_tables(inferred)}
    assert set(made) == {"bouts", "counts", "tests", "means", "onsets", "power", "claims", "components"}
    assert len(made["bouts"].rows) == 3 * 9
    assert [row[0] for row in made["claims"].rows] == [claim.id for claim in synthetic_results.CLAIMS.claims]
    for table in made.values():
        json.dumps(table.records(), allow_nan=False)
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_a_report_section_changes_intervals_and_no_value(world: World, findings: Findings) -> None:
    other = find(asked(world).open())
    for old, new in zip(findings.rows, other.rows, strict=True):
        assert new.differences["pi"].value == pytest.approx(old.differences["pi"].value, abs=1e-12)
    pairs = [(o.differences["pi"], n.differences["pi"]) for o, n in zip(findings.rows, other.rows, strict=True)]
    wider = [n.high - n.low > o.high - o.low for o, n in pairs]  # type: ignore[operator]
    assert np.mean(wider) > 0.5, "three seeds know less than their bootstrap says"


def test_compare_pairs_what_both_have(results: Results, world: World, tmp_path: Path) -> None:
    found = compare(Side(results, "concept"), Side(results, "random"), ("demo/concept", "demo/random"))
    assert found.seeds == (0, 1, 2) and not found.left_out
    assert [line.measure for line in found.lines].count("top-1") == len(synthetic_results.SETS)
    guessed = next(line for line in found.lines if line.title == "Hand-written digits" and line.measure == "top-1")
    assert guessed.chance
    assert found.contest == contest(pair(results, "concept"))
    mirrored = compare(Side(results, "random"), Side(results, "concept"), ("b", "a"))
    assert mirrored.lines[0].difference.value == -found.lines[0].difference.value
    # Another experiment: two of the seeds, one set of other items.
    arms = {name: synthetic_results.ARMS[name] for name in ("random", "pi")}
    synthetic_results.write_results(tmp_path / "other", arms, seeds=(1, 2, 5), epochs=(0, 16))
    for path in (tmp_path / "other").rglob("demo/flags.json"):
        path.write_text(path.read_text().replace("d-demo/flags", "changed"))
    other = World(tmp_path / "other", world.suite, synthetic_results.settings(arms, (1, 2, 5))).open()
    crossed = compare(Side(results, "pi"), Side(other, "pi"), ("one/pi", "two/pi"))
    assert crossed.seeds == (1, 2) and crossed.left_out == ("demo/flags",)
    assert all(line.difference.value == 0 for line in crossed.lines), "the same runs"
    third = World(tmp_path / "other", world.suite, synthetic_results.settings(arms, (5,)))
    alone = Results(third.results, third.settings, other.suite, whole=False)
    with pytest.raises(StateError, match="no seed in common"):
        compare(Side(results, "pi"), Side(alone, "pi"), ("one/pi", "two/pi"))


def test_reference_of_itself_and_of_others(world: World, results: Results, tmp_path: Path) -> None:
    recorded = json.loads(json.dumps(reference.record("demo", results)))
    same = reference.verify(recorded, "file", "demo", results)
    assert same.good and same.kind == "equivalent"
    assert {m.arm for m in same.metrics} == set(results.arms)
    # Honest other seeds of the same arms.
    synthetic_results.write_results(tmp_path / "new", seeds=(10, 11, 12))
    other = World(tmp_path / "new", world.suite, synthetic_results.settings(seeds=(10, 11, 12))).open()
    again = reference.verify(recorded, "file", "demo", other)
    assert again.kind in ("equivalent", "open") and not any(m.kind == "different" for m in again.metrics)
    # Arms that are much better under the same name.
    better = {name: replace(arm, skill=arm.skill + 1.5) for name, arm in synthetic_results.ARMS.items()}
    synthetic_results.write_results(tmp_path / "better", better, seeds=(10, 11, 12))
    apart = World(tmp_path / "better", world.suite, synthetic_results.settings(seeds=(10, 11, 12))).open()
    found = reference.verify(recorded, "file", "demo", apart)
    assert found.kind == "different" and not found.good


def test_one_run_is_held_to_a_prediction_interval(world: World, results: Results, tmp_path: Path) -> None:
    recorded = reference.record("demo", results)
    one = {**world.settings, "arms": {"pi": world.settings["arms"]["pi"]}, "baseline": "pi", "seeds": [1]}
    run = Results(world.results, one, results.suite, whole=False)
    found = reference.verify(recorded, "file", "demo", run)
    assert found.kind == "within" and found.good and {m.arm for m in found.metrics} == {"pi"}
    arms = {"pi": replace(synthetic_results.ARMS["pi"], skill=3)}
    synthetic_results.write_results(tmp_path / "one", arms, seeds=(1,))
    far = Results(tmp_path / "one", one, results.suite)
    assert reference.verify(recorded, "file", "demo", far).kind == "outside"


def test_one_run_is_not_outside_by_less_than_the_least_margin(world: World, results: Results) -> None:
    recorded = json.loads(json.dumps(reference.record("demo", results)))
    one = {**world.settings, "arms": {"pi": world.settings["arms"]["pi"]}, "baseline": "pi", "seeds": [1]}
    run = Results(world.results, one, results.suite, whole=False)
    for row, shift, kind in (("top-1, mean over sets", 0.004, "within"), ("top-1, mean over sets", 0.02, "outside")):
        here = float(reference.quantities(run)["pi"][row][0])
        recorded["arms"]["pi"][row]["values"] = [here + shift] * 3
        assert reference.verify(recorded, "file", "demo", run).kind == kind


def test_bad_references(results: Results, tiny: World) -> None:
    recorded = json.loads(json.dumps(reference.record("demo", results)))
    with pytest.raises(StateError, match="damaged"):
        reference.verify({"format": 1, "arms": {"pi": {"x": {}}}, "sets": {}}, "file", "demo", results)
    with pytest.raises(StateError, match="another format"):
        reference.verify({**recorded, "format": 9}, "file", "demo", results)
    moved = {**recorded, "sets": {**recorded["sets"], "demo/flags": "x"}}
    with pytest.raises(StateError, match="other items"):
        reference.verify(moved, "file", "demo", results)
    with pytest.raises(RequestError, match="none of the arms"):
        reference.verify({**recorded, "arms": {"else": recorded["arms"]["pi"]}}, "file", "demo", results)
    with pytest.raises(StateError, match="too few seeds"):
        reference.record("demo", tiny.open())


def test_margin_is_one_point_or_what_an_honest_rerun_reaches() -> None:
    assert margins({"pi": np.full(3, 0.5)}, 10) == {"pi": 0.01}
    rows = {"pi": np.array([0.50, 0.55, 0.60, 0.52, 0.58]), "random": np.array([0.1, 0.2, 0.3, 0.1, 0.4])}
    one, many = margins(rows, 1), margins(rows, 10)
    assert one["pi"] == one["random"] < many["pi"] == margins(rows, 10)["pi"]
    assert margins({"pi": 10 * rows["pi"]}, 1)["pi"] == pytest.approx(10 * margins({"pi": rows["pi"]}, 1)["pi"])


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_honest_reruns_pass_nine_times_in_ten(seeds: int) -> None:
    rng = np.random.default_rng(3)
    arms, metrics, passed, trials = 3, 4, 0, 300
    for _ in range(trials):
        first, second = rng.normal(0, 0.05, (2, metrics, arms, seeds))
        bounds = [margins(dict(enumerate(rows)), arms * metrics)[0] for rows in first]  # type: ignore[arg-type]
        passed += all(
            groups(first[m, a], second[m, a], bounds[m]).p_equivalent < 0.05
            for m in range(metrics)
            for a in range(arms)
        )
    assert passed / trials >= 0.85
