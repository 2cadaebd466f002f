"""Processes that wait to be told to go, so that rivals run by turns in one measurement.

Rule: on a busy machine only what ran side by side may be compared. Each rival lives in a process of
its own, under its own environment variables, warm and idle; the driver lets them go one after the
other, many times, and the ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pi_repro.provenance.determinism_env import ENVIRONMENT

ROOT = Path(__file__).parents[2]
_GO, _DONE = "go", "took "

#: Environments that a rival can be measured in: kernels pinned as exact mode pins them, or left free,
#: which lets MKL and oneDNN use the processor's widest instructions. One thread each in both.
_PLAIN = {key: value for key, value in os.environ.items() if key not in (*ENVIRONMENT, "PYTHONDONTWRITEBYTECODE")}
PINNED = {**_PLAIN, **ENVIRONMENT}
FREE = {**_PLAIN, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Worker:
    """A rival in a process of its own.

    Args:
        module: run as `python -m MODULE ARGUMENTS`; it calls `gates` or `serve`.
        arguments: its arguments.
        environment: its variables.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def go(self) -> float:
        """Let it do one turn; seconds that it took, by its own clock.

        Raises:
            RuntimeError: it died; with the end of what it said.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(_GO + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self._process.stdout:
            if line.startswith(_DONE):
                return float(line.removeprefix(_DONE))
        self._errors.seek(0)
        raise RuntimeError(f"a rival died:\n{self._errors.read()[-3000:]}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def race(workers: Mapping[str, Worker], rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of every turn by name, turns interleaved; `warm` rounds first that don't count."""
    try:
        for _ in range(warm):
            for worker in workers.values():
                worker.go()
        times: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(rounds):
            # Back and forth, so that none always runs after the same other.
            names = list(workers) if number % 2 == 0 else list(reversed(workers))
            for name in names:
                times[name].append(workers[name].go())
        return times
    finally:
        for worker in workers.values():
            worker.close()


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast we are: median over rounds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def wait() -> bool:
    """In a worker: wait for the driver; false when it is gone."""
    return sys.stdin.readline().strip() == _GO


def tell(seconds: float) -> None:
    """In a worker: tell the driver what the turn took."""
    print(f"{_DONE}{seconds}", flush=True)


def serve(turn: Callable[[], object]) -> None:
    """In a worker: one call a turn, timed by the processor's clock, until the driver is gone."""
    while wait():
        begun = time.process_time()
        turn()
        tell(time.process_time() - begun)
