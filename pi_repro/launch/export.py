"""Handing weights over: finds what is known of a weights folder, then lets the evaluation room write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pi_repro.plan import graph, params
from pi_repro.spec.loading import Loaded

from .places import Places


def export(weights: Path, destination: Path, epoch: int | None, places: Places) -> Path:
    """Write open_clip-loadable weights with a model card.

    Args:
        weights: folder of a draw, initialize, pretrain or finetune stage.
        destination: a folder that is absent or empty.
        epoch: a kept epoch; None for the last.

    Raises:
        RequestError, StateError: when the epoch was not kept, the folder is in use, or weights are damaged.
    """
    from pi_repro.evaluation import export as room

    return room.export(weights, "last" if epoch is None else epoch, destination, **_known(weights, places))


def _known(weights: Path, places: Places) -> dict[str, Any]:
    """Recipe, data cards, results and notice, when the folder belongs to an enabled experiment."""
    for loaded in params.load_enabled(places.workspace):
        for stage in graph.build([loaded]).stages:
            if (places.workspace / stage.out).resolve() == weights.resolve():
                return {
                    "recipe": stage.settings,
                    "cards": [card.model_dump(mode="json") for card in _used(loaded, stage.deps)],
                    "results": _results(loaded, stage.out, places),
                    "notice": loaded.experiment.notice,
                }
    return {}


def _used(loaded: Loaded, deps: Any) -> list[Any]:
    names = {path.removeprefix("data/") for path in deps.values()}
    return [card for name, card in loaded.cards.items() if name in names]


def _results(loaded: Loaded, out: str, places: Places) -> Path | None:
    """The evaluation of these weights, where there is one."""
    for stage in graph.build([loaded]).stages:
        if stage.kind == "evaluate" and stage.deps["weights"] == out:
            folder = places.workspace / stage.out
            return folder if (folder / "evaluation.json").is_file() else None
    return None
