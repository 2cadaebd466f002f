"""The paragraph on methods and compute, written from a report's settings and what was judged.

Rule: a function of the spec, its cards and the results; clocks, hosts and prices are no part of it, so compute is
given as updates, samples and operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .results import Results

_KINDS = {
    "initialize": "stage 1",
    "pretrain": "pretraining",
    "joint": "joint training",
    "finetune": "alignment after pretraining",
}
_MODES = {
    "exact": "in exact mode (the same bits on any number of processes)",
    "fast": "in fast mode (kernels whose bits vary)",
}


def paragraph(settings: Mapping[str, Any], results: Results) -> str:
    """Plain text of one paragraph; empty where the settings hold no facts."""
    facts = settings.get("methods")
    return " ".join(_sentences(facts, results)) if facts else ""


def _sentences(facts: Mapping[str, Any], results: Results) -> Iterator[str]:
    model, seeds = facts["model"], len(results.seeds)
    size = f" with {_count(model['parameters'])} parameters" if model["parameters"] else ""
    yield (
        f"The model is {model['name']}{size}, drawn by the rule “{model['initialization']}” from each of {seeds} "
        f"seed{'s' if seeds > 1 else ''}; all arms of a seed start from the same weights, and everything was trained "
        f"{_MODES[facts['mode']]}."
    )
    told: dict[str, str] = {}
    for arm in results.arms:
        recipes = [_recipe(stage) for stage in facts["stages"].get(arm, ())]
        known = [told.get(recipe) for recipe in recipes]
        said = [
            f"as {before}'s {recipe.split(':', 1)[0]}" if before else recipe
            for before, recipe in zip(known, recipes, strict=True)
        ]
        for recipe in recipes:
            told.setdefault(recipe, arm)
        yield f"Arm {arm} ({results.arms[arm].description}): {'; then '.join(said)}."
    yield (
        f"Models were judged zero-shot on {facts['suite']['sets']} sets ({facts['suite']['title']}) at "
        f"{max(len(points) for points in results.checkpoints.values())} checkpoints at most, without training on any "
        "of them."
    )
    yield from _compute(facts["stages"], results)
    yield (
        f"Differences are to {results.baseline}, paired by seed and item; intervals are 95 % intervals over new seeds "
        "and new items, each with its own variance and Student's t."
    )


def _recipe(stage: Mapping[str, Any]) -> str:
    what = "pairs" if stage["pairs"] else "triplets"
    loss = "CLIP's loss" if stage["objective"] == "clip" else f"objective {stage['objective']}"
    if stage["pairs"] and stage["triplets"]:
        loss = f"CLIP's loss and objective {stage['objective']}"
    part = f", adapter {stage['adapter']}" if stage["adapter"] else ""
    warm = f" after {stage['warmup']:,} warm-up updates" if stage["warmup"] else ""
    return (
        f"{_KINDS[stage['kind']]}: {loss}{part} on {stage['data']} ({stage['count']:,} {what}), {stage['epochs']} "
        f"epoch{'s' if stage['epochs'] > 1 else ''}, {stage['updates']:,} updates of {stage['update']:,} {what}, "
        f"{stage['optimizer']} at {stage['lr']:g}, weight decay {stage['weight_decay']:g}, {stage['schedule']} "
        f"schedule{warm}, {stage['precision']}"
    )


def _compute(stages: Mapping[str, Sequence[Mapping[str, Any]]], results: Results) -> Iterator[str]:
    every = [stage for arm in results.arms for stage in stages.get(arm, ())]
    seeds = len(results.seeds)
    totals = {name: seeds * sum(stage[name] for stage in every) for name in ("updates", "pairs", "triplets")}
    runs = len(results.arms) * seeds
    shown = f"{_count(totals['pairs'])} pairs and {_count(totals['triplets'])} triplets"
    operations = [stage["operations"] for stage in every]
    cost = ""
    if operations and None not in operations:
        cost = (
            f", about {seeds * sum(operations):.1e} floating-point operations of the towers' blocks, forward and "
            "backward"
        )
    yield f"Planned training of all {runs} runs: {totals['updates']:,} updates on {shown}{cost}."


def _count(number: float) -> str:
    """1500000 -> "1.5 million", for sentences."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"
