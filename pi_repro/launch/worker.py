"""The job's process: takes the lease, checks the inputs, runs the stage, publishes.

Started as `python -m pi_repro.launch.worker JOB.json` by the local runner or a SLURM batch script; or as
several processes by torchrun, whose first does what one alone does and whose others only compute.
Exit status: 0 published, 2 and 3 as everywhere, 75 another process has the lease, 130 stopped and resumable.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pi_repro.errors import Interrupted, PireproError, RequestError, StateError
from pi_repro.provenance import capture
from pi_repro.provenance.determinism_env import hide_strangers
from pi_repro.stages.context import Processes, StageContext, silent

from . import job as jobs
from . import peers, progress
from .job import Job
from .peers import Peers
from .store import Store

BUSY = 75

#: verb -> module of the stage that does it.
MODULES = {
    "fetch": "fetch",
    "draw": "draw",
    "initialize": "align",
    "finetune": "align",
    "pretrain": "pretrain",
    "evaluate": "evaluate",
    "report": "report",
}


def main(path: Path) -> int:
    """Run a job file; returns the exit status."""
    peers.die_with_parent()
    job, processes = jobs.read(path), peers.here()
    if processes is not None and processes.rank > 0:
        return _status(job, _logger(job, processes.rank), lambda log: follow(job, processes, log))
    with job.lease as lease:
        if not lease.acquire():
            return BUSY
        if Store(job.places.store).get(job.fingerprint) is not None:
            return 0
        return _status(job, _logger(job), lambda log: run(job, path, processes, log))


def _status(job: Job, log: logging.Logger, work: Callable[[logging.Logger], None]) -> int:
    """Do it; what goes wrong becomes a message in the log and an exit status."""
    try:
        work(log)
        return 0
    except PireproError as error:
        log.error("%s", error)
        return error.exit_status
    except (OSError, MemoryError) as error:
        log.error("%s: this machine refused: %s", job.name, error or "out of memory")
        return StateError.exit_status
    except Exception as error:
        if peers.lost_another(error):
            log.error("%s: another process of this job was lost: %s", job.name, str(error).splitlines()[0])
            return StateError.exit_status
        log.error("%s", traceback.format_exc())
        log.error("%s failed by a defect of this package; the lines above say where", job.name)
        return 1


def follow(job: Job, processes: Processes, log: logging.Logger) -> None:
    """Compute beside the first process, which does all else."""
    if processes.size > job.processes:
        raise RequestError(
            "more processes than can share this stage",
            where=job.name,
            given=processes.size,
            allowed=f"{job.processes}, as its micro-batches and the spec's resources say",
        )
    if processes.rendezvous is None and not peers.wait_for_first(job):
        return
    importlib.import_module(_stage(job)).run(_context(job, processes, _stop_flag(), log))


def run(job: Job, path: Path, processes: Processes | None, log: logging.Logger) -> None:
    """Run a job's stage and publish its output.

    Args:
        job: what to run.
        path: its file.
        processes: this one among those that somebody else started; None to start the others here.
        log: of the job.

    Raises:
        StateError: when an input is damaged, by name, or the outputs differ from published ones.
        Interrupted: when it was asked to stop; running it again resumes.
    """
    stop = _stop_flag()
    log.info("%s begins, fingerprint %s", job.name, job.fingerprint[:16])
    store = Store(job.places.store)
    _prepare_inputs(job, store)
    out = job.scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (job.scratch / "work").mkdir(exist_ok=True)
    started = Peers(job, path, log)
    if processes is None:
        started.start()
    else:
        peers.announce(job)
    context = _context(job, processes or started.processes, stop, log)
    begun, git = time.time(), capture.git_state(job.places.workspace)
    try:
        importlib.import_module(_stage(job)).run(context)
    except RuntimeError as error:
        if processes is None and peers.lost_another(error):
            started.raise_if_lost()
        raise
    started.end()
    if stop:
        raise Interrupted(f"{job.name} was asked to stop before it was published; run again to resume")
    record = capture.record(
        job.name,
        job.payload,
        job.places.workspace,
        begun,
        git=git,
        processes=context.processes.size,
        device=context.settings.get("device", "cpu"),
    )
    published = store.publish(job.fingerprint, job.payload, out, record)
    log.info("%s published %s in %.1f s", job.name, published.manifest.digest[:16], time.time() - begun)
    shutil.copyfile(job.log, published.folder / "log.txt")
    for leftover in (context.scratch, job.scratch / "inputs", job.scratch / progress.FILE):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _context(job: Job, processes: Processes, stop: list[int], log: logging.Logger) -> StageContext:
    os.environ["PIREPRO_DOWNLOADS"] = str(job.places.downloads)
    hide_strangers()
    first = processes.rank == 0
    return StageContext(
        name=job.name,
        settings=job.payload["settings"],
        inputs=_inputs(job),
        scratch=job.scratch / "work",
        out=job.scratch / "out",
        resources=job.resources,
        processes=processes,
        stretch=job.stretch,
        data_root=job.places.data_root,
        progress=progress.Writer(job.scratch) if first else silent,
        should_stop=lambda: bool(stop),
        log=log,
    )


def _stop_flag() -> list[int]:
    """A list that a request to stop fills."""
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _frame: stop.append(signum))
    return stop


def _stage(job: Job) -> str:
    return f"pi_repro.stages.{MODULES[job.kind]}"


def _prepare_inputs(job: Job, store: Store) -> None:
    """Link each role's folders, every byte of them compared with what was published."""
    checked: set[str] = set()
    for role, rows in job.inputs.items():
        folder = job.scratch / "inputs" / role
        folder.mkdir(parents=True, exist_ok=True)
        for sub, fingerprint in rows:
            published = store.get(fingerprint)
            if published is None:
                raise PireproError(f"{job.name}: its input {role} vanished from the store")
            if fingerprint not in checked:
                published.check(f"the input {role!r}")
                checked.add(fingerprint)
            if sub:
                link = folder / sub
                link.unlink(missing_ok=True)
                link.symlink_to(published.out, target_is_directory=True)


def _inputs(job: Job) -> dict[str, Path]:
    """Each role's folder: what one stage published, or the links to what several did."""
    found = {}
    for role, rows in job.inputs.items():
        alone = [fingerprint for sub, fingerprint in rows if not sub]
        found[role] = job.places.store / alone[0] / "out" if alone else job.scratch / "inputs" / role
    return found


def _logger(job: Job, rank: int = 0) -> logging.Logger:
    """Plain lines in the job's log; processes after the first say only what goes wrong."""
    log = logging.getLogger("pirepro")
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False
    handler = logging.FileHandler(job.log, encoding="utf-8")
    mark = f"[process {rank}] " if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname).1s {mark}%(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers = [handler]
    return log


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
