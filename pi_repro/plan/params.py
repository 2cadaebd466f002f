"""params.json: the resolved settings that dvc.yaml iterates over, generated from specs/enabled.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.files import read_json, write_atomic, write_json
from pi_repro.spec import yamlfile
from pi_repro.spec.loading import Loaded, load

from .graph import KINDS, Plan, Stage, build

ENABLED = "specs/enabled.yaml"
PARAMS = "params.json"


def enabled(workspace: Path) -> list[Path]:
    """The specs whose results this workspace holds.

    Raises:
        RequestError: when specs/enabled.yaml is no list of spec files.
    """
    file = yamlfile.load(workspace / ENABLED)
    names = file.data.get("experiments") if isinstance(file.data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError("expected `experiments:` and a list of spec files", where=str(file.path))
    return [workspace / name for name in names]


def enable(workspace: Path, spec: Path) -> bool:
    """Add a spec to the enabled ones; False when it was among them."""
    return _change(workspace, spec, add=True)


def disable(workspace: Path, spec: Path) -> bool:
    """Take a spec out of the enabled ones; False when it was not among them."""
    return _change(workspace, spec, add=False)


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
    old = [path.relative_to(workspace).as_posix() for path in enabled(workspace)]
    if (name in old) == add:
        return False
    new = [*old, name] if add else [entry for entry in old if entry != name]
    lines = [
        "# The experiments whose results `dvc repro` rebuilds here; changed by `pirepro enable` and `disable`.",
        "experiments:" if new else "experiments: []",
        *(f"  - {entry}" for entry in new),
    ]
    write_atomic(workspace / ENABLED, ("\n".join(lines) + "\n").encode())
    write(workspace, plan(workspace))
    return True


def load_enabled(workspace: Path) -> list[Loaded]:
    """All enabled experiments, checked."""
    return [load(path) for path in enabled(workspace)]


def plan(workspace: Path) -> Plan:
    """The stage graph of all enabled experiments."""
    return build(load_enabled(workspace))


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
    return {"settings": stage.settings, "deps": deps, "out": stage.out}


def write(workspace: Path, plan: Plan) -> bool:
    """Bring params.json up to date; False when it was."""
    if is_current(workspace, plan):
        return False
    write_json(workspace / PARAMS, content(plan))
    return True


def is_current(workspace: Path, plan: Plan) -> bool:
    """Whether params.json is what the specs say."""
    path = workspace / PARAMS
    return path.is_file() and read_json(path) == content(plan)
