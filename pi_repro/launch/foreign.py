"""Judging a checkpoint that a user brings: finds the suite, then hands over to the evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.files import read_json, write_json
from pi_repro.provenance.determinism_env import ENVIRONMENT, hide_strangers

from . import published
from .places import Places


def evaluate(
    weights: str,
    suite: str,
    model: str | None,
    output: Path | None,
    places: Places,
    against: published.Row | None = None,
) -> dict[str, Any]:
    """Results by set of any checkpoint on a fetched suite.

    Args:
        against: judge only the sets of this published row.

    Raises:
        RequestError: when the suite is not there or holds no set of the row, or the weights cannot be used.
    """
    folder = Path(suite) if Path(suite).is_dir() else places.workspace / "data" / suite
    if not (folder / "suite.json").is_file():
        found = sorted(path.parent.name for path in (places.workspace / "data").glob("*/suite.json"))
        raise RequestError(
            "no such suite here",
            given=suite,
            allowed=", ".join(found) or "none is fetched yet",
            todo="fetch one: pirepro data fetch NAME (pirepro data list names them)",
        )
    if output is not None and not output.parent.is_dir():
        raise RequestError("no such folder", where=str(output.parent), todo="create it first")
    sets: tuple[str, ...] = ()
    if against is not None:
        offered = tuple(entry["id"] for entry in read_json(folder / "suite.json")["sets"])
        sets = published.sets_of(against, offered, str(folder))
    os.environ.update(ENVIRONMENT)  # before torch is imported
    if model is None and Path(weights).is_file():
        hide_strangers()  # the models of this package need none
    from pi_repro.evaluation.candidate import evaluate_weights

    results = evaluate_weights(weights, folder, model=model, sets=sets, data_root=places.data_root)
    if output is not None:
        write_json(output, results)
    return results
