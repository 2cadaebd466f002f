"""Rules by hand, and verdicts on results whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pi_repro.analysis import estimands
from pi_repro.analysis.claims import Judged, Scale, decide, judge
from pi_repro.analysis.effects import Pair, Side, pair
from pi_repro.analysis.emergence import Onset
from pi_repro.analysis.estimands import Component, Computed, compute, doublings_saved
from pi_repro.analysis.results import Results
from pi_repro.analysis.statistics import Estimate
from pi_repro.spec.claims import Rule, Test

from .synthetic_results import CLAIMS, World

HERE = Scale("demo-suite", "demo-pairs", "demo-triplets", 16, "concept", "posthoc", "tiny")
THERE = Scale("zeroshot-29-2", "yfcc15m", "nights", 32, "concept", "posthoc", "ViT-B-32")

ABOVE = Rule(kind="above", unit="points", threshold=0.0, relevant=0.5, words="")
COUNT = Rule(kind="count", unit="sets", threshold=23.0, words="")
WINDOW = Rule(kind="window", unit="epochs", threshold=0.0, window=(10, 20), words="")
APART = Rule(kind="apart", unit="epochs", threshold=0.0, relevant=2.0, words="")


def component(low: float, high: float, widen: float = 0.0) -> Component:
    middle = (low + high) / 2
    return Component("x", Estimate(middle, low, high), Estimate(middle, low - widen, high + widen), 0.5, 1.0)


def here(rule: Rule, *components: Component, onsets: Any = (), sets: int = 29, seeds: int = 3) -> str:
    return decide(rule, Computed(components, tuple(onsets), sets), seeds)[0]


def test_above_needs_every_component_and_fails_by_one_that_is_surely_too_small() -> None:
    good, small, unsure = component(0.1, 2), component(-1, 0.4), component(-1, 2)
    assert here(ABOVE, good) == "holds"
    assert here(ABOVE, good, good) == "holds"
    assert here(ABOVE, component(0.01, 0.2)) == "holds", "established, however small"
    assert here(ABOVE, good, unsure) == "open"
    assert here(ABOVE, good, small) == "fails"
    assert here(ABOVE, good, component(-1, 0.4, widen=0.2)) == "open", "many components get many chances to fail"
    assert here(ABOVE, component(-2, -1)) == "fails"


def test_one_seed_decides_nothing() -> None:
    assert here(ABOVE, component(1, 2), seeds=1) == "open"
    assert here(COUNT, component(24, 26), seeds=1) == "open"


def test_the_count_has_to_reach_the_papers_and_to_beat_half() -> None:
    assert here(COUNT, component(16, 24)) == "holds"
    assert here(COUNT, component(14, 27)) == "open"
    assert here(COUNT, component(16, 22.9)) == "fails", "more than half, but not 23"
    assert here(COUNT, component(7, 10.4), sets=13) == "holds", "23 of 29 is 10.3 of 13"
    assert here(COUNT, component(7, 10.2), sets=13) == "fails"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Onset(15, 12, 18), "holds"),
        (Onset(15, 8, 18), "open"),
        (Onset(15, 12, 24), "open"),
        (Onset(15, 12, None), "open"),
        (Onset(3, 1, 5), "fails"),
        (Onset(28, 25, 31), "fails"),
        (Onset(28, 25, None), "fails"),
        (Onset(None, None, None), "fails"),
    ],
)
def test_window(found: Onset, expected: str) -> None:
    assert here(WINDOW, onsets=[("imagenet1k", found)]) == expected


def test_apart() -> None:
    early, late, never = Onset(2, 1, 4), Onset(12, 10, 16), Onset(None, 8, None)
    assert here(APART, onsets=[("a", early), ("b", late)]) == "holds"
    assert here(APART, onsets=[("a", early), ("b", never)]) == "holds", "one had it before the other can have it"
    assert here(APART, onsets=[("a", early), ("b", Onset(4, 3, 9))]) == "open"
    assert here(APART, onsets=[("a", Onset(2, 1, 2)), ("b", Onset(2, 2, 3))]) == "fails", "all within two epochs"
    assert here(APART, onsets=[("a", early)]) == "open"
    assert here(APART, onsets=[("a", Onset(2, 1, 2)), ("b", Onset(2, 2, 3)), ("c", Onset(2, 1, None))]) == "open", (
        "a set whose onset is not known may be apart"
    )
    lost = ("c", Onset(None, None, None))
    assert here(APART, onsets=[("a", Onset(2, 1, 2)), ("b", Onset(2, 2, 3)), lost]) == "fails", "a loss has no onset"


def test_an_open_claim_says_how_many_seeds_it_takes() -> None:
    _, (why,) = decide(ABOVE, Computed((component(-1, 2),)), 3)
    assert "34 seeds would see 0.5 with a chance of 80%" in why
    _, (why,) = decide(ABOVE, Computed((replace(component(-1, 2), spread=0.01),)), 3)
    assert "images, not the 3 seeds" in why


def test_doublings_saved() -> None:
    x = np.array([10.0, 11.0, 12.0])
    assert doublings_saved(x, np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.2, 0.3])) == pytest.approx(1.5)
    assert doublings_saved(x, np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.4, 0.6])) == pytest.approx(-1.5)
    assert doublings_saved(x, np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.2, 0.3])) == 2
    assert doublings_saved(x, np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3])) == 0


@pytest.fixture(scope="module")
def judged(results: Results) -> dict[str, Judged]:
    return {one.claim.id: one for one in judge(CLAIMS, results, THERE)}


def test_other_data_give_no_verdict_on_the_paper_but_the_same_numbers(
    results: Results, judged: dict[str, Judged]
) -> None:
    elsewhere = judge(CLAIMS, results, HERE)
    assert {one.verdict for one in elsewhere} == {"not measured at this scale"}
    assert all(one.lacking[0] == "a tiny, not a ViT-B-32" for one in elsewhere)
    assert all(one.lacking[1] == "judged on demo-suite, not zeroshot-29-2" for one in elsewhere)
    assert [one.here for one in elsewhere] == [one.here for one in judged.values()]
    assert [one.computed for one in elsewhere] == [one.computed for one in judged.values()]


def test_verdicts_on_an_arm_that_is_better(judged: dict[str, Judged]) -> None:
    """The concept arm's skill is 0.35 above the baseline's, growing with training, except on guessed sets."""
    words = {name: one.verdict for name, one in judged.items()}
    assert words["zero-shot-gain"] == words["families-top1"] == "reproduced" or judged["families-top1"].here == "open"
    assert judged["zero-shot-gain"].verdict == "reproduced"
    assert all(one.here == "not computed" for one in judged.values() if one.claim.test.quantity == "unrecorded")
    assert "does not record" in judged["caption-scores"].why[0]
    for one in judged.values():
        assert not one.lacking
        assert (one.verdict == "reproduced") == (one.here == "holds")
        assert (one.verdict == "not reproduced") == (one.here == "fails")
        assert one.here in ("holds", "not computed") or one.why, "what is not established has a reason"


def test_an_arm_that_is_worse_is_not_reproduced(results: Results) -> None:
    worse = {one.claim.id: one for one in judge(CLAIMS, results, replace(THERE, treatment="pi"))}
    assert worse["zero-shot-gain"].here in ("fails", "open")
    assert not any(one.verdict == "reproduced" for one in worse.values() if one.claim.test.quantity == "wins")


def test_p_is_of_the_claims_direction_and_of_half_the_sets(results: Results, judged: dict[str, Judged]) -> None:
    backwards = {one.claim.id: one for one in judge(CLAIMS, results, replace(THERE, treatment="pi"))}
    (mean,) = backwards["zero-shot-gain"].computed.components
    assert mean.estimate.value < 0 and mean.p < 1 and backwards["zero-shot-gain"].p == 1, "a loss is no evidence"
    (wins,) = judged["wins-23-of-29"].computed.components
    assert wins.null == 4.5 and wins.estimate.low is not None
    assert (wins.p < 0.05) == (wins.estimate.low > 4.5 or wins.estimate.high < 4.5)  # type: ignore[operator]


def test_the_end_is_not_early(world: World) -> None:
    full = world.open()
    full.checkpoints = {arm: [points[0], points[-1]] for arm, points in full.checkpoints.items()}
    pairing = pair(full, "concept")
    for at, over, measure in (("first", "families", "top1"), ("early", "retrieval", "t2i_r1")):
        assert "was kept before the end" in compute(plan("gain", over, (measure,), at), pairing).lacking
    assert "the end alone" in compute(plan("gain", "headline", ("top1",), "each"), pairing).lacking


def test_exponents_are_of_the_same_epochs(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms with one curve, which bends; one has no right answer at the first epoch: no difference."""
    course = np.array([[0.02, 0.06, 0.1, 0.12, 0.13]] * 3)

    def accuracy(self: object, side: Side, *_: object) -> np.ndarray:
        return course * (np.arange(5) > 0) if side.arm == "random" else course

    monkeypatch.setattr(Pair, "accuracy", accuracy)
    found = compute(plan("exponent", "headline", ("top1",), "each"), pair(results, "concept"))
    assert found.components[0].estimate.value == pytest.approx(0)


