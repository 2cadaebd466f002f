"""Making parts by many processes, of which any may be killed at any moment.

Rule: a part is made by one process at a time, under a lock of its own, and by nobody who finds it whole; what it holds
depends on its task alone. So one machine, several and the tasks of a job array may work on one home, in any
order, and the next attempt makes only what is missing.

Each process keeps one source file at most and lets go of it once its part is whole: the disk holds the parts and
as many source files as there are processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.data import parts
from pi_repro.data.sources import space
from pi_repro.data.sources.origin import Watch
from pi_repro.errors import Interrupted, PireproError, StateError

#: Seconds between two looks at whether to stop.
_BEAT = 0.2


@dataclass(frozen=True)
class Task:
    """A part to be made.

    Attributes:
        home: folder of the shards.
        name: of the part.
        identity: what it is made from, hex; see `parts.finished`.
        payload: what the work needs, to be sent to another process.
    """

    home: Path
    name: str
    identity: str
    payload: Any = None

    def is_done(self) -> bool:
        """Whether the part is whole."""
        return parts.finished(self.home, self.name, self.identity) is not None


#: Makes the task's part (`parts.PartWriter`). It looks at `watch.should_stop` between samples, raising Interrupted, and
#: tells `watch.advance` the bytes that came over the network. Sent to other processes: a module's function, or a
#: partial of one.
Work = Callable[[Task, Watch], None]
#: Called with parts done, parts in all, and a note such as "84 MB/s".
Progress = Callable[[int, int, str], None]


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared(tasks: Sequence[Task], share: tuple[int, int] | None) -> list[Task]:
    """The tasks of array task i of n, (i, n), i from 0: every n-th."""
    if share is None:
        return list(tasks)
    number, of = share
    if not 0 <= number < of:
        raise ValueError(f"share {number} of {of}")
    return list(tasks[number::of])


def convert(
    tasks: Sequence[Task],
    work: Work,
    *,
    processes: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda _done, _total, _note: None,
    share: tuple[int, int] | None = None,
    log: logging.Logger | None = None,
) -> None:
    """Make every part that is not whole yet.

    Args:
        tasks: one a part, their names unlike.
        work: makes the part of a task.
        processes: how many work side by side; None: one a processor; 1: this process.
        should_stop: true ends the work soon; whole parts stay.
        progress: gets parts done and in all.
        share: (i, n): only the tasks of array task i of n.
        log: for the work's lines where this process does it.

    Raises:
        Interrupted: asked to stop.
        StateError, RequestError: a task's work refused; others that were under way were given up.
    """
    mine = shared(tasks, share)
    missing = [task for task in mine if not task.is_done()]
    progress(len(mine) - len(missing), len(mine), "")
    _tidy(mine, missing)
    if not missing:
        return
    rate = _Rate(lambda done, note: progress(done, len(mine), note), len(mine) - len(missing))
    count = min(processes or processors(), len(missing))
    if count == 1:
        watch = Watch(rate.advance, should_stop, log or logging.getLogger("pirepro"))
        for task in missing:
            _make(task, work, watch, patient=True)
            rate.one_more()
    else:
        _by_processes(missing, work, count, should_stop, rate)


def _tidy(tasks: Sequence[Task], missing: Sequence[Task]) -> None:
    """Remove what makers left who were killed after their part was whole."""
    done = {(task.home, task.name): task for task in tasks}
    for task in missing:
        del done[task.home, task.name]
    for home in {task.home for task in done.values()}:
        for name, paths in parts.leftovers(home).items():
            if (home, name) not in done:
                continue
            with _locked(done[home, name], Watch(), patient=False) as held:
                for path in paths if held else ():
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    elif path.suffix != ".lock":
                        path.unlink(missing_ok=True)


class _Rate:
    """Parts done and bytes a second."""

    def __init__(self, say: Callable[[int, str], None], done: int) -> None:
        self._say, self._done = say, done
        self._bytes, self._begun = 0, time.monotonic()

    def advance(self, count: int) -> None:
        self._bytes += count

    def arrived(self, count: int) -> None:
        self._bytes = count

    def one_more(self) -> None:
        self._done += 1
        self.say()

    def say(self) -> None:
        speed = self._bytes / 1e6 / max(time.monotonic() - self._begun, 1e-3)
        self._say(self._done, f"{speed:.0f} MB/s" if self._bytes > 0 else "")


def _by_processes(
    missing: Sequence[Task], work: Work, count: int, should_stop: Callable[[], bool], rate: _Rate
) -> None:
    # Spawned: a fork would copy the threads' locks of a process that may train or download already.
    context = multiprocessing.get_context("spawn")
    stop, arrived = context.Event(), context.Value("q", 0)
    pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(), stop, arrived))
    running: dict[Future[bool | PireproError], Task] = {}
    try:
        running = {pool.submit(_in_child, task, work, False): task for task in missing}
        while running:
            done, _ = wait(running, timeout=_BEAT, return_when=FIRST_COMPLETED)
            if should_stop():
                raise Interrupted("the stage was asked to stop; whole parts are kept")
            for future in done:
                task, result = running.pop(future), future.result()
                if isinstance(result, PireproError):
                    raise result
                if result:
                    rate.one_more()
                else:  # somebody else makes it: looked at again after the others
                    running[pool.submit(_in_child, task, work, True)] = task
            rate.arrived(arrived.value)
            rate.say()
    except BrokenProcessPool:
        if should_stop():  # a child that had not begun yet heard the request, too
            raise Interrupted("the stage was asked to stop; whole parts are kept") from None
        raise StateError(
            "a conversion process was killed",
            given="probably by the system, for want of memory",
            todo="give the job more memory or fewer processors; whole parts are kept",
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


#: In a child: who watches its work.
_CHILD: dict[str, Watch] = {}


def _begin(parent: int, stop: Any, arrived: Any) -> None:
    """What a child does first: it ends with its parent, who alone hears signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # srun tells every process of a step
        signal.signal(number, signal.SIG_IGN)

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_BEAT)
        os._exit(1)

    def advance(count: int) -> None:
        with arrived.get_lock():
            arrived.value += count

    threading.Thread(target=leave_with_parent, daemon=True).start()
    _CHILD["watch"] = Watch(advance, stop.is_set)


def _in_child(task: Task, work: Work, patient: bool) -> bool | PireproError:
    """True once the part is whole, false where another process is making it; errors travel as values."""
    try:
        return _make(task, work, _CHILD["watch"], patient=patient)
    except PireproError as error:
        return error


def _make(task: Task, work: Work, watch: Watch, *, patient: bool) -> bool:
    with _locked(task, watch, patient=patient) as held:
        if not held:
            return False
        if not task.is_done():
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop; whole parts are kept")
            parts.clear(task.home, task.name)
            with space.guarded(task.home, f"part {task.name}"):
                work(task, watch)
            if not task.is_done():
                raise RuntimeError(f"the work of {task.name} left no such part")
    return True


@contextlib.contextmanager
def _locked(task: Task, watch: Watch, *, patient: bool) -> Iterator[bool]:
    """Hold the lock of a part; false where another process has it and nobody is to wait."""
    folder = task.home / parts.SIDECARS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}.lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if not patient:
                yield False
                return
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop while another process made a part") from None
            time.sleep(_BEAT)
            continue
        except OSError:
            pass  # a file system without locks: two makers of one part waste time, and the part is the same
        # Who held it before may have removed the file, and then another one is the lock now.
        if _is_same(handle, path):
            break
        os.close(handle)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
