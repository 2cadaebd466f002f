"""The loader's worker processes: how they start, speak and end.

Rule: a worker lives as long as its parent, not shorter (signals to the group are the parent's) and not longer.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from pi_repro.errors import PireproError, StateError

if TYPE_CHECKING:
    from pi_repro.data.loader import Batch, Sample, Source

#: Fork, because a forked worker starts in milliseconds with the index already in memory (a spawned
#: one imports torch for seconds and reads the index again) and is a child of this process, which
#: the parent-death signal needs (a forkserver's are not). It is safe here: a worker, of one thread, enters
#: neither CUDA nor a parallel region of torch, and takes no lock that gloo's threads in the parent may hold.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_PR_SET_PDEATHSIG = 1


def _killed(error: Exception) -> StateError:
    return StateError(
        "a loader process was killed",
        given=(str(error) or type(error).__name__).splitlines()[0],
        todo="use fewer workers, or give the job more memory",
    )


@dataclass(frozen=True)
class _Told:
    """Torch's handler of a child's death, which says in our words that a worker was killed."""

    handler: Callable[[int, FrameType | None], Any]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise _killed(error) from None


def _tell_deaths() -> None:
    """From now on StateError is raised wherever the main thread is when a worker is killed.

    Torch raises RuntimeError there, once a loader has started workers; so this is called after that.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _Told):
        signal.signal(signal.SIGCHLD, _Told(handler))


def next_batch(batches: Iterator[Batch | PireproError]) -> Batch | PireproError | None:
    """The next micro-batch, or what went wrong; None at the end."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        return _killed(error)
    except (ConnectionError, EOFError) as error:  # it was killed while it handed a batch over
        return _killed(error)


@contextlib.contextmanager
def running(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """A loader's batches, whose workers end with this."""
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    _tell_deaths()
    end = partial(_end, batches, set(multiprocessing.active_children()) - others)
    # An iterator that is never closed would hang at exit: multiprocessing asks by SIGTERM and waits.
    atexit.register(end)
    try:
        yield batches
    finally:
        atexit.unregister(end)
        end()


def _end(batches: Any, workers: Iterable[BaseProcess]) -> None:
    # Not left to the garbage collector: a traceback may hold the iterator, and its workers, for long.
    with contextlib.suppress(StateError):  # that a worker was killed is no error any more
        batches._shutdown_workers()
    for worker in workers:
        worker.kill()  # one that hangs in a read; nothing otherwise


class Guarded(Dataset[Any]):
    """A source whose messages to the user travel back as values: torch would rewrap them in a traceback."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, samples: list[Sample]) -> Batch | PireproError:
        try:
            return self.source.batch(samples)
        except PireproError as error:
            return error


def as_is(batch: Any) -> Any:
    """Nothing is collated: a source makes whole micro-batches."""
    return batch


def start_worker(parent: int, _number: int) -> None:
    """What a worker does first."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)
    # Ctrl-C and a cluster's SIGTERM reach the whole group; the parent saves its state, then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    info = torch.utils.data.get_worker_info()
    if info is not None and isinstance(info.dataset, Guarded):
        info.dataset.source.divide_caches(info.num_workers)