def test_holm_over_the_table(judged: dict[str, Judged]) -> None:
    tested = [one for one in judged.values() if one.p is not None]
    assert all(one.p_holm is not None and one.p is not None and one.p_holm >= one.p for one in tested)
    assert max(one.p for one in tested) <= 1  # type: ignore[type-var]
    assert judged["imagenet-onset"].p_holm is None


def test_missing_arms(results: Results) -> None:
    alone = {one.claim.id: one for one in judge(CLAIMS, results, replace(THERE, posthoc=None))}
    assert alone["before-beats-after"].here == "not computed"
    assert "no arm is aligned after pretraining" in alone["before-beats-after"].lacking
    none = judge(CLAIMS, results, replace(THERE, treatment=None))
    assert {one.verdict for one in none} == {"not measured at this scale"}


def test_a_tiny_experiment_is_judged_too(tiny: World) -> None:
    found = judge(CLAIMS, tiny.open(), Scale("demo-suite", "demo-pairs", "demo-triplets", 4, "pi", None, "tiny"))
    assert {one.here for one in found} <= {"open", "not computed"}, "one seed decides nothing"


def plan(quantity: str, over: str, measures: tuple[str, ...], at: str = "last") -> Test:
    return Test.model_validate({"quantity": quantity, "over": over, "measures": measures, "at": at})


