"""Running what was asked for: an experiment, or one stage for DVC. The driver with its surroundings."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import RequestError
from pi_repro.plan import captions, cost, params
from pi_repro.plan.graph import KINDS, Plan, build
from pi_repro.provenance.determinism_env import cores
from pi_repro.spec.experiment import WHOLE
from pi_repro.spec.loading import Loaded
from pi_repro.spec.validation import nearest

from . import cluster as clusters
from . import inspect, record, requirements, writer
from .cluster import Cluster
from .driver import Driver, Watcher
from .places import Places
from .runner import LocalRunner, Runner


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
        kinds = [kind for kind in KINDS if any(stage.kind == kind for stage in mine.stages)]
        guess = nearest(until, [*kinds, *(stage.name for stage in mine.stages)])
        raise RequestError(
            "no stage, and no kind of stage, of this experiment",
            where="--until",
            given=until,
            allowed=f"{', '.join(kinds)}, or the name of one stage",
            todo=f"did you mean {guess!r}?" if guess else f"see their names: pirepro plan {loaded.path}",
        )
    return mine.with_ancestors(names)


@dataclass(frozen=True)
class Prepared:
    """A run that nothing stands against.

    Attributes:
        part: the stages it concerns, on as many processes as were chosen.
        runner: who starts their jobs.
        parallel: jobs side by side.
    """

    part: Plan
    runner: Runner
    parallel: int


def prepare(loaded: Loaded, choice: Choice, places: Places, cluster: Cluster | None = None) -> Prepared:
    """Look at everything that would stop a run, and touch nothing.

    Raises:
        RequestError, StateError: when something asked for or needed is wrong.
    """
    if choice.processes is not None:
        loaded = loaded.on_processes(choice.processes)
    resources, plan = loaded.experiment.resources, build([loaded])
    part = chosen(plan, loaded, choice.until)
    complete = not refuse_if_missing(loaded, plan, places, cluster, part)
    runner = runner_of(cluster, complete and not choice.force)
    if cluster:
        wanted, room = choice.parallel or cluster.site.max_jobs, cluster.site.max_jobs
    else:
        wanted = resources.parallel if choice.parallel is None else choice.parallel
        # Jobs take the first GPUs of a machine, so that only one has its own.
        room = 1 if resources.gpus else max(1, cores() // resources.world)
    return Prepared(part, runner, min(wanted, room))


def run(loaded: Loaded, choice: Choice, places: Places, watcher: Watcher, cluster: Cluster | None = None) -> Driver:
    """Run an experiment, here or on a cluster, and have DVC record it.

    Raises:
        RequestError, StateError: when something asked for, needed or computed is wrong.
        Interrupted: after Ctrl-C.
    """
    with writer.driving(places, "run", cluster.name if cluster else None) as own:
        ready = prepare(loaded, choice, places, cluster)
        return drive(ready, loaded.path, choice, places, watcher, own, cluster)


def drive(
    ready: Prepared,
    asked: Path | None,
    choice: Choice,
    places: Places,
    watcher: Watcher,
    own: writer.Writer,
    cluster: Cluster | None,
) -> Driver:
    """Run what was prepared, and have DVC record it.

    Args:
        ready: what, and who starts its jobs.
        asked: the spec or card whose stages these are; enabled from now on. None: enabled already.
        own: the record of this driver.

    Raises:
        RequestError, StateError: when something computed is wrong.
        Interrupted: after Ctrl-C.
    """
    if cluster:
        clusters.remember(cluster, places)
        record.lock_for_shared_folders(places)
    if asked is not None:
        params.enable(places.workspace, asked)
    params.write(places.workspace, params.plan(places.workspace))
    recorder = record.Recorder(ready.part, places, lambda what: watcher.event("recording", what, "dvc.lock"))

    def each() -> None:
        own.check()
        if cluster:
            recorder.some(driver.published)

    driver = Driver(
        plan=ready.part,
        places=places,
        runner=ready.runner,
        parallel=ready.parallel,
        watcher=watcher,
        here=frozenset(cluster.site.here if cluster else ()),
        keep_going=choice.keep_going or cluster is not None,
        force=frozenset(stage.name for stage in ready.part.stages) if choice.force else frozenset(),
        each=each,
    )
    # A plain kill, and an interrupt where a shell made us deaf to it, stop as gently as Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        driver.run(_poll_s(cluster))
    finally:
        recorder.rest(driver.published)
    return driver


def run_stage(name: str, places: Places, watcher: Watcher, cluster: Cluster | None = None) -> None:
    """Run one stage, as `dvc repro` does; DVC itself records it.

    Raises:
        RequestError: when params.json is not what the specs say, or names no such stage.
        StateError: when something needed is missing, or another driver works here.
    """
    experiments = params.load_enabled(places.workspace)
    plan = build(experiments, params.load_datasets(places.workspace))
    if not params.is_current(places.workspace, plan):
        raise RequestError(
            "params.json is not what the specs say",
            where=str(places.workspace / params.PARAMS),
            todo="pirepro plan --write, then run again",
        )
    stage = plan.stage(name)
    with writer.driving(places, "stage", cluster.name if cluster else None) as own:
        complete = True
        for loaded in experiments:
            concerned = {item.name for item in plan.of(loaded.experiment.name).stages}
            if stage.experiment == loaded.experiment.name or (stage.experiment is None and name in concerned):
                complete &= not refuse_if_missing(loaded, plan, places, cluster, plan.with_ancestors({name}))
        if cluster:
            clusters.remember(cluster, places)
        driver = Driver(
            plan=plan.with_ancestors({name}),
            places=places,
            runner=runner_of(cluster, complete),
            parallel=cluster.site.max_jobs if cluster else 1,
            watcher=watcher,
            here=frozenset(cluster.site.here if cluster else ()),
            keep_going=cluster is not None,
            each=own.check,
        )
        driver.run(_poll_s(cluster))


def runner_of(cluster: Cluster | None, idle: bool) -> Runner:
    """Who starts jobs; a cluster is asked for nothing where nothing is to be started."""
    if cluster is None or idle:
        return LocalRunner()
    clusters.refuse_changed_code(cluster.places)
    return cluster.runner()


def _poll_s(cluster: Cluster | None) -> float:
    """Seconds between two looks at the store; SLURM is asked at the runner's own pace."""
    return min(1.0, cluster.site.poll_s) if cluster else 0.1


