"""Running what was asked for: an experiment, or one stage for DVC. The driver with its surroundings."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import RequestError, StateError
from pi_repro.plan import cost, params
from pi_repro.plan.graph import Plan, build
from pi_repro.provenance.determinism_env import cores
from pi_repro.spec.loading import Loaded

from . import inspect, record, requirements
from .driver import Driver, Watcher
from .lease import Lease
from .places import Places
from .runner import LocalRunner


@dataclass(frozen=True)
class Choice:
    """What to run of an experiment, and how.

    Attributes:
        until: stop after this stage and what it depends on; None for all.
        force: run stages again though published; their bits must come out the same.
        keep_going: let independent branches finish after a failure.
        parallel: stages side by side; None for what the spec says, at most what the cores allow.
        processes: of one job; None for what the spec says.
    """

    until: str | None = None
    force: bool = False
    keep_going: bool = False
    parallel: int | None = None
    processes: int | None = None


def chosen(plan: Plan, loaded: Loaded, until: str | None) -> Plan:
    """The part of a plan that a run concerns.

    Raises:
        RequestError: when `until` names no stage of the experiment.
    """
    mine = plan.of(loaded.experiment.name)
    if until is None:
        return mine
    names = {stage.name for stage in mine.stages if until in (stage.name, stage.kind)}
    if not names:
        mine.stage(until)
    return mine.with_ancestors(names)


def run(loaded: Loaded, choice: Choice, places: Places, watcher: Watcher) -> Driver:
    """Run an experiment on this machine and have DVC record it.

    Raises:
        RequestError, StateError: when something asked for, needed or computed is wrong.
        Interrupted: after Ctrl-C.
    """
    if choice.processes is not None:
        loaded = loaded.on_processes(choice.processes)
    resources = loaded.experiment.resources
    with only_driver(places):
        part = chosen(build([loaded]), loaded, choice.until)
        refuse_if_missing(loaded, build([loaded]), places)
        params.enable(places.workspace, loaded.path)
        params.write(places.workspace, params.plan(places.workspace))
        wanted = resources.parallel if choice.parallel is None else choice.parallel
        # Jobs take the first GPUs of a machine, so that only one has its own.
        room = 1 if resources.gpus else max(1, cores() // resources.world)
        driver = Driver(
            plan=part,
            places=places,
            runner=LocalRunner(),
            parallel=min(wanted, room),
            watcher=watcher,
            keep_going=choice.keep_going,
            force=frozenset(stage.name for stage in part.stages) if choice.force else frozenset(),
        )
        # A plain kill, and an interrupt where a shell made us deaf to it, stop as gently as Ctrl-C.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        try:
            driver.run()
        finally:
            wanting = {
                *record.unrecorded(part, driver.published, places),
                *record.uncached(part, driver.published, places),
            }
            names = [stage.name for stage in part.stages if stage.name in wanting]
            if names:
                watcher.event("recording", f"{len(names)} stages", "dvc.lock")
                record.record(names, places)
        return driver


def run_stage(name: str, places: Places, watcher: Watcher) -> None:
    """Run one stage, as `dvc repro` does; DVC itself records it.

    Raises:
        RequestError: when params.json is not what the specs say, or names no such stage.
        StateError: when something needed is missing.
    """
    experiments = params.load_enabled(places.workspace)
    plan = build(experiments)
    if not params.is_current(places.workspace, plan):
        raise RequestError(
            "params.json is not what the specs say",
            where=str(places.workspace / params.PARAMS),
            todo="pirepro plan --write, then run again",
        )
    stage = plan.stage(name)
    for loaded in experiments:
        concerned = {item.name for item in plan.of(loaded.experiment.name).stages}
        if stage.experiment == loaded.experiment.name or (stage.experiment is None and name in concerned):
            refuse_if_missing(loaded, plan, places)
    driver = Driver(plan=plan.with_ancestors({name}), places=places, runner=LocalRunner(), parallel=1, watcher=watcher)
    driver.run()


def refuse_if_missing(loaded: Loaded, plan: Plan, places: Places) -> None:
    """Stop before anything is touched when this machine lacks what an experiment needs.

    Raises:
        StateError: naming all that is missing and what to type instead.
    """
    mine = plan.of(loaded.experiment.name)
    there = [state for state in inspect.states(mine, places) if state.bytes]
    if len(there) == len(mine.stages):
        return
    estimate = cost.estimate(loaded.experiment, loaded.cards, loaded.model["architecture"])
    published = sum(state.bytes or 0 for state in there)
    missing = requirements.check(loaded.experiment, loaded.cards, places, estimate, published_bytes=published)
    if missing:
        raise requirements.refusal(missing, loaded.experiment.name, _shown(loaded.path, places))


def _shown(path: Path, places: Places) -> str:
    path = path.absolute()
    return str(path.relative_to(places.workspace)) if path.is_relative_to(places.workspace) else str(path)


@contextmanager
def only_driver(places: Places) -> Iterator[None]:
    """One driver a workspace.

    Raises:
        StateError: naming the other one.
    """
    lease = Lease(places.state / "driver.json")
    if not lease.acquire():
        holder = lease.holder() or {}
        raise StateError(
            "another `pirepro run` drives this workspace",
            where=str(places.workspace),
            given=f"process {holder.get('pid', '?')} on {holder.get('host', '?')}",
            todo="wait for it, or stop it with Ctrl-C there; its jobs keep their state",
        )
    with lease:
        yield


def spec_path(given: Path, places: Places) -> Path:
    """A spec as a person names it: a path, or a name under specs/."""
    if given.exists() or given.suffix:
        return given
    return places.workspace / "specs" / f"{given}.yaml"