def test_gain_by_hand(results: Results) -> None:
    pairing = pair(results, "concept")
    found = compute(plan("gain", "headline", ("top1",)), pairing).components[0]
    benchmark = results.suite.headline
    last = results.last("concept")
    hits = [results.hits(arm, last, benchmark, "top1")[0] for arm in ("concept", "random")]
    assert found.estimate.value == pytest.approx(100 * (hits[0].mean() - hits[1].mean()))
    assert found.spread == pytest.approx(100 * (hits[0].mean(axis=1) - hits[1].mean(axis=1)).std(ddof=1))


def test_components_are_named_and_there_is_one_for_each(results: Results) -> None:
    pairing = pair(results, "concept")
    families = compute(plan("gain", "families", ("top1", "top5"), "first"), pairing).components
    assert [c.name for c in families][:2] == ["ImageNet, top1", "ImageNet-OOD, top1"]
    assert len(families) == 2 * len(results.suite.families)
    each = compute(plan("gain", "headline", ("top1",), "each"), pairing).components
    assert [c.name for c in each] == [f"top1, epoch {epoch}" for epoch in (1, 2, 4, 8, 16)]
    early = compute(plan("gain", "retrieval", ("i2t_r1",), "early"), pairing).components
    assert len(early) == 1 and early[0].estimate.value != 0
    for c in families:
        assert c.joint.low is not None and c.estimate.low is not None and c.joint.low < c.estimate.low


def test_growth_is_the_slope_of_the_difference(results: Results) -> None:
    pairing = pair(results, "concept")
    found = compute(plan("growth", "retrieval", ("t2i_r5",)), pairing).components[0]
    epochs = (1, 2, 4, 8, 16)
    members = list(results.suite.retrieval)
    gaps = [pairing.mean(members, "t2i_r5", epoch).value for epoch in epochs]
    samples = [pairing.samples(epoch) for epoch in epochs]
    assert found.estimate.value == pytest.approx(100 * np.polyfit(np.log2(samples), gaps, 1)[0])


def test_margins_are_over_all_queries(results: Results) -> None:
    found = compute(plan("gain", "retrieval", ("i2t_margin", "t2i_margin")), pair(results, "concept")).components
    position = results.last("concept")
    expected = [
        np.mean(results.array("concept", position, b.id, array) - results.array("random", position, b.id, array))
        for array in ("text_margin", "image_margin")
        for b in results.suite.retrieval
    ]
    assert found[0].estimate.value == pytest.approx(np.mean(expected[:2]), abs=1e-7)
    assert found[1].estimate.value == pytest.approx(np.mean(expected[2:]), abs=1e-7)


def test_wins_are_over_counted_sets(results: Results) -> None:
    found = compute(plan("wins", "suite", ("top1",)), pair(results, "concept"))
    assert found.sets == 9 and found.components[0].name == "wins of 9"


def test_no_retrieval_no_margins(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimands, "_recorded", lambda *_: False)
    found = compute(plan("gain", "retrieval", ("i2t_margin",)), pair(results, "concept"))
    assert found.lacking == "evaluation recorded no margins"
    posthoc = pair(results, "posthoc")
    assert "no common epoch" in compute(plan("onset", "headline", ("top1",)), posthoc).lacking
