"""Judging a checkpoint that a user brings: finds the suite, then hands over to the evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.files import write_json
from pi_repro.provenance.determinism_env import ENVIRONMENT, hide_strangers

from .places import Places


def evaluate(weights: str, suite: str, model: str | None, output: Path | None, places: Places) -> dict[str, Any]:
    """Results by set of any checkpoint on a fetched suite.

    Raises:
        RequestError: when the suite is not there, or the weights cannot be used.
    """
    folder = Path(suite) if Path(suite).is_dir() else places.workspace / "data" / suite
    if not (folder / "suite.json").is_file():
        found = sorted(path.parent.name for path in (places.workspace / "data").glob("*/suite.json"))
        raise RequestError(
            "no such suite here",
            given=suite,
            allowed=", ".join(found) or "none is fetched yet",
            todo="fetch one: pirepro run specs/demo.yaml --until fetch",
        )
    if output is not None and not output.parent.is_dir():
        raise RequestError("no such folder", where=str(output.parent), todo="create it first")
    os.environ.update(ENVIRONMENT)  # before torch is imported
    if model is None and Path(weights).is_file():
        hide_strangers()  # the models of this package need none
    from pi_repro.evaluation.candidate import evaluate_weights

    results = evaluate_weights(weights, folder, model=model)
    if output is not None:
        write_json(output, results)
    return results
