"""The processes that somebody else started (SLURM's srun, torchrun): how they meet, and who was lost.

Rule: the first process, ready to compute, says where it listens in one file of the job's scratch. Each of the
others then holds a connection to it for as long as it lives and says its exit status before it ends; the kernel
closes the connection of one that dies, on whatever host, so that a loss is known at once, by number.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import read_json, write_json
from pi_repro.launch import network
from pi_repro.launch.job import Job
from pi_repro.launch.peers import TO_BE_SAID, lost
from pi_repro.launch.store import Store
from pi_repro.stages.context import Processes

READY = "ready.json"
#: Seconds: for the others to end, after all was computed or after being asked to stop; for this process
#: to notice a loss by itself, which is tidier.
_LEAVE_S, _PARTING_S, _NOTICE_S = 60.0, 10.0, 5.0
#: Seconds that one asked to stop waits for the first, which then ends, or was asked too.
_STOPPING_S = 60.0
_END = b"end\n"


@dataclass(frozen=True)
class Ready:
    """What the first process says when lease and inputs are in order.

    Attributes:
        attempt: what all processes of this attempt know, or (torchrun) the lease's holder.
        word: what whoever connects must say.
        roll: host and port at which the others are expected.
        meet: rendezvous of the computation; None where the launcher says it.
    """

    attempt: Any
    word: str
    roll: tuple[str, int]
    meet: str | None


class RollCall:
    """The others as the first process sees them; has what `peers.Peers` has.

    Args:
        job: what they compute.
        processes: the first one's view.
        log: of the job.
    """

    def __init__(self, job: Job, processes: Processes, log: logging.Logger) -> None:
        self.processes = processes
        self._job, self._log = job, log
        self._word = os.urandom(16).hex()
        self._present: dict[int, tuple[str, socket.socket]] = {}
        self._left: set[int] = set()
        self._failed: tuple[int, str, int | None] | None = None
        self._ended = False
        self._change = threading.Condition()

    def start(self) -> None:
        """Listen, and tell the others where.

        Raises:
            StateError: this host has no address to meet on.
        """
        one_host = _one_host(self.processes.size)
        self._socket = network.listen(one_host=one_host)
        roll = self._socket.getsockname()[:2]
        if self.processes.rendezvous == TO_BE_SAID:
            meet = network.listen(one_host=one_host)
            place = "{}:{}".format(*meet.getsockname()[:2])
            self.processes = replace(self.processes, rendezvous=f"tcp://{place}", listening=meet.detach())
            network.choose_interfaces(roll[0])
        threading.Thread(target=self._listen, daemon=True).start()
        os.register_at_fork(after_in_child=self._forget)
        attempt = _attempt() or self._job.lease.holder() or {}
        ready = Ready(attempt, self._word, roll, self.processes.rendezvous)
        write_json(self._job.scratch / READY, {**vars(ready), "roll": list(roll)})

    def end(self, patience_s: float = _LEAVE_S) -> None:
        """All is computed: wait until the others have ended."""
        with self._change:
            self._ended = True
            self._change.wait_for(lambda: len(self._left) == self.processes.size - 1, patience_s)
            for _, connection in self._present.values():
                with suppress(OSError):
                    connection.sendall(_END)
        (self._job.scratch / READY).unlink(missing_ok=True)

    def part(self, patience_s: float = _PARTING_S) -> None:
        """This process was asked to stop: let the others end by themselves.

        Raises:
            StateError, RequestError: it was asked because another was lost (srun ends those that are left).
        """
        if self._failed is not None:
            raise self._error()
        self.end(patience_s)

    def raise_if_lost(self, patience_s: float = _NOTICE_S) -> None:
        """After this process failed for want of another: say which.

        Raises:
            StateError, RequestError: what the lost process ended with; or which one never came.
        """
        with self._change:
            self._change.wait_for(lambda: self._failed is not None, patience_s)
            absent = sorted({*range(1, self.processes.size)} - set(self._present) - self._left)
        if self._failed is not None:
            raise self._error()
        if absent:
            raise StateError(
                f"process {absent[0]} of {self.processes.size} was lost: it never came",
                where=self._job.name,
                todo="see what its node says; run again: it resumes from the last checkpoint",
            )

    def _forget(self) -> None:
        """A loader's process that outlives this one would keep its connections open."""
        for _, connection in self._present.values():
            os.close(connection.fileno())

    def _error(self) -> Exception:
        assert self._failed is not None
        rank, host, status = self._failed
        return lost(self._job, rank, self.processes.size, status, host)

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            network.keep_alive(connection)
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        """One connection, from its first line to its end."""
        with connection, connection.makefile("r", encoding="utf-8") as lines:
            try:
                word, rank, host = lines.readline().split(maxsplit=2)
                if word != self._word or not 0 < int(rank) < self.processes.size:
                    return
            except (OSError, ValueError):
                return  # a stranger: nobody who read the file
            number = int(rank)
            with self._change:
                self._present[number] = (host.strip(), connection)
            try:
                status = int(lines.readline())
            except (OSError, ValueError):
                status = None
            with self._change:
                if status not in (0, Interrupted.exit_status):
                    self._lose(number, host.strip(), status)
                self._change.notify_all()
            with suppress(OSError, ValueError):
                lines.read()  # until the kernel closes it: only then can nobody change its exit status any more
            with self._change:
                del self._present[number]
                self._left.add(number)
                self._change.notify_all()

    def _lose(self, rank: int, host: str, status: int | None) -> None:
        if self._ended:
            return
        first = self._failed is None
        # Who was killed said nothing; who lost another takes leave with a status of its own right after.
        if self._failed is None or (status is None and self._failed[2] is not None):
            self._failed = (rank, host, status)
        if first:
            # At once: whoever started us may be ending us as well.
            said = "was lost: it ended without a word" if status is None else f"failed with status {status}"
            self._log.warning("process %d of %d, on %s, %s", rank, self.processes.size, host, said)
            threading.Thread(target=self._give_up, daemon=True).start()

    def _give_up(self) -> None:
        time.sleep(_NOTICE_S)
        if not self._ended:
            error = self._error()
            self._log.error("%s", error)
            os._exit(getattr(error, "exit_status", 1))


