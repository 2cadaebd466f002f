"""What a report says of its methods, and what training takes, from specs and cards alone.

Rule: science only: what a spec's resources declare (rates, watts) is no part of a result, so compute is counted in
updates, samples and operations, never in hours. Operations are arithmetic: 2 a weight and token of each transformer
block forward, attention's products with them, twice as much again backward; embeddings, projections and losses are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pi_repro.spec.loading import Loaded
from pi_repro.spec.training import Align, Joint, Pretrain

from .parameters import parameter_count

#: Images of a triplet.
_IMAGES = 3


def facts(loaded: Loaded) -> dict[str, Any]:
    """Facts for the paragraph on methods; plain JSON.

    Args:
        loaded: an experiment whose every reference was followed.
    """
    science = loaded.experiment.science
    architecture = loaded.model.get("architecture", {})
    suite = loaded.cards[science.evaluate.suite]
    return {
        "device": science.device,
        "mode": science.mode,
        "model": {
            "name": science.model.name,
            "initialization": science.model.initialization,
            "parameters": parameter_count(architecture),
        },
        "suite": {"title": suite.title, "sets": len(suite.sets)},
        # Settings are stored with sorted keys; what is told first, and so referred to, is the spec's to say.
        "arms": list(loaded.arms),
        "stages": {
            arm: [_stage(kind, settings, loaded) for kind, settings in kinds.items()]
            for arm, kinds in loaded.arms.items()
        },
    }


def _stage(kind: str, settings: Align | Pretrain, loaded: Loaded) -> dict[str, Any]:
    card = loaded.cards[settings.data]
    update = settings.batch * (settings.accumulation if isinstance(settings, Pretrain) else 1)
    extra = settings.extra_updates if isinstance(settings, Pretrain) else 0
    updates = settings.epochs * (card.count // update) + extra
    own = settings.auxiliary if isinstance(settings, Joint) else settings
    triplets = updates * (settings.auxiliary.batch if isinstance(settings, Joint) else update)
    pairs = isinstance(settings, Pretrain)
    optimizer, schedule = settings.optimizer, settings.schedule
    found = {
        "kind": kind,
        "data": settings.data,
        "count": card.count,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "update": update,
        "updates": updates,
        "pairs": updates * update if pairs else 0,
        "triplets": triplets if not isinstance(own, Pretrain) else 0,
        "optimizer": optimizer.name,
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "schedule": schedule.kind,
        "warmup": schedule.warmup_updates,
        "precision": settings.precision,
        "objective": own.objective.name if not isinstance(own, Pretrain) else "clip",
        "adapter": settings.adapter.name if isinstance(settings, Align) else None,
        "adapter_options": settings.adapter.model_dump(mode="json")["options"] if isinstance(settings, Align) else {},
        # All of them, so that no two stages that differ can be told as one.
        "settings": settings.model_dump(mode="json"),
    }
    if isinstance(settings, Joint):
        found["triplet_count"] = loaded.cards[settings.auxiliary.data].count
    return found | {"operations": _operations(found, loaded.model.get("architecture", {}))}


def _operations(stage: Mapping[str, Any], architecture: Mapping[str, Any]) -> float | None:
    """Floating-point operations of a stage; None where the model is no pair of transformers that is counted here."""
    if parameter_count(architecture) is None:
        return None
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    patches = (vision.get("image_size", 224) // vision.get("patch_size", 16)) ** 2 + 1
    image = _tower(vision, patches, 768)
    caption = _tower(text, text.get("context_length", 77), 512)
    return float(3 * (stage["pairs"] * (image + caption) + stage["triplets"] * _IMAGES * image))


def _tower(config: Mapping[str, Any], tokens: int, width: int) -> float:
    """Operations of one sample forward."""
    width = config.get("width", width)
    weights = 4 * width * width + 2 * width * int(width * config.get("mlp_ratio", 4.0))
    return float(config.get("layers", 12) * (2 * weights * tokens + 4 * tokens * tokens * width))
