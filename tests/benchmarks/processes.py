"""Two processes on two cores against one: what the same bits cost in time.

Rule: the same training of the demo's model, by turns, by the wall clock; the second process only follows. On a
machine whose second core is busy with something else this says nothing.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from pi_repro.stages.context import Processes

from .rows import Row, row
from .step import BATCH, model_settings
from .workers import PINNED, Worker, race, ratio, tell, wait

_STEPS = 10  # of one turn
_ROUNDS = 8
_MODULE = "tests.benchmarks.processes"


def measure() -> list[Row]:
    """One row: milliseconds of an update with two processes and with one."""
    workers = {str(size): Worker(_MODULE, [str(size)], PINNED) for size in (1, 2)}
    times = race(workers, _ROUNDS)
    two, one = (1000 * statistics.median(times[size]) / _STEPS for size in ("2", "1"))
    what = f"update of {BATCH} pairs on the CPU with 2 processes, against 1 process, same bits"
    return [row(what, two, one, "ms", ">= 1.5", ratio=ratio(times["1"], times["2"]))]


def _train(rank: int, size: int, folder: Path) -> None:
    from .ours import pretrain
    from .pairs import Stored, synthetic

    begun = 0.0

    def gate(done: int, _total: int, _unit: str, _note: str = "") -> None:
        nonlocal begun
        if done % _STEPS == 0:
            tell(time.monotonic() - begun)
            if not wait():
                raise SystemExit
            begun = time.monotonic()

    source = Stored(synthetic(8, BATCH, 64, 16))
    if rank > 0 or wait():
        begun = time.monotonic()
        meet = str(folder / "meet")
        (folder / str(rank)).mkdir()
        processes = Processes(rank, size, rank, meet)
        pretrain(model_settings(), source, BATCH // 2, 10**6, folder / str(rank), gate, processes=processes)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        # Daemons, so that they end with the first.
        for rank in range(1, given.size):
            multiprocessing.Process(target=_train, args=(rank, given.size, Path(name)), daemon=True).start()
        _train(0, given.size, Path(name))
