"""Where jobs run: the interface, and this machine as the first implementation (SLURM is the second)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from pi_repro.provenance import capture
from pi_repro.provenance.determinism_env import environment

from . import job as jobs
from .job import Job

#: What another launcher says of its own processes; a job begins with one.
_STRANGE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class Handle(Protocol):
    """A started job."""

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save and stop; of a runner whose jobs outlive the driver, do nothing."""

    @property
    def note(self) -> str:
        """Where it is, for people: "job 12 on n1"; empty when there is nothing to say."""

    @property
    def why(self) -> str:
        """After a failure: what kind it was and what to do; empty when the job's log says all."""


class Runner(Protocol):
    """Starts jobs. A started job outlives whoever waits for it."""

    @property
    def outlives(self) -> bool:
        """Whether jobs go on when the driver is told to stop."""

    def start(self, job: Job) -> Handle:
        """Start a job; returns at once."""


@dataclass(frozen=True)
class LocalHandle:
    """A worker process of this machine."""

    process: subprocess.Popen[bytes]
    note: str = ""
    why: str = ""

    def poll(self) -> int | None:
        """Exit status of the worker, or None."""
        return self.process.poll()

    def stop(self) -> None:
        """SIGTERM: the stage saves its state and ends with 130."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)


class LocalRunner:
    """Workers on this machine, each a session of its own, so that Ctrl-C reaches the driver alone."""

    outlives = False

    def start(self, job: Job) -> LocalHandle:
        """Start a worker with the environment that its mode needs (set before torch is imported)."""
        path = jobs.write(job)
        mode = job.payload["settings"].get("mode", "exact")
        command = {capture.COMMAND: capture.typed(sys.argv, job.places.workspace)}
        base = {name: value for name, value in os.environ.items() if name not in _STRANGE}
        # Whatever prints past the log (a library, a crash) is kept beside it.
        with (job.scratch / "stderr.txt").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "pi_repro.launch.worker", str(path)],
                cwd=job.places.workspace,
                env=environment({**base, **command}, mode, job.processes),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        return LocalHandle(process)
