"""verify: a recorded stage, or a stretch of a training, computed again in a clean place and compared.

Rule: neither store nor workspace is touched. The clean place has its own scratch and its own store, in
which the inputs' entries are links to the published ones; what was recorded stays outside of it, so that
nothing can be taken from there. It goes when the bits agree and stays, named, when they do not.
"""

from __future__ import annotations

import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import path_digest, read_json, write_json
from pi_repro.plan import params
from pi_repro.plan.graph import Plan
from pi_repro.plan.resolve import Resolved
from pi_repro.spec.fingerprint import environment_id
from pi_repro.stages.context import Stretch

from . import comparison, recorded, workspace
from .comparison import Comparison
from .driver import Running, Watcher, failure
from .job import Job, job_of
from .lease import Lease
from .places import Places
from .recorded import LEDGER, TRAINING, Recorded
from .runner import LocalRunner
from .store import Store

TRAININGS = ("initialize", "pretrain", "joint", "finetune")
_WISH = "verify.json"


@dataclass(frozen=True)
class Wish:
    """What to verify.

    Attributes:
        stage: its name.
        begin: of a stretch: updates done before it, 0 or those of a published state; None for the
            whole stage, or for 0 where `updates` is given.
        updates: how many the stretch has; None for all that are left.
        keep: folder for the rerun, which stays there; None for one in scratch that goes.
        processes: of the rerun, at most what the stage can share; None for what the spec says.
    """

    stage: str
    begin: int | None = None
    updates: int | None = None
    keep: Path | None = None
    processes: int | None = None


def verify(wish: Wish, places: Places, watcher: Watcher) -> Comparison:
    """Compute again and compare.

    Raises:
        RequestError: no such stage, a stretch that does not exist, or a `keep` folder that is in use.
        StateError: what is needed is not recorded, not here or damaged; or the rerun failed.
        Interrupted: after Ctrl-C.
    """
    plan = params.plan(places.workspace)
    stage = plan.stage(wish.stage)
    whole = wish.begin is None and wish.updates is None
    if not whole and stage.kind not in TRAININGS:
        raise _no_training(wish, plan)
    done = recorded.identities(plan.with_ancestors({wish.stage}), places)
    item = done[wish.stage]
    parents = sorted({name for names in plan.parents[wish.stage].values() for name in names})
    inputs = [done[name] for name in parents]
    if item.digest is not None and (missing := recorded.absent([*inputs, item], places)):
        raise recorded.away(wish.stage, missing)
    then = recorded.of_stage(item, places)
    stretch = None if whole else _stretch(wish, then)
    then.check(*([LEDGER, TRAINING] if stretch else [entry.path for entry in then.manifest.entries]))
    mode, device = stage.settings.get("mode", "exact"), stage.settings.get("device", "cpu")
    with _clean(wish, item, stretch, places) as clean:
        _show_inputs(inputs, places, clean)
        # Nobody watches the curves of a rerun.
        quiet = stage.resources.model_copy(update={"loggers": ()})
        job = replace(job_of(item, plan.parents[wish.stage], done, clean), stretch=stretch, resources=quiet)
        if wish.processes is not None:
            job = replace(job, processes=stage.on(wish.processes))
        now = _run(job, watcher)
        updates = (stretch.begin + 1, stretch.end) if stretch else None
        found = comparison.compare(then, now, wish.stage, updates=updates, mode=mode, device=device)
        if found.good and wish.keep is None:
            shutil.rmtree(_root(clean))
        return found


def _no_training(wish: Wish, plan: Plan) -> RequestError:
    names = [stage.name for stage in plan.stages if stage.kind in TRAININGS]
    return RequestError(
        "only a training has updates to begin from",
        where="--from-step, --steps",
        given=wish.stage,
        allowed=", ".join(names[:4]) + (" ..." if len(names) > 4 else "") or "none is enabled",
        todo=f"pirepro verify {wish.stage}",
    )


def _stretch(wish: Wish, then: Recorded) -> Stretch:
    """The stretch that is asked for, its state checked."""
    then.check(TRAINING)
    total, begin = int(then.training["updates"]), wish.begin or 0
    begins = [update for update in comparison.stretch_begins(then) if update < total]
    if begin not in begins:
        raise RequestError(
            "no full state of this update is published",
            where="--from-step",
            given=begin,
            allowed=" or ".join(map(str, begins)),
            todo="`publish_states` in the spec names the updates whose states a training publishes",
        )
    updates = total - begin if wish.updates is None else wish.updates
    if not 1 <= updates <= total - begin:
        raise RequestError(
            "the training has no such updates",
            where="--steps",
            given=updates,
            allowed=f"1 to {total - begin} from step {begin}, of {total} in all",
        )
    return Stretch(begin, updates, _state(then, begin) if begin else None)


