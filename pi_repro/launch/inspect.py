"""What is there: the state of every stage, and why it would run, read from store, workspace and dvc.lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pi_repro.files import read_json
from pi_repro.plan import params
from pi_repro.plan.explain import Change, changes
from pi_repro.plan.graph import Plan, Stage
from pi_repro.plan.resolve import Resolved, resolve
from pi_repro.spec.fingerprint import environment_id

from . import progress, record, workspace
from .lease import Lease
from .places import Places
from .store import Store

Kind = Literal["published", "in workspace", "running", "queued", "stale", "missing", "waiting"]

#: Asks a cluster about fingerprints: what it says of those that have a live job; None when it does not answer.
View = Callable[[Iterable[str]], Mapping[str, str] | None]

#: Note of a stage that was submitted, whose job may wait or run for all that is known.
SILENT = "SLURM does not answer"

#: Note of a stage whose identity is that of the git-tracked provenance, such as in a fresh clone.
AWAY = "recorded, not here: dvc pull, or run"


@dataclass(frozen=True)
class State:
    """A stage and what is known of it.

    Attributes:
        stage: the stage.
        kind: published (in the store), in workspace (pulled; adopted when needed), running, queued, stale
            (recorded with other settings), missing (never recorded, or AWAY), or waiting (an input does not exist
            yet).
        note: the changed fields, the progress, what its cluster says (or SILENT), or what it waits for.
        fingerprint: None while waiting.
        bytes: size of what was published.
    """

    stage: Stage
    kind: Kind
    note: str
    fingerprint: str | None
    bytes: int | None


def states(plan: Plan, places: Places, view: View | None = None) -> list[State]:
    """The state of every stage of a plan; a cluster is asked once for all that were submitted."""
    entries = record.recorded(places)
    done = _resolve(plan, places)
    submitted = [
        item.fingerprint
        for item in done.values()
        if view
        and item.fingerprint
        and item.digest is None
        and (places.scratch / item.fingerprint / "attempts").is_dir()
    ]
    queue = view(submitted) if view and submitted else {}
    if queue is None:
        found = [_state(done[stage.name], places, entries.get(stage.name)) for stage in plan.stages]
        return [
            replace(state, note=SILENT) if state.fingerprint in submitted and state.kind != "running" else state
            for state in found
        ]
    return [_state(done[stage.name], places, entries.get(stage.name), queue) for stage in plan.stages]


def fingerprints(plan: Plan, places: Places) -> set[str]:
    """Fingerprints that a plan asks for, as far as they are known."""
    return {item.fingerprint for item in _resolve(plan, places).values() if item.fingerprint}


def _resolve(plan: Plan, places: Places) -> dict[str, Resolved]:
    environment, store = environment_id(places.workspace), Store(places.store)
    done: dict[str, Resolved] = {}
    for stage in plan.stages:
        item = resolve(stage, plan.parents[stage.name], done, environment, store.digest)
        if item.fingerprint and item.digest is None:
            # What was pulled counts as there: its provenance names the digest.
            vouched = _vouched(stage, item.fingerprint, places)
            item = Resolved(stage, item.payload, item.fingerprint, vouched, ())
        done[stage.name] = item
    return done


def _vouched(stage: Stage, fingerprint: str, places: Places) -> str | None:
    if not (places.workspace / stage.out).is_dir():
        return None
    content = _provenance(stage, places)
    return content.get("outputs") if content.get("fingerprint") == fingerprint else None


def _provenance(stage: Stage, places: Places) -> Mapping[str, Any]:
    """What git tracks of a stage; empty when nothing."""
    path = workspace.provenance_path(places, stage)
    return read_json(path) if path.is_file() else {}


def identified(plan: Plan, name: str, places: Places) -> Resolved:
    """A stage with its fingerprint, as far as it is known.

    Raises:
        RequestError: when there is no such stage.
    """
    plan.stage(name)
    return _resolve(plan.with_ancestors({name}), places)[name]


def _state(
    item: Resolved, places: Places, entry: Mapping[str, Any] | None, queue: Mapping[str, str] | None = None
) -> State:
    stage = item.stage
    if item.fingerprint is None:
        return State(stage, "waiting", f"for {_some(item.waiting_for)}", None, None)
    published = Store(places.store).get(item.fingerprint)
    if published:
        return State(stage, "published", "", item.fingerprint, published.manifest.bytes)
    folder, queued = places.scratch / item.fingerprint, (queue or {}).get(item.fingerprint, "")
    if Lease(folder / "lease.json").holder() is not None:
        reading = progress.read(folder)
        note = f"{reading.done:,} of {reading.total:,} {reading.unit}" if reading else "begins"
        return State(stage, "running", ", ".join(filter(None, (note, queued))), item.fingerprint, None)
    if queued:
        return State(stage, "queued", queued, item.fingerprint, None)
    if item.digest is not None:
        return State(stage, "in workspace", "pulled; provenance agrees", item.fingerprint, None)
    if _provenance(stage, places).get("fingerprint") == item.fingerprint:
        return State(stage, "missing", AWAY, item.fingerprint, None)
    if entry:
        found = _changes(stage, entry)
        note = ", ".join(change.field for change in found[:3]) + (" ..." if len(found) > 3 else "")
        return State(stage, "stale", f"changed: {note or 'an input or the environment'}", item.fingerprint, None)
    return State(stage, "missing", "", item.fingerprint, None)


def _some(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@dataclass(frozen=True)
class Explanation:
    """Why a stage would run.

    Attributes:
        state: its state now.
        settings: settings that differ from those recorded in dvc.lock.
        inputs: digests, inputs by role, or the environment, that differ from the recorded provenance.
        recorded: whether the stage was ever recorded here.
    """

    state: State
    settings: list[Change]
    inputs: list[Change]
    recorded: bool


def explain(plan: Plan, name: str, places: Places) -> Explanation:
    """Why a stage would run.

    Raises:
        RequestError: when there is no such stage.
    """
    stage = plan.stage(name)
    part = plan.with_ancestors({name})
    done = _resolve(part, places)
    entry = record.recorded(places).get(name)
    before = _provenance(stage, places)
    now = done[name].payload or {}
    inputs = []
    if before:
        for field in ("inputs", "environment"):
            if field in before and field in now:
                inputs += changes(before[field], now[field], field)
    return Explanation(
        _state(done[name], places, entry), _changes(stage, entry) if entry else [], inputs, bool(entry or before)
    )


def _changes(stage: Stage, entry: Mapping[str, Any]) -> list[Change]:
    recorded = entry.get("params", {}).get(params.PARAMS, {}).get(f"{stage.kind}.{stage.key}", {})
    return changes(recorded.get("settings", {}), stage.settings)
