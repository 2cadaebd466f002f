"""The driver: starts every stage whose inputs are published, waits, shows results in the workspace.

It decides nothing about bits and holds no state: killed at any moment and started again, it finds
what was published, attaches to jobs that still run, and starts what is left.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.plan.graph import Plan, Stage
from pi_repro.plan.resolve import Resolved, resolve
from pi_repro.spec.fingerprint import environment_id

from . import progress, workspace
from .job import Job, job_of
from .places import Places
from .runner import Handle, LocalHandle, Runner
from .store import Published, Store
from .worker import BUSY

Event = Literal[
    "published", "cached", "adopted", "restored", "started", "attached", "failed", "skipped", "stopped", "recording"
]

#: Stages side by side of kinds that run on the machine of a driver which dispatches the others.
_HERE = 4
#: Times that a stage is begun in vain because another process has it.
_BUSY_TIMES = 10
#: Lines shown of the begin, and of the end, of what a failed job said.
_ENDS = 20


@dataclass
class Running:
    """A job that the driver waits for; without a handle it belongs to another process."""

    job: Job
    handle: Handle | None
    since: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> progress.State | None:
        """How far the job is."""
        return progress.read(self.job.scratch)

    @property
    def note(self) -> str:
        """Where the job is, as its launcher says; empty when that is here."""
        return self.handle.note if self.handle else ""


@dataclass(frozen=True)
class Watcher:
    """What the driver tells whoever looks on."""

    event: Callable[[Event, str, str], None]
    tick: Callable[[dict[str, Running], int, int], None]


@dataclass
class Driver:
    """Runs the stages of a plan.

    Attributes:
        plan: what to run, in order.
        places: where things lie.
        runner: who starts jobs.
        parallel: jobs side by side.
        watcher: who is told.
        here: kinds that the runner runs on this machine though it dispatches the others: few at once, as the
            machine is then one that people share.
        force: names of stages to run even if published (the result must be the same bits).
        keep_going: go on with independent branches after a failure.
        each: called once a round, between looking and waiting.
        statuses: exit status of each failed stage.
    """

    plan: Plan
    places: Places
    runner: Runner
    parallel: int
    watcher: Watcher
    here: frozenset[str] = frozenset()
    force: frozenset[str] = frozenset()
    keep_going: bool = False
    each: Callable[[], None] = lambda: None

    statuses: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.places.store)
        self.environment = environment_id(self.places.workspace)
        self.done: dict[str, Resolved] = {}
        self.published: dict[str, Published] = {}
        self.running: dict[str, Running] = {}
        self.failed: dict[str, str] = {}
        self._forced = set(self.force)
        self._missing: set[str] = set()
        self._busy: Counter[str] = Counter()

    def run(self, poll_s: float = 0.1) -> None:
        """Run until everything is published or nothing more can be.

        Raises:
            PireproError: of the first failure, after running jobs were asked to stop (or, with
                keep_going, after all other branches ended).
        """
        try:
            while True:
                self._collect()
                if self.failed and not self.keep_going:
                    self._stop()
                    break
                started = self._advance()
                self.watcher.tick(self.running, len(self.published), len(self.plan.stages))
                self.each()
                if not self.running and not started:
                    break
                time.sleep(poll_s)
        except KeyboardInterrupt:
            raise self._interrupted(self._stop()) from None
        if self.failed:
            statuses = set(self.statuses.values())
            kind = Interrupted if 130 in statuses else RequestError if statuses == {2} else StateError
            raise kind("\n".join(self.failed.values()))

    def _advance(self) -> bool:
        """Resolve, show and start whatever can be; True if anything changed."""
        changed = False
        for stage in self.plan.stages:
            if stage.name in self.published or stage.name in self.running or stage.name in self.failed:
                continue
            parents = self.plan.parents[stage.name]
            names = [name for group in parents.values() for name in group]
            broken = [name for name in names if name in self.failed]
            if broken:
                self.failed[stage.name] = f"{stage.name}: not run, because {broken[0]} failed"
                self.watcher.event("skipped", stage.name, f"{broken[0]} failed")
                changed = True
                continue
            if any(name not in self.published for name in names):
                continue
            if stage.name in self._missing and not self._room(stage):
                continue  # looked for before; it waits for a free place
            resolved = resolve(stage, parents, self.done, self.environment, self.store.digest)
            if self._finish(resolved):
                changed = True
            elif self._room(stage):
                self._start(job_of(resolved, parents, self.done, self.places))
                changed = True
            else:
                self._missing.add(stage.name)
        return changed

    def _room(self, stage: Stage) -> bool:
        """Whether one more may start."""
        beside = sum(running.job.kind in self.here for running in self.running.values())
        return len(self.running) < self.parallel and (stage.kind not in self.here or beside < _HERE)

    def _finish(self, resolved: Resolved, how: Event = "cached") -> bool:
        """Show a stage that is published, or that the workspace holds; False when it must run."""
        stage, fingerprint = resolved.stage, resolved.fingerprint
        assert fingerprint is not None
        if stage.name in self._forced:
            return False
        published = self.store.get(fingerprint)
        if published is None and how == "cached":
            published = workspace.adopt(stage, fingerprint, resolved.payload, self.places, self.store)
            how = "adopted"
        if published is None:
            return False
        if workspace.show(stage, published, self.places) == "restored" and how == "cached":
            how = "restored"
        self.published[stage.name] = published
        self.done[stage.name] = Resolved(stage, resolved.payload, fingerprint, published.manifest.digest, ())
        self.watcher.event(how, stage.name, fingerprint)
        return True

    def _start(self, job: Job) -> None:
        holder = job.lease.holder()
        # A runner whose jobs outlive drivers finds its own again; of another's, only the lease tells.
        if holder is not None and not (self.runner.outlives and holder.get("slurm_job")):
            self.running[job.name] = Running(job, None)
            self.watcher.event("attached", job.name, job.fingerprint)
            return
        self._forced.discard(job.name)
        if job.name in self.force:
            self._set_aside(job)
        self.running[job.name] = Running(job, self.runner.start(job))
        self.watcher.event("started", job.name, job.fingerprint)

    def _set_aside(self, job: Job) -> None:
        """A forced stage publishes anew; what was published is kept to compare bits with."""
        old = self.store.get(job.fingerprint)
        if old is None:
            return
        aside = self.places.store / ".aside" / job.fingerprint
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        old.folder.rename(aside)

    def _collect(self) -> None:
        """Take in jobs that ended."""
        for name, running in list(self.running.items()):
            status = running.handle.poll() if running.handle else None
            if running.handle is None and running.job.lease.holder() is None:
                status = 0 if self.store.get(running.job.fingerprint) else BUSY
            if status is None:
                continue
            del self.running[name]
            # Someone else had it, or died with it: the next round attaches or starts.
            self._busy[name] += status == BUSY and running.handle is not None
            if status == BUSY and self._busy[name] < _BUSY_TIMES:
                continue
            stage = self.plan.stage(name)
            resolved = resolve(stage, self.plan.parents[name], self.done, self.environment, self.store.digest)
            if status == 0 and resolved.fingerprint == running.job.fingerprint:
                self._compare_forced(running.job)
            if status == 0 and self._finish(resolved, "published"):
                continue
            why = running.handle.why if running.handle else ""
            if status == BUSY:
                status, why = StateError.exit_status, _never_ours(running.job)
            # All is said now; at the end, which may be days later, only who failed and where to read on.
            self.watcher.event("stopped" if status == 130 else "failed", name, failure(running.job, status, why))
            how = "stopped, its state is saved" if status == 130 else f"failed, as told; log: {running.job.log}"
            self.failed[name], self.statuses[name] = f"{name}: {how}", status

    def _compare_forced(self, job: Job) -> None:
        aside = self.places.store / ".aside" / job.fingerprint
        if job.name not in self.force or not aside.is_dir():
            return
        before, after = Store(aside.parent).digest(job.fingerprint), self.store.digest(job.fingerprint)
        if before != after and job.payload["settings"].get("mode") != "fast":
            raise StateError(
                f"{job.name}: run again, it gave different bits; both are kept",
                where=str(aside),
                given=f"{after} now, {before} before",
                todo="compare the two provenance.json; please report it",
            )
        shutil.rmtree(aside)

    def _stop(self) -> int:
        """Ask every job that ends with this driver to save and stop, and wait for it; returns how many go on."""
        handles = [running.handle for running in self.running.values() if running.handle]
        ending = [handle for handle in handles if not self.runner.outlives or isinstance(handle, LocalHandle)]
        for handle in ending:
            handle.stop()
        for handle in ending:
            while handle.poll() is None:
                time.sleep(0.05)
        return len(handles) - len(ending)

    def _interrupted(self, left: int) -> Interrupted:
        if not self.runner.outlives:
            return Interrupted(
                "stopped; every running stage saved its state", todo="run the same command again to go on"
            )
        return Interrupted(
            f"no longer waiting; jobs that go on in SLURM: {left}",
            todo="run the same command again (--detach: in the background, followed by pirepro attach) to go on;\n"
            "           pirepro status looks, pirepro cancel stops the jobs",
        )


def _never_ours(job: Job) -> str:
    return (
        f"{_BUSY_TIMES} times another process had it when it began, and was gone when the driver looked\n"
        f"to do:   see who writes {job.lease.path}, then run again"
    )


def failure(job: Job, status: int, why: str = "") -> str:
    """What a failed job says for itself: the message it ended with, cut in its middle, and where the rest stands.

    Args:
        job: which.
        status: it ended with.
        why: what its launcher adds.
    """
    told = [f"  {line}" for line in why.splitlines()]
    if status == 130:
        return "\n".join([f"{job.name}: stopped, its state is saved", *told])
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines() if job.log.is_file() else []
    errors = job.scratch / "stderr.txt"
    if status < 0 or not lines:
        lines += errors.read_text(encoding="utf-8", errors="replace").splitlines()[-8:] if errors.is_file() else []
        lines.append(f"killed by signal {-status}" if status < 0 else f"ended with status {status}")
    attempt = max((number for number, line in enumerate(lines) if " begins, fingerprint " in line), default=0)
    errors_at = (number for number, line in enumerate(lines) if number >= attempt and " E " in line[:24])
    said = lines[next(errors_at, max(0, len(lines) - 8)) :]
    if len(said) > 2 * _ENDS:  # every process of a large job may add a traceback
        said = [*said[:_ENDS], f"... {len(said) - 2 * _ENDS} lines more ...", *said[-_ENDS:]]
    return "\n".join([f"{job.name} failed:", *(f"  {line}" for line in said), *told, f"  log:     {job.log}"])
