"""params.json: the resolved settings that dvc.yaml iterates over, generated from specs/enabled.yaml.

That file lists experiments, and datasets that were fetched without one, so that DVC and `pirepro gc` know them too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, write_atomic, write_json
from pi_repro.spec import yamlfile
from pi_repro.spec.card import Card
from pi_repro.spec.loading import Loaded, load, load_card
from pi_repro.spec.validation import nearest

from . import probing
from .graph import KINDS, Plan, Stage, build

ENABLED = "specs/enabled.yaml"
PARAMS = "params.json"
#: A file below this folder is a card, any other a spec.
CARDS = Path("specs", "data")


def enabled(workspace: Path) -> list[Path]:
    """The specs whose results this workspace holds.

    Raises:
        RequestError: when specs/enabled.yaml is no list of spec files.
    """
    return [workspace / name for name in _listed(workspace)["experiments"]]


def datasets(workspace: Path) -> list[Path]:
    """The cards of what was fetched here without an experiment that names it.

    Raises:
        RequestError: when specs/enabled.yaml is not as it should be.
    """
    return [workspace / name for name in _listed(workspace)["datasets"]]


def _listed(workspace: Path) -> dict[str, list[str]]:
    file = yamlfile.load(workspace / ENABLED)
    content = file.data if isinstance(file.data, dict) else {}
    found = {"experiments": content.get("experiments"), "datasets": content.get("datasets", [])}
    for names in found.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RequestError("expected `experiments:` and a list of spec files", where=str(file.path))
    return found


def enable(workspace: Path, spec: Path) -> bool:
    """Add a spec, or a dataset's card, to the enabled ones; False when it was among them."""
    return _change(workspace, spec, add=True)


def disable(workspace: Path, spec: Path) -> bool:
    """Take a spec, or a dataset's card, out of the enabled ones; False when it was not among them."""
    return _change(workspace, spec, add=False)


def refuse_unlisted(workspace: Path, path: Path) -> None:
    """Refuse a name that is not among the enabled ones.

    Raises:
        RequestError: with those that are.
    """
    listed = [name for names in _listed(workspace).values() for name in names]
    if path.resolve() in {(workspace / name).resolve() for name in listed}:
        return
    guess = nearest(os.path.relpath(path.resolve(), workspace.resolve()), listed)
    raise RequestError(
        "no such file, and none of this name is enabled",
        given=path,
        allowed=", ".join(listed) or "nothing is enabled",
        todo=f"did you mean {guess!r}?" if guess else None,
    )


def is_card(workspace: Path, path: Path) -> bool:
    """Whether a file is a dataset's card, not a spec."""
    return path.resolve().parent == (workspace / CARDS).resolve()


def _change(workspace: Path, spec: Path, *, add: bool) -> bool:
    try:
        name = spec.resolve().relative_to(workspace.resolve()).as_posix()
    except ValueError:
        raise RequestError(
            "an enabled spec lies in the workspace",
            given=spec,
            allowed=f"a file below {workspace}",
            todo="copy it to specs/",
        ) from None
    listed = _listed(workspace)
    kind = "datasets" if is_card(workspace, spec) else "experiments"
    old = listed[kind]
    if (name in old) == add:
        return False
    listed[kind] = [*old, name] if add else [entry for entry in old if entry != name]
    # An addition that cannot be planned changes no file. A removal stands even where what is left cannot be planned:
    # of two broken specs, neither could be taken out otherwise.
    planned = _planned(workspace, listed) if add else None
    experiments, cards = listed["experiments"], listed["datasets"]
    lines = [
        "# The experiments whose results `dvc repro` rebuilds here; changed by `pirepro enable` and `disable`.",
        "experiments:" if experiments else "experiments: []",
        *(f"  - {entry}" for entry in experiments),
    ]
    if cards:
        lines += ["# Fetched by `pirepro data fetch`, and kept.", "datasets:", *(f"  - {entry}" for entry in cards)]
    write_atomic(workspace / ENABLED, ("\n".join(lines) + "\n").encode())
    write(workspace, planned or plan(workspace))
    return True


def load_enabled(workspace: Path) -> list[Loaded]:
    """All enabled experiments, checked."""
    return [load(path) for path in enabled(workspace)]


def load_datasets(workspace: Path) -> list[Card]:
    """The cards of all datasets listed besides, checked."""
    return [load_card(path) for path in datasets(workspace)]


def plan(workspace: Path) -> Plan:
    """The stage graph of all that is enabled."""
    return _planned(workspace, _listed(workspace))


def _planned(workspace: Path, listed: dict[str, list[str]]) -> Plan:
    experiments = [load(workspace / name) for name in listed["experiments"]]
    return build(experiments, [load_card(workspace / name) for name in listed["datasets"]])


def content(plan: Plan) -> dict[str, Any]:
    """What params.json holds for a plan: kind -> key -> settings, dependencies and output."""
    return {kind: {stage.key: item(stage) for stage in plan.stages if stage.kind == kind} for kind in KINDS}


def item(stage: Stage) -> dict[str, Any]:
    """One stage's entry, which dvc.lock records whole."""
    deps = dict(stage.deps)
    if stage.kind == "evaluate":
        # dvc.yaml refuses a list of dependencies, so there is room for two triplet sets; one fills both.
        deps.setdefault("triplets-1", deps.get("triplets-0", deps["suite"]))
        deps.setdefault("triplets-0", deps["triplets-1"])
    if stage.kind == "probe":
        deps = dict.fromkeys(probing.ROLES, deps["suite"]) | deps
    return {"settings": stage.settings, "deps": deps, "out": stage.out}


def write(workspace: Path, plan: Plan) -> bool:
    """Bring params.json up to date; False when it was."""
    if is_current(workspace, plan):
        return False
    write_json(workspace / PARAMS, content(plan))
    return True


def is_current(workspace: Path, plan: Plan) -> bool:
    """Whether params.json is what the specs say; a damaged one is not, so that writing it anew mends it."""
    try:
        found = read_json(workspace / PARAMS)
    except StateError:
        return False
    return bool(found == content(plan))