class Attendance:
    """One of the others, present until the end of the `with` block; it ends when the first is lost.

    Args:
        ready: what the first said.
        rank: this one's number.
        log: of the job.
    """

    def __init__(self, ready: Ready, rank: int, log: logging.Logger) -> None:
        self._ready, self._rank, self._log = ready, rank, log
        self._ended = False

    def __enter__(self) -> Attendance:
        try:
            self._socket = socket.create_connection(self._ready.roll, timeout=_LEAVE_S)
            self._socket.settimeout(None)
            network.keep_alive(self._socket)
            self._socket.sendall(f"{self._ready.word} {self._rank} {_host()}\n".encode())
        except OSError as error:
            raise StateError(
                "the first process was lost, or can't be reached",
                where="{}:{}".format(*self._ready.roll),
                given=str(error),
                todo="name the network interface that the nodes share in the site's file (`interface`)",
            ) from None
        threading.Thread(target=self._watch, daemon=True).start()
        os.register_at_fork(after_in_child=self._forget)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take leave."""
        self._ended = True
        status = 0 if error is None else getattr(error, "exit_status", 1)
        try:
            self._socket.sendall(f"{status}\n".encode())
        except OSError:
            return  # the first is gone already
        self._socket.detach()  # not closed by anybody but the kernel, when this process has ended

    def _forget(self) -> None:
        if not self._ended:
            os.close(self._socket.fileno())

    def _watch(self) -> None:
        try:
            said = self._socket.recv(len(_END))
        except OSError:
            said = b""
        if said == _END:
            return
        time.sleep(_NOTICE_S)
        if not self._ended:
            self._log.error("the first process was lost; run again: it resumes from the last checkpoint")
            os._exit(StateError.exit_status)


def wait_for_first(job: Job, should_stop: Callable[[], bool], poll_s: float = 0.1) -> Ready | None:
    """Wait until the first process is ready; None where the stage is published already.

    Raises:
        Interrupted: asked to stop, and the first did not come.
    """
    store, file = Store(job.places.store), job.scratch / READY
    stopping: float | None = None
    while store.get(job.fingerprint) is None:
        ready = _read(file)
        if ready is not None and ready.attempt == (_attempt() or job.lease.holder()):
            if ready.meet is not None:
                network.choose_interfaces(ready.roll[0])
            return ready
        if should_stop():
            # The first may be asked a moment later, and begin: then it needs us for the update that it saves.
            stopping = stopping or time.monotonic()
            if time.monotonic() - stopping > _STOPPING_S:
                raise Interrupted(f"{job.name} was asked to stop before it began; run again to go on")
        time.sleep(poll_s)
        poll_s = min(1.0, poll_s * 1.2)  # many look at one file server
    return None


def _read(file: Path) -> Ready | None:
    if not file.is_file():
        return None
    content = read_json(file)
    return Ready(**{**content, "roll": tuple(content["roll"])})


def _attempt() -> str | None:
    """This attempt as SLURM counts them; what an earlier one left in a file names another."""
    step = [os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    return "slurm " + ".".join(step) if os.environ.get("PIREPRO_JOB_LAUNCHER") == "slurm" else None


def _one_host(size: int) -> bool:
    if _attempt() is not None:
        return os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES")) == "1"
    return os.environ.get("LOCAL_WORLD_SIZE") == str(size)


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