def _state(then: Recorded, update: int) -> Path:
    row = next(row for row in then.training["states"] if row["update"] == update)
    folder = then.out / str(row["folder"])
    if path_digest(folder) != row["digest"]:
        raise StateError(
            f"damaged: not the state that {then.name} published after update {update}",
            where=str(folder),
            allowed=f"digest {row['digest']}",
            todo="`pirepro gc --damaged` removes what is damaged in the store; `dvc pull` brings it again",
        )
    return folder


@contextmanager
def _clean(wish: Wish, item: Resolved, stretch: Stretch | None, places: Places) -> Iterator[Places]:
    """Places of its own in an empty folder, or in one that an interrupted verification of the same left.

    Raises:
        RequestError: the folder holds something else.
        StateError: another process verifies there.
    """
    assert item.fingerprint is not None
    default = places.scratch / f"verify-{item.fingerprint[:16]}-{uuid.uuid4().hex[:8]}"
    root = wish.keep.absolute() if wish.keep else default
    begin, updates = (stretch.begin, stretch.updates) if stretch else (None, None)
    asked = {"fingerprint": item.fingerprint, "begin": begin, "updates": updates}
    clean = replace(places, scratch=root / "scratch", store=root / "store")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        resumes = (root / _WISH).is_file() and read_json(root / _WISH) == asked
        if not resumes or Store(clean.store).get(item.fingerprint):
            raise RequestError(
                "the folder to keep the rerun in is not empty",
                where="--keep",
                given=root,
                allowed="an empty or new folder, or that of an interrupted verification of the same",
            )
    # Held for as long as this process lives, so that `pirepro gc` leaves the folder alone.
    with Lease(root / "lease.json") as lease:
        if not lease.acquire():
            raise StateError("another process verifies there", where=str(root))
        write_json(root / _WISH, asked)
        try:
            yield clean
        except Interrupted:
            if wish.keep is None and stretch is not None:
                shutil.rmtree(root, ignore_errors=True)
            raise
        finally:
            if wish.keep is None and not clean.scratch.exists():
                shutil.rmtree(root, ignore_errors=True)  # nothing ran


def _root(clean: Places) -> Path:
    return clean.store.parent


def _show_inputs(inputs: list[Resolved], places: Places, clean: Places) -> None:
    """Link what the store has of the inputs; copy what only the workspace has, if its provenance vouches for it."""
    store, own = Store(places.store), Store(clean.store)
    own.root.mkdir(parents=True, exist_ok=True)
    for item in inputs:
        assert item.fingerprint is not None
        if own.get(item.fingerprint):
            continue
        published = store.get(item.fingerprint)
        if published:
            (own.root / item.fingerprint).symlink_to(published.folder.resolve(), target_is_directory=True)
        else:
            workspace.adopt(item.stage, item.fingerprint, item.payload, clean, own)


def _run(job: Job, watcher: Watcher) -> Recorded:
    """Run a job to its end.

    Raises:
        StateError, RequestError: it failed; its log says how.
        Interrupted: stopped by Ctrl-C or a plain kill, after the job saved its state.
    """
    root = _root(job.places)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    running = Running(job, LocalRunner().start(job))
    watcher.event("started", job.name, job.fingerprint)
    assert running.handle is not None
    try:
        while (status := running.handle.poll()) is None:
            watcher.tick({job.name: running}, 0, 0)
            time.sleep(0.1)
    except KeyboardInterrupt:
        running.handle.stop()
        while running.handle.poll() is None:
            time.sleep(0.05)
        raise _stopped(job, root) from None
    if status == Interrupted.exit_status:
        raise _stopped(job, root)
    published = Store(job.places.store).get(job.fingerprint)
    if status != 0 or published is None:
        kind = RequestError if status == RequestError.exit_status else StateError
        raise kind(failure(job, status), todo=f"what the rerun left is in {root}")
    provenance: Mapping[str, object] = published.provenance
    if provenance["environment"] is not None:
        # The job carries the identity of then; it ran in the environment of now.
        provenance = {**provenance, "environment": environment_id(job.places.workspace)}
    return Recorded(job.name, published.out, published.manifest, provenance)


def _stopped(job: Job, root: Path) -> Interrupted:
    if job.stretch is not None:
        return Interrupted("stopped; a stretch keeps nothing", todo="the same command begins it again")
    return Interrupted(
        "stopped; what was computed so far is kept",
        where=str(root),
        todo=f"the same command with --keep {root} goes on from there",
    )
