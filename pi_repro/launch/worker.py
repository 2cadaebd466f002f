"""The job's process: takes the lease, checks the inputs, runs the stage, publishes.

Started as `python -m pi_repro.launch.worker JOB.json` by the local runner; or by srun or torchrun, as several
processes, whose first does what one alone does and whose others only compute. In a container, what the image
holds is compared with what the host promised before any input is read.
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
from dataclasses import replace
from pathlib import Path

from pi_repro.errors import Interrupted, PireproError, RequestError, StateError
from pi_repro.files import sha256_file
from pi_repro.provenance import capture, image
from pi_repro.provenance.determinism_env import hide_strangers, threads_of_step
from pi_repro.stages.context import Processes, StageContext, silent

from . import job as jobs
from . import peers, progress, rollcall
from .heartbeat import BUSY as BUSY
from .job import Job
from .peers import Peers
from .rollcall import Attendance, RollCall
from .store import Store

#: verb -> module of the stage that does it.
MODULES = {
    "fetch": "fetch",
    "draw": "draw",
    "initialize": "align",
    "finetune": "align",
    "pretrain": "pretrain",
    "joint": "pretrain",
    "evaluate": "evaluate",
    "probe": "probe",
    "report": "report",
}
_BEGINS = "begins, fingerprint"


def main(path: Path) -> int:
    """Run a job file; returns the exit status."""
    stop = _stop_flag()
    peers.die_with_parent()
    job, processes = jobs.read(path), peers.here()
    rank = processes.rank if processes else 0
    os.environ.update(threads_of_step(job.payload["settings"].get("mode", "exact"), os.environ))
    if processes is not None and rank > 0:
        status = _status(job, rank, lambda log: follow(job, processes, stop, log))
        # The first says that the job was stopped; a launcher takes any other status for a failure, and kills.
        return 0 if status == Interrupted.exit_status else status
    with job.lease as lease:
        if not lease.acquire():
            return BUSY
        if Store(job.places.store).get(job.fingerprint) is not None:
            return 0
        return _status(job, 0, lambda log: run(job, path, processes, stop, log))


def _check(job: Job, processes: Processes | None) -> None:
    """What must be so before any input is read.

    Raises:
        StateError: the container holds something else than the image that the host promised.
        RequestError: there are more processes than the stage can use.
    """
    if expected := os.environ.get(image.EXPECTED):
        image.check(expected)
    if processes is not None and processes.size > job.processes:
        raise RequestError(
            "more processes than can share this stage",
            where=job.name,
            given=processes.size,
            allowed=f"{job.processes}, as its micro-batches and the spec's resources say",
        )


def _status(job: Job, rank: int, work: Callable[[logging.Logger], None]) -> int:
    """Do it; what goes wrong becomes a message in the log and an exit status."""
    log = _logger(job, rank)
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


def follow(job: Job, processes: Processes, stop: list[int], log: logging.Logger) -> None:
    """Compute beside the first process, which does all else."""
    _check(job, processes)
    stage = _stage(job)
    if processes.rendezvous not in (None, peers.TO_BE_SAID):  # started by the first, which watches it
        importlib.import_module(stage).run(_context(job, processes, stop, log))
        return
    ready = rollcall.wait_for_first(job, lambda: bool(stop))
    if ready is not None:
        with Attendance(ready, processes.rank, log):
            context = _context(job, replace(processes, rendezvous=ready.meet), stop, log)
            importlib.import_module(stage).run(context)


def run(job: Job, path: Path, processes: Processes | None, stop: list[int], log: logging.Logger) -> None:
    """Run a job's stage and publish its output.

    Args:
        job: what to run.
        path: its file.
        processes: this one among those that somebody else started; None to start the others here.
        stop: filled when it is asked to stop.
        log: of the job.

    Raises:
        StateError: when an input is damaged, by name, or the outputs differ from published ones.
        Interrupted: when it was asked to stop; running it again resumes.
    """
    log.info("%s %s %s%s", job.name, _BEGINS, job.fingerprint[:16], _restart())
    _check(job, processes)
    store = Store(job.places.store)
    _prepare_inputs(job, store)
    out = job.scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (job.scratch / "work").mkdir(exist_ok=True)
    if stop:
        raise Interrupted(f"{job.name} was asked to stop before it began; run again to go on")
    others = Peers(job, path, log) if processes is None else RollCall(job, processes, log)
    others.start()
    context = _context(job, others.processes, stop, log)
    begun, git = time.time(), capture.git_state(job.places.workspace)
    try:
        importlib.import_module(_stage(job)).run(context)
    except RuntimeError as error:
        if peers.lost_another(error):
            others.raise_if_lost()
        raise
    except Interrupted:
        if isinstance(others, RollCall):  # whoever started them kills those that are left
            others.part()
        raise
    others.end()
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
        attempts=attempts(job),
    )
    published = store.publish(job.fingerprint, job.payload, out, record)
    log.info("%s published %s in %.1f s", job.name, published.manifest.digest[:16], time.time() - begun)
    shutil.copyfile(job.log, published.folder / "log.txt")
    for leftover in (context.scratch, job.scratch / "inputs", job.scratch / progress.FILE):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def attempts(job: Job) -> int:
    """How often the job began since it was last published, as its log says."""
    count = 0
    for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines():
        if f" {job.name} {_BEGINS} " in line:
            count += 1
        elif f" {job.name} published " in line:
            count = 0
    return count


def _restart() -> str:
    """What SLURM says of a job that it queued again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"; restart {count} of SLURM job {os.environ.get('SLURM_JOB_ID')}" if count != "0" else ""


def _context(job: Job, processes: Processes, stop: list[int], log: logging.Logger) -> StageContext:
    os.environ["PIREPRO_DOWNLOADS"] = str(job.places.downloads)
    hide_strangers()
    first = processes.rank == 0
    return StageContext(
        name=job.name,
        settings=job.payload["settings"],
        inputs={**_inputs(job), **_given(job)},
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
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(published.out, target_is_directory=True)


def _inputs(job: Job) -> dict[str, Path]:
    """Each role's folder: what one stage published, or the links to what several did."""
    found = {}
    for role, rows in job.inputs.items():
        alone = [fingerprint for sub, fingerprint in rows if not sub]
        found[role] = job.places.store / alone[0] / "out" if alone else job.scratch / "inputs" / role
    return found


def _given(job: Job) -> dict[str, Path]:
    """Files beside the specs that a stage's settings name with their digests."""
    found = {}
    for role, entry in job.payload["settings"].get("given", {}).items():
        path = job.places.workspace / "specs" / entry["file"]
        if not path.is_file():
            raise StateError("a file that the spec gives is missing", where=str(path), todo="restore it")
        if (sha256 := sha256_file(path)) != entry["sha256"]:
            raise StateError(
                "a file that the spec gives has changed",
                where=str(path),
                given=sha256,
                allowed=entry["sha256"],
                todo="pirepro plan --write, then run again; or restore it",
            )
        found[role] = path
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
