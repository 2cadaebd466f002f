"""Any number of processes, one bit pattern."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest
from pi_repro.stages import align, pretrain
from pi_repro.stages.context import Processes
from pi_repro.training import exchange
from pi_repro.training.alignment import Alignment
from pi_repro.training.contrastive import Contrastive
from pi_repro.training.processes import Group, join
from pi_repro.training.tree import Term

from . import samples

FORK = multiprocessing.get_context("fork")
#: 4 micro-batches a batch, 2 batches an update.
PRETRAIN = samples.pretrain(micro_batch=2, accumulation=2, epochs=4, keep_epochs=[0, 2], publish_states=[3])
ALIGN = samples.align(micro_batch=2)
CLIPPED = {**samples.OPTIMIZER, "clip_norm": 0.5}
STAGES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "pretrain": (pretrain, {"pretrain": PRETRAIN}),
    "clipped": (pretrain, {"pretrain": {**PRETRAIN, "optimizer": CLIPPED, "accumulation": 1}}),
    "align": (align, {"align": ALIGN}),
}

#: Updates x batches of an update x 4 micro-batches: 52 pairs are 3 updates of 16 or 6 of 8, 40 triplets 5 of 8.
PASSES = {"pretrain": 4 * 3 * 2 * 4, "clipped": 4 * 6 * 1 * 4, "align": 3 * 5 * 1 * 4}


@pytest.fixture(scope="module")
def inputs(start: Path, pairs: Path, triplets: Path) -> dict[str, Path]:
    return {"start": start, "pairs": pairs, "triplets": triplets}


def _one(
    stage: str, inputs: dict[str, Path], folder: Path, processes: Processes, kill_at: int | None, counts: Any
) -> None:
    """What one process does; killed, it dies with the others as a job's processes do."""
    logging.getLogger("pirepro.test").setLevel(logging.INFO)
    logging.getLogger("pirepro.test").addHandler(logging.FileHandler(folder / "log"))
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    _count(Contrastive, "_encode", processes.rank, counts)
    _count(Alignment, "_losses", processes.rank, counts)
    module, settings = STAGES[stage]
    context = samples.context(stage, settings, inputs, folder, should_stop)
    module.run(dataclasses.replace(context, processes=processes))


def _count(learner: type, name: str, rank: int, counts: Any) -> None:
    """Count the forward passes of this process."""
    forward = getattr(learner, name)

    def counted(*arguments: Any) -> Any:
        counts[rank] += 1
        return forward(*arguments)

    setattr(learner, name, counted)


def run(
    stage: str, inputs: dict[str, Path], folder: Path, size: int, kill_at: int | None = None
) -> tuple[str, list[int]]:
    """Digest of the outputs of so many processes, and the forward passes of each."""
    folder.mkdir(exist_ok=True)
    counts = FORK.Array("i", size)
    meet = folder / f"meet-{size}"
    everyone = [
        FORK.Process(target=_one, args=(stage, inputs, folder, Processes(rank, size, rank, str(meet)), kill_at, counts))
        for rank in range(size)
    ]
    for each in everyone:
        each.start()
    for each in everyone:
        each.join()
        assert each.exitcode == (0 if kill_at is None else -signal.SIGKILL)
    return path_digest(folder / "out"), list(counts)


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_number_of_processes_alters_no_bit(stage: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    alone, counts = run(stage, inputs, tmp_path / "1", 1)
    assert counts == [PASSES[stage]]
    for size in (2, 4):
        found, shares = run(stage, inputs, tmp_path / str(size), size)
        assert found == alone, f"{size} processes gave other bits"
        assert shares == [counts[0] // size] * size, "each process computes M/W micro-batches of each batch"


def test_killed_with_four_processes_it_goes_on_with_one_or_two(inputs: dict[str, Path], tmp_path: Path) -> None:
    whole, _ = run("pretrain", inputs, tmp_path / "whole", 1)
    for size in (1, 2):
        folder = tmp_path / f"resumed-{size}"
        run("pretrain", inputs, folder, 4, kill_at=6)
        found, _ = run("pretrain", inputs, folder, size)
        assert "resumed from update" in (folder / "log").read_text()
        assert found == whole


def test_a_size_that_cannot_keep_the_promise_is_refused_with_those_that_can() -> None:
    with pytest.raises(RequestError, match="3 processes can't divide 8 micro-batches") as error:
        Group(0, 3, torch.device("cpu")).share(8)
    assert "1, 2, 4, 8" in str(error.value)


def test_processes_that_disagree_are_noticed(tmp_path: Path) -> None:
    results = FORK.Queue()
    everyone = [FORK.Process(target=_agree, args=(rank, tmp_path / "meet", results.put)) for rank in range(2)]
    for each in everyone:
        each.start()
    said = [results.get(timeout=60) for _ in everyone]
    for each in everyone:
        each.join()
    assert all("disagree on the weights" in text and "1 differ from 0" in text for text in said)


def _agree(rank: int, meet: Path, put: Callable[[str], None]) -> None:
    group = join(Processes(rank, 2, rank, str(meet)), torch.device("cpu"))
    group.agree("00ff", "nothing")
    try:
        group.agree(f"00f{rank}", "the weights")
    except StateError as error:
        put(str(error))
    else:
        put("no error")


def test_a_sum_across_processes_lies_where_one_alone_would_lie(tmp_path: Path) -> None:
    results = FORK.Queue()
    everyone = [FORK.Process(target=_sum, args=(rank, tmp_path / "meet", results.put)) for rank in range(2)]
    for each in everyone:
        each.start()
    for _ in everyone:
        values, offsets = results.get(timeout=60)
        assert values == [[1.0] * 3, [1.0] * 5, [1.0] * 8] and offsets == [0, 0, 0]
    for each in everyone:
        each.join()


def _sum(rank: int, meet: Path, put: Callable[[object], None]) -> None:
    group = join(Processes(rank, 2, rank, str(meet)), torch.device("cpu"))
    found = exchange.begin(group, Term([torch.full((size,), float(rank)) for size in (3, 5, 8)]))().tensors
    put(([tensor.tolist() for tensor in found], [tensor.storage_offset() for tensor in found]))
