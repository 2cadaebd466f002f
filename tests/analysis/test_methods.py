"""The paragraph on methods: two stages are told as one only when all their settings are equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pi_repro.analysis.methods import paragraph
from pi_repro.analysis.results import Results
from pi_repro.plan.methods import facts
from pi_repro.spec.loading import TRAINING_STAGES, Loaded, load
from pi_repro.spec.training import Plugin

ROOT = Path(__file__).parents[2]

#: Place of a setting -> another value of it: every field of every training has one.
OTHER: dict[str, Any] = {
    "epochs": 3,
    "batch": 32,
    "micro_batch": 16,
    "optimizer.name": "lion",
    "optimizer.lr": 2.50001e-4,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.2,
    "optimizer.decay": "all",
    "optimizer.clip_norm": 1.0,
    "optimizer.implementation": "single",
    "optimizer.options": {"momentum": 0.5},
    "schedule.kind": "constant",
    "schedule.warmup_updates": 7,
    "schedule.horizon": "micro_batches",
    "augmentation.kind": "center_crop",
    "augmentation.scale": [0.25, 1.0],
    "precision": "bf16",
    "shuffle_block": 4,
    "keep_epochs": [1],
    "checksum_every": 3,
}
TRIPLETS: dict[str, Any] = {
    "data": "demo-concepts",
    "objective": {"name": "triplet_hinge", "options": {"margin": 0.1, "distance": "cosine"}},
    "fraction": 0.1,
    "labels": {"name": "flipped", "options": {"share": 0.1}},
}
PAIRS: dict[str, Any] = {
    "data": "other-pairs",
    "accumulation": 2,
    "publish_states": [9],
    "extra_updates": 5,
    "freeze": ["text"],
    "caption_noise": 0.3,
}
TERM: dict[str, Any] = {"weight": 0.5, "batch": 32, "micro_batch": 32, "shuffle_block": 4} | {
    key: OTHER[key] for key in ("augmentation.kind", "augmentation.scale")
}
CHANGES: dict[str, dict[str, Any]] = {
    "initialize": OTHER | TRIPLETS | {"adapter": {"name": "lora", "options": {"rank": 4}}},
    "pretrain": OTHER | PAIRS,
    "joint": OTHER | PAIRS | {f"auxiliary.{key}": value for key, value in (TRIPLETS | TERM).items()},
}
CASES = [(stage, place) for stage, places in CHANGES.items() for place in places]


@pytest.fixture(scope="module")
def controls() -> Loaded:
    loaded = load(ROOT / "specs" / "demo-controls.yaml")
    return replace(loaded, cards={**loaded.cards, "other-pairs": loaded.cards["demo-pairs"]})


def tell(loaded: Loaded, arms: Mapping[str, Any]) -> dict[str, str]:
    """Arm -> what is said of it; settings as the report gets them: through JSON, its keys sorted."""
    settings = {"methods": json.loads(json.dumps(facts(loaded), sort_keys=True))}
    known = {arm: SimpleNamespace(description="D", start=arms[arm].start) for arm in sorted(arms)}
    results = SimpleNamespace(seeds=(0,), arms=known, baseline="random", checkpoints={"random": [1]})
    text = paragraph(settings, cast(Results, results))
    sentences = text[text.index("Arm ") : text.index(" Models were judged")].split(" Arm ")
    return dict(sentence.removeprefix("Arm ").removesuffix(".").split(" (D): ", 1) for sentence in sentences)


@pytest.fixture(scope="module")
def told(controls: Loaded) -> dict[str, str]:
    return tell(controls, controls.experiment.science.arms)


def changed(settings: Any, place: str, value: Any) -> Any:
    """Another value at a place, unchecked: that it trains is nothing to its description."""
    head, _, rest = place.partition(".")
    if rest:
        value = changed(getattr(settings, head), rest, value)
    elif head in ("objective", "labels", "adapter"):
        value = Plugin(**value)
    return settings.model_copy(update={head: tuple(value) if isinstance(value, list) else value})


def test_arms_that_differ_are_told_apart(told: dict[str, str]) -> None:
    after = "; then as random's pretraining"
    assert told["shuffled"] == f"as pi's stage 1, but labels shuffled instead of the votes{after}"
    assert told["pixels"] == f"as pi's stage 1, but labels pixels instead of the votes{after}"
    assert told["fractals"] == f"as pi's stage 1, but on demo-fractals (3,032 triplets){after}"
    assert told["frozen"] == "as random's pretraining, but text tower frozen"
    assert told["longer"] == (
        "as random's pretraining, but 678 updates of 128 pairs (188 of them before the first epoch)"
    )
    assert (
        "objective self_supervised (temperature 0.2), augmentation random_resized_crop (scale 0.3 to 1)"
        in (told["blind"])
    )


def test_what_is_equal_is_told_by_the_plainest_arm(told: dict[str, str]) -> None:
    """The spec's first, not the alphabet's: pi, though frozen-pi sorts before it."""
    assert list(told)[:3] == ["random", "pi", "concept"]
    assert told["random"].startswith("pretraining: CLIP's loss, on demo-pairs")
    assert told["pi"].startswith("stage 1: objective triplet_hinge (distance cosine, margin 0.05)")
    assert told["frozen-pi"] == "as pi's stage 1; then as frozen's pretraining"
    assert told["posthoc"].startswith("from random's pretrained weights, alignment after pretraining: ")


def test_joint_tells_its_term(told: dict[str, str]) -> None:
    assert "CLIP's loss and, at weight 1, objective triplet_hinge (distance cosine, margin 0.05)" in told["joint"]
    assert "64 of the 3,032 triplets of demo-triplets" in told["joint"]


def test_every_field_has_its_case() -> None:
    """A field that is added needs a value here, and so words in the paragraph."""

    def places(model: Any, prefix: str = "") -> set[str]:
        nested = {"optimizer", "schedule", "augmentation", "auxiliary"}
        found: set[str] = set()
        for name, field in model.model_fields.items():
            found |= places(field.annotation, f"{prefix}{name}.") if name in nested else {prefix + name}
        return found

    for stage, changes in CHANGES.items():
        assert places(TRAINING_STAGES[stage]) == set(changes)


@pytest.mark.parametrize(("stage", "place"), CASES, ids=[f"{stage}-{place}" for stage, place in CASES])
def test_a_setting_that_differs_is_named(controls: Loaded, stage: str, place: str) -> None:
    arms, name = controls.arms, "joint" if stage == "joint" else "pi"
    settings = arms[name][stage]
    twin = changed(settings, place, CHANGES[stage][place])
    assert twin != settings
    two = {"random": {stage: settings}, "pi": {stage: settings}, "shuffled": {stage: twin}}
    said = tell(replace(controls, arms=two), {arm: controls.experiment.science.arms[arm] for arm in two})
    kind = said["random"].split(":")[0]
    assert said["pi"] == f"as random's {kind}"
    assert said["shuffled"].startswith(f"as random's {kind}, but "), said["shuffled"]
