"""Alignment after pretraining as a trade-off: 2AFC against zero-shot, one point a setting, and the setting chosen.

Rule: the setting that stands for alignment after pretraining is the one with the highest 2AFC on validation triplets,
mean over seeds; where several have it, the smallest change: fewest updates, then the lowest learning rate, then the
first name. Choosing sees neither zero-shot accuracy nor test triplets; both are reported of what was chosen, with
intervals that take the choice as given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .estimators import Spread
from .results import Arm, Held, Results
from .statistics import Estimate
from .suite import Benchmark

CHOSEN_BY, REPORTED_ON = "val", "test"
#: Mean scores are means of whole numbers over one count: equal ones may differ in the last bit.
_DIGITS = 12


@dataclass(frozen=True)
class Point:
    """Where an arm ends.

    Attributes:
        validation: 2AFC on the triplets that settings are chosen by.
        test: 2AFC on the same card's test split; None where that was not judged.
        zero_shot: mean top-1 over the counted sets.
        change: zero_shot minus the start arm's; None for the start arm itself.
    """

    arm: str
    validation: Estimate
    test: Estimate | None
    zero_shot: Estimate
    change: Estimate | None


@dataclass(frozen=True)
class Setting:
    """One setting of the grid: what trains, how fast, how long, and where it ends."""

    point: Point
    adapter: str
    lr: float
    updates: int

    @property
    def arm(self) -> str:
        return self.point.arm


@dataclass(frozen=True)
class Tradeoff:
    """A grid of settings on the same pretrained weights.

    Attributes:
        triplets: card that all of them are aligned on, and whose validation split decides.
        sets: number of classification sets that zero-shot accuracy is the mean of.
        settings: in the order of adapter, learning rate and updates.
        chosen: arm of the setting chosen.
        start: where all of them started.
        treatment: the arm that learned judgements first; None where the spec names none.
    """

    triplets: str
    sets: int
    settings: tuple[Setting, ...]
    chosen: str
    start: Point
    treatment: Point | None

    @property
    def best(self) -> Setting:
        """The setting chosen."""
        return next(setting for setting in self.settings if setting.arm == self.chosen)


def choose(validation: Mapping[str, float], changes: Mapping[str, tuple[int, float]]) -> str:
    """The arm with the highest validation 2AFC; of several, the smallest change.

    Args:
        validation: arm -> 2AFC on validation triplets, mean over seeds.
        changes: arm -> (updates, learning rate).
    """
    return min(validation, key=lambda arm: (-round(validation[arm], _DIGITS), *changes[arm], arm))


def tradeoff(settings: Mapping[str, Any], results: Results) -> Tradeoff | None:
    """The grid of a report that asks for science: the arms that only finetune the baseline on the same triplets.

    Returns:
        None where fewer than two arms do, where their triplets' validation split was not judged, or where the
        settings ask for no science.
    """
    triplets, arms = _grid(results)
    by = Held(triplets, CHOSEN_BY)
    if not settings.get("report") or len(arms) < 2 or by not in results.held:
        return None
    treatment = settings["report"]["treatment"]
    named = [results.baseline, *([treatment] if treatment in results.arms else []), *(arm.name for arm in arms)]
    points = _points(results, named, by)
    facts = {arm.name: settings["methods"]["stages"][arm.name][-1] for arm in arms}
    found = [
        Setting(points[arm], _words(one["adapter"], one["adapter_options"]), float(one["lr"]), int(one["updates"]))
        for arm, one in facts.items()
    ]
    return Tradeoff(
        triplets=triplets,
        sets=len(_counted(results)),
        settings=tuple(sorted(found, key=lambda one: (one.adapter, one.lr, one.updates, one.arm))),
        chosen=choose(
            {one.arm: one.point.validation.value for one in found},
            {one.arm: (one.updates, one.lr) for one in found},
        ),
        start=points[results.baseline],
        treatment=points.get(treatment),
    )


def _grid(results: Results) -> tuple[str, list[Arm]]:
    """The triplets on which most arms are aligned that start from the baseline's last weights, and those arms."""
    groups: dict[str, list[Arm]] = {}
    for arm in results.arms.values():
        if arm.stages == ("finetune",) and arm.start == results.baseline and arm.triplets:
            groups.setdefault(arm.triplets, []).append(arm)
    return max(groups.items(), key=lambda group: len(group[1]), default=("", []))


def _points(results: Results, arms: list[str], by: Held) -> dict[str, Point]:
    """Where each arm ends; sets one after the other, for reading a set of all arms is what takes time."""
    on = Held(by.data, REPORTED_ON)
    own: dict[str, list[Spread]] = {arm: [] for arm in arms}
    changes: dict[str, list[Spread]] = {arm: [] for arm in arms}
    for benchmark in _counted(results):
        base, _ = results.hits(results.baseline, results.last(results.baseline), benchmark, "top1")
        for arm in arms:
            hits, unit = results.hits(arm, results.last(arm), benchmark, "top1")
            label = f"{benchmark.id}/top1/{arm}"
            own[arm].append(results.estimator.sample(hits, label, unit))
            changes[arm].append(results.estimator.paired(hits, base, f"{label}-{results.baseline}", unit))
    mean = results.estimator.average
    return {
        arm: Point(
            arm=arm,
            validation=_two_afc(results, arm, by),
            test=_two_afc(results, arm, on) if on in results.held else None,
            zero_shot=mean(own[arm]).estimate().within(0, 1),
            change=None if arm == results.baseline else mean(changes[arm]).estimate(),
        )
        for arm in arms
    }


def _two_afc(results: Results, arm: str, held: Held) -> Estimate:
    scores = results.two_afc(arm, results.last(arm), held)
    return results.estimator.sample(scores, f"{held.id}/{arm}/end", 0.5).estimate().within(0, 1)


def _counted(results: Results) -> list[Benchmark]:
    return [benchmark for benchmark in results.suite.classification if benchmark.disjoint]


def _words(adapter: str, options: Mapping[str, Any]) -> str:
    """What trains, in a word or two; parts of others by their name and options."""
    patterns = options.get("pattern", [])
    if adapter == "pattern" and patterns and all("in_proj" in one for one in patterns):
        return "QKV"
    if adapter == "lora":
        return f"LoRA, rank {options['rank']}" if "rank" in options else "LoRA"
    if adapter == "full":
        return "whole tower"
    given = ", ".join(f"{name} {value}" for name, value in sorted(options.items()))
    return f"{adapter}, {given}" if given else adapter