def refuse_if_missing(loaded: Loaded, plan: Plan, places: Places, cluster: Cluster | None, part: Plan) -> bool:
    """Stop before anything is touched when this machine, or the cluster, lacks what an experiment needs.

    Args:
        loaded: the experiment.
        plan: holds all of its stages.
        part: the stages that are to run.

    Returns:
        Whether anything is left to run.

    Raises:
        RequestError: a pretraining would read captions whose kind is not declared.
        StateError: naming all that is missing and what to type instead.
    """
    mine = plan.of(loaded.experiment.name)
    there = [state for state in inspect.states(mine, places) if state.bytes]
    if len(there) == len(mine.stages):
        return False
    estimate = cost.estimate(loaded.experiment, loaded.cards, loaded.model["architecture"])
    published, site = sum(state.bytes or 0 for state in there), cluster.name if cluster else None
    missing = requirements.check(
        loaded.experiment, loaded.cards, places, estimate, site=site, published_bytes=published
    )
    trained = {path for stage in part.stages if stage.kind in WHOLE for path in stage.deps.values()}
    pretrained_on = [card for card in loaded.cards.values() if f"data/{card.name}" in trained]
    unsaid = [error for card in pretrained_on if (error := captions.undeclared(card))]
    refused = requirements.refusal(missing, loaded.experiment.name, _shown(loaded.path, places), site)
    if unsaid:
        # The request is wrong wherever it is made; what is missing here is told along with it.
        raise RequestError("\n".join(str(error) for error in [*unsaid, *([refused] if missing else [])]))
    if missing:
        raise refused
    return True


def _shown(path: Path, places: Places) -> str:
    path = path.absolute()
    return str(path.relative_to(places.workspace)) if path.is_relative_to(places.workspace) else str(path)


def spec_path(given: Path, places: Places) -> Path:
    """A spec as a person names it: a path, or a name under specs/."""
    if given.exists() or given.suffix:
        return given
    return places.workspace / "specs" / f"{given}.yaml"
