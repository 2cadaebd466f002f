"""Two processes on two cores against one: what the same bits cost in time.

Rule: the same training of the demo's model, by turns, by the wall clock; the second process only follows. Cores
share memory, caches and the machine with others, so two trainings that have nothing to do with each other are
timed side by side, too: no way of dividing one among two processes can gain more than that.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from pi_repro.launch import peers
from pi_repro.stages.context import Processes

from .rows import Row, row
from .step import model_settings
from .workers import PINNED, Worker, race, ratio, tell, wait

_STEPS = 5  # of one turn
_ROUNDS = 8
_LARGE, _MICRO_BATCH = 512, 64
_MODULE = "tests.benchmarks.processes"


def measure() -> list[Row]:
    """Milliseconds of an update with two processes and with one, and what two cores are worth here at most.

    For the smallest batch that two processes can share, a micro-batch each, as the demo has it, and for a larger one.
    """
    rows = []
    for pairs in (2 * _MICRO_BATCH, _LARGE):
        workers = {name: Worker(_MODULE, [*name.split(), str(pairs)], PINNED) for name in ("1", "2", "2 --apart")}
        times = race(workers, _ROUNDS)
        one, two, apart = (1000 * statistics.median(each) / _STEPS for each in times.values())
        what = f"update of {pairs} pairs on the CPU by micro-batches of {_MICRO_BATCH}"
        gain, most = ratio(times["1"], times["2"]), 2 * ratio(times["1"], times["2 --apart"])
        rows += [
            row(f"{what} with 2 processes, against 1 process, same bits", two, one, "ms", ">= 1.5", ratio=gain),
            row(
                "the most that 2 cores can give that: 2 trainings which share nothing", apart, 2 * one, "ms", ratio=most
            ),
        ]
    return rows


def _train(rank: int, size: int, pairs: int, folder: Path, start: Barrier | None) -> None:
    """Train as one of several processes, or, with a barrier that begins each turn, beside another training."""
    from .ours import pretrain
    from .pairs import Stored, synthetic

    if rank > 0:  # the first is killed when all is measured
        os.environ["PIREPRO_PARENT"] = str(os.getppid())
        peers.die_with_parent()
    begun = 0.0

    def turn() -> bool:
        nonlocal begun
        going = rank > 0 or wait()
        if start is not None:
            start.wait()
        begun = time.monotonic()
        return going

    def gate(done: int, _total: int, _unit: str, _note: str = "") -> None:
        if done % _STEPS == 0:
            if rank == 0:
                tell(time.monotonic() - begun)
            if not turn():
                raise SystemExit

    source = Stored(synthetic(8, pairs, 64, 16))
    if turn():
        (folder / str(rank)).mkdir()
        processes = Processes(rank, size, rank, str(folder / "meet")) if start is None else Processes()
        pretrain(model_settings(), source, _MICRO_BATCH, 10**6, folder / str(rank), gate, processes=processes)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("pairs", type=int)
    parser.add_argument("--apart", action="store_true")
    given = parser.parse_args()
    start = multiprocessing.Barrier(given.size) if given.apart else None
    with tempfile.TemporaryDirectory() as name:
        # Daemons, so that they end with the first.
        for rank in range(1, given.size):
            others = (rank, given.size, given.pairs, Path(name), start)
            multiprocessing.Process(target=_train, args=others, daemon=True).start()
        _train(0, given.size, given.pairs, Path(name), start)
