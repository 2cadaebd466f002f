"""The processes of one job: who this one is, and the others on this host.

Rule: the first process takes the lease, checks the inputs and publishes. Where nobody started the others
(srun and torchrun do: `rollcall`), it starts them; they die with it, and it ends when one of them is lost.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.stages.context import Processes

from .job import Job

_PR_SET_PDEATHSIG = 1
_PARENT, _MEET = "PIREPRO_PARENT", "PIREPRO_MEET"
#: Rendezvous of processes that the first tells where to meet.
TO_BE_SAID = "tcp://"
#: What a process says that lost another: of no interest beside what the other one said.
_LOST = (
    *("Connection closed", "Connection reset", "Broken pipe", "Timed out waiting", "Wait timeout", "wait timeout"),
    *("Connection was likely closed", "Connection refused", "timed out after", "Application timeout"),
    *("ncclRemoteError", "remote process exited", "communicator was aborted"),
)


def here(environ: Mapping[str, str] = os.environ) -> Processes | None:
    """This process among the others, if somebody started several; None if it is by itself.

    The variables are torchrun's, which `Peers` gives as well, or those of a step of a SLURM job of ours.
    """
    if int(environ.get("WORLD_SIZE", "1")) > 1:
        rank, local = int(environ["RANK"]), int(environ.get("LOCAL_RANK", environ["RANK"]))
        ours = _MEET in environ
        gpu = local if ours else gpu_of(local, environ)
        return Processes(rank, int(environ["WORLD_SIZE"]), gpu, environ.get(_MEET))
    if environ.get("PIREPRO_JOB_LAUNCHER") == "slurm" and int(environ.get("SLURM_NTASKS", "1")) > 1:
        gpu = gpu_of(int(environ["SLURM_LOCALID"]), environ)
        return Processes(int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"]), gpu, TO_BE_SAID)
    return None


def gpu_of(local_rank: int, environ: Mapping[str, str]) -> int:
    """Which of the GPUs that it sees a process takes.

    Args:
        local_rank: its number among the job's processes on its host.
        environ: its variables: where each process sees a single GPU (`--gpus-per-task`), that is its own.
    """
    shown = environ.get("CUDA_VISIBLE_DEVICES", "").strip(",")
    return 0 if shown and "," not in shown else local_rank


def die_with_parent() -> None:
    """A process that the first one started ends with it, however that ends."""
    parent = os.environ.get(_PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the call above
        os._exit(1)


def lost_another(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST)


def lost(job: Job, rank: int, size: int, status: int | None, host: str = "") -> StateError | RequestError:
    """What to say of a process that ended too early.

    Args:
        job: what it computed.
        rank: its number.
        size: how many there are.
        status: what it ended with; negative by a signal; None without a word.
        host: where it was, when it was not here.
    """
    kind = RequestError if status == RequestError.exit_status else StateError
    said = "killed, or its host failed" if status is None else f"killed by signal {-status}" if status < 0 else None
    return kind(
        f"process {rank} of {size} {'was lost' if said else 'failed'}",
        where=job.name,
        given=(said or "its message stands beside this one") + (f" (on {host})" if host else ""),
        todo="run again: it resumes from the last checkpoint",
    )


@dataclass
class Peers:
    """The other processes of a job, started by the first on its host.

    Attributes:
        processes: the first one's view.
        failed: (rank, exit status) of the one that failed first.
    """

    job: Job
    file: Path
    log: logging.Logger
    processes: Processes = field(init=False)
    failed: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        meet = self.job.scratch / f"meet-{uuid.uuid4().hex[:8]}"
        self.processes = Processes(0, self.job.processes, 0, str(meet))
        self._meet = meet
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._ended = False

    def start(self) -> None:
        """Start them; returns at once."""
        for left in self.job.scratch.glob("meet-*"):
            left.unlink()  # of an attempt that was killed
        for rank in range(1, self.job.processes):
            number = str(rank)
            own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": str(self.job.processes)}
            self._started[rank] = subprocess.Popen(
                [sys.executable, "-m", "pi_repro.launch.worker", str(self.file)],
                env={**os.environ, **own, _PARENT: str(os.getpid()), _MEET: str(self._meet)},
                stdin=subprocess.DEVNULL,
            )
        if self._started:
            threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Wait for them; whoever is left then is ended. All is computed, so none can be lost any more."""
        self._ended = True
        for process in self._started.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._meet.unlink(missing_ok=True)

    def raise_if_lost(self, patience_s: float = 5.0) -> None:
        """After this process failed for want of another: say which.

        Raises:
            StateError, RequestError: what the lost process ended with.
        """
        end = time.monotonic() + patience_s
        while self.failed is None and time.monotonic() < end:
            time.sleep(0.05)
        if self.failed is not None:
            raise self._error(*self.failed)

    def _watch(self) -> None:
        """A lost process leaves the others waiting for it: end the job, with what it said."""
        while self.failed is None and not self._ended:
            lost = [
                (rank, status)
                for rank, process in self._started.items()
                if (status := process.poll()) not in (None, 0, Interrupted.exit_status)
            ]
            # Who was killed said nothing; who lost another ends with a status of its own right after.
            self.failed = min(lost, key=lambda one: one[1] > 0, default=None)
            if all(process.poll() is not None for process in self._started.values()):
                break
            time.sleep(0.2)
        if self.failed is None:
            return
        time.sleep(5)  # time for this process to notice by itself, which is tidier
        if self._ended:
            return
        error = self._error(*self.failed)
        self.log.error("%s", error)
        os._exit(error.exit_status)

    def _error(self, rank: int, status: int) -> StateError | RequestError:
        return lost(self.job, rank, self.job.processes, status)
