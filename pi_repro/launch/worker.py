"""The job's process: takes the lease, checks the inputs, runs the stage, publishes.

Started as `python -m pi_repro.launch.worker JOB.json` by the local runner or a SLURM batch script.
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
from pathlib import Path

from pi_repro.errors import Interrupted, PireproError, StateError
from pi_repro.provenance import capture
from pi_repro.stages.context import StageContext

from . import job as jobs
from . import progress
from .job import Job
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
    job = jobs.read(path)
    with job.lease as lease:
        if not lease.acquire():
            return BUSY
        log = _logger(job)
        try:
            if Store(job.places.store).get(job.fingerprint) is not None:
                return 0
            run(job, log)
            return 0
        except PireproError as error:
            log.error("%s", error)
            return error.exit_status
        except (OSError, MemoryError) as error:
            log.error("%s: this machine refused: %s", job.name, error or "out of memory")
            return StateError.exit_status
        except Exception:
            log.error("%s", traceback.format_exc())
            log.error("%s failed by a defect of this package; the lines above say where", job.name)
            return 1


def run(job: Job, log: logging.Logger) -> None:
    """Run a job's stage and publish its output.

    Raises:
        StateError: when an input is damaged, by name, or the outputs differ from published ones.
        Interrupted: when it was asked to stop; running it again resumes.
    """
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _frame: stop.append(signum))
    store = Store(job.places.store)
    inputs = _inputs(job, store)
    out = job.scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ["PIREPRO_DOWNLOADS"] = str(job.places.downloads)
    context = StageContext(
        name=job.name,
        settings=job.payload["settings"],
        inputs=inputs,
        scratch=job.scratch / "work",
        out=out,
        resources=job.resources,
        data_root=job.places.data_root,
        progress=progress.Writer(job.scratch),
        should_stop=lambda: bool(stop),
        log=log,
    )
    context.scratch.mkdir(exist_ok=True)
    _hide_strangers()
    log.info("%s begins, fingerprint %s", job.name, job.fingerprint[:16])
    begun = time.time()
    importlib.import_module(f"pi_repro.stages.{MODULES[job.kind]}").run(context)
    if stop:
        raise Interrupted(f"{job.name} was asked to stop before it was published; run again to resume")
    record = capture.record(job.name, job.payload, job.places.workspace, begun)
    published = store.publish(job.fingerprint, job.payload, out, record)
    log.info("%s published %s in %.1f s", job.name, published.manifest.digest[:16], time.time() - begun)
    shutil.copyfile(job.log, published.folder / "log.txt")
    for leftover in (context.scratch, job.scratch / "inputs", job.scratch / progress.FILE):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _hide_strangers() -> None:
    """Keep a stage to requirements.lock: what a development environment holds besides is not importable.

    open_clip takes transformers when it finds it (clip_benchmark brings it along for the tests), which the
    container does not have; its import would also be half of a short stage's start.
    """
    sys.modules["transformers"] = None  # type: ignore[assignment]


def _inputs(job: Job, store: Store) -> dict[str, Path]:
    """Each role's folder, every byte of it compared with what was published."""
    found = {}
    checked: set[str] = set()
    for role, rows in job.inputs.items():
        folder = job.scratch / "inputs" / role
        for sub, fingerprint in rows:
            published = store.get(fingerprint)
            if published is None:
                raise PireproError(f"{job.name}: its input {role} vanished from the store")
            if fingerprint not in checked:
                published.check(f"the input {role!r}")
                checked.add(fingerprint)
            if not sub:
                found[role] = published.out
                continue
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / sub
            link.unlink(missing_ok=True)
            link.symlink_to(published.out, target_is_directory=True)
            found[role] = folder
        if role not in found:
            folder.mkdir(parents=True, exist_ok=True)
            found[role] = folder
    return found


def _logger(job: Job) -> logging.Logger:
    log = logging.getLogger("pirepro")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(job.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers = [handler]
    return log


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
