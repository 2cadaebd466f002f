"""Any number of processes, one bit pattern."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest
from pi_repro.launch.peers import lost_another
from pi_repro.spec import plugins
from pi_repro.stages import align, pretrain
from pi_repro.stages.context import Processes
from pi_repro.training import exchange
from pi_repro.training.alignment import Alignment
from pi_repro.training.contrastive import Contrastive
from pi_repro.training.processes import STALL, Group, join
from pi_repro.training.tree import Term

from . import samples

FORK = multiprocessing.get_context("fork")
#: 4 micro-batches a batch, 2 batches an update.
PRETRAIN = samples.pretrain(micro_batch=2, accumulation=2, epochs=4, keep_epochs=[0, 2], publish_states=[3])
ALIGN = samples.align(micro_batch=2)
CLIPPED = {**samples.OPTIMIZER, "clip_norm": 0.5}
TERM = {**samples.term(), "labels": {"name": "shuffled"}}
LORA = {"name": "lora", "options": {"rank": 2, "alpha": 4.0, "targets": ["qkv", "mlp"]}}
BLIND = {"name": "self_supervised", "options": {"temperature": 0.2}}
CONCEPTS = {"name": "concepts", "options": {"field": "class"}}
STAGES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "pretrain": (pretrain, {"pretrain": PRETRAIN}),
    "clipped": (pretrain, {"pretrain": {**PRETRAIN, "optimizer": CLIPPED, "accumulation": 1}}),
    "align": (align, {"align": ALIGN}),
    "joint": (pretrain, {"joint": {**PRETRAIN, "freeze": ["text"], "auxiliary": {**TERM, "micro_batch": 2}}}),
    "noisy": (pretrain, {"pretrain": {**PRETRAIN, "caption_noise": 0.5, "extra_updates": 2}}),
    "pixels": (align, {"align": {**ALIGN, "fraction": 0.3, "labels": {"name": "pixels"}}}),
    "lora": (align, {"align": {**ALIGN, "adapter": LORA, "labels": {"name": "shuffled"}}}),
    "blind": (align, {"align": {**ALIGN, "objective": BLIND}}),
    "concepts": (align, {"align": {**ALIGN, "labels": CONCEPTS}}),
}

#: Updates x batches of an update x 4 micro-batches: 52 pairs are 3 updates of 16 or 6 of 8, 40 triplets 5 of 8.
PASSES = {
    "pretrain": 4 * 3 * 2 * 4,
    "clipped": 4 * 6 * 1 * 4,
    "align": 3 * 5 * 1 * 4,
    "joint": 4 * 3 * (2 + 1) * 4,
    "noisy": (4 * 3 + 2) * 2 * 4,
    "pixels": 3 * 5 * 1 * 4,
    "lora": 3 * 5 * 1 * 4,
    "blind": 3 * 5 * 1 * 4,
    "concepts": 3 * 5 * 1 * 4,
}


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
    stage: str, inputs: dict[str, Path], folder: Path, size: int, kill_at: int | None = None, *, tcp: bool = False
) -> tuple[str, list[int]]:
    """Digest of the outputs of so many processes, and the forward passes of each."""
    folder.mkdir(exist_ok=True)
    counts = FORK.Array("i", size)
    who = (
        _by_socket(size) if tcp else [Processes(rank, size, rank, str(folder / f"meet-{size}")) for rank in range(size)]
    )
    everyone = [FORK.Process(target=_one, args=(stage, inputs, folder, each, kill_at, counts)) for each in who]
    for each in everyone:
        each.start()
    for each in everyone:
        each.join()
        assert each.exitcode == (0 if kill_at is None else -signal.SIGKILL)
    return path_digest(folder / "out"), list(counts)


def _by_socket(size: int) -> list[Processes]:
    """Processes that meet at a socket on which the first listens before any of them is here."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        meet = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        held = os.dup(listening.fileno())  # the fork hands it on
    return [Processes(rank, size, rank, meet, held if rank == 0 else None) for rank in range(size)]


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_number_of_processes_alters_no_bit(stage: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    alone, counts = run(stage, inputs, tmp_path / "1", 1)
    assert counts == [PASSES[stage]]
    for size in (2, 4):
        found, shares = run(stage, inputs, tmp_path / str(size), size)
        assert found == alone, f"{size} processes gave other bits"
        assert shares == [counts[0] // size] * size, "each process computes M/W micro-batches of each batch"


class _Noisy(torch.optim.SGD):
    """Langevin's: draws from torch's generator, as EXTENDING.md allows."""

    def __init__(self, groups: Any, *, lr: float, weight_decay: float, **_: Any) -> None:
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad += 1e-3 * torch.randn_like(parameter)
        super().step(closure)


def test_an_optimizer_that_draws_draws_the_same_in_every_process(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "load", lambda _group, _name: _Noisy)
    settings = {**ALIGN, "epochs": 1, "schedule": {"kind": "constant", "warmup_updates": 0}}
    drawing = {**settings, "optimizer": {**samples.OPTIMIZER, "name": "langevin"}}
    monkeypatch.setitem(STAGES, "langevin", (align, {"align": drawing}))  # type: ignore[arg-type]
    alone, _ = run("langevin", inputs, tmp_path / "1", 1)
    assert run("langevin", inputs, tmp_path / "2", 2)[0] == alone


def test_processes_of_several_hosts_meet_at_a_socket(inputs: dict[str, Path], tmp_path: Path) -> None:
    alone, _ = run("align", inputs, tmp_path / "1", 1)
    assert run("align", inputs, tmp_path / "2", 2, tcp=True)[0] == alone


@pytest.mark.parametrize("end", ["killed", "silent"])
def test_a_lost_process_is_an_error_for_the_others(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL, "0.1")
    results = FORK.Queue()
    first, second = (FORK.Process(target=_lose, args=(each, end, results.put)) for each in _by_socket(2))
    first.start(), second.start()
    lost, waited = results.get(timeout=60)
    assert lost and (waited > 4 if end == "silent" else waited < 4)
    second.kill()
    first.join(), second.join()


def _lose(who: Processes, end: str, put: Callable[[object], None]) -> None:
    group = join(who, torch.device("cpu"))
    group.barrier()
    if not group.chief:
        os.kill(os.getpid(), signal.SIGKILL) if end == "killed" else time.sleep(60)
    begun = time.monotonic()
    try:
        group.barrier()
    except RuntimeError as error:
        put((lost_another(error), time.monotonic() - begun))


@pytest.mark.parametrize("stage", ["pretrain", "joint", "lora", "blind", "noisy"])
def test_killed_with_four_processes_it_goes_on_with_one_or_two(
    stage: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole, _ = run(stage, inputs, tmp_path / "whole", 1)
    for size in (1, 2):
        folder = tmp_path / f"resumed-{size}"
        run(stage, inputs, folder, 4, kill_at=6)
        found, _ = run(stage, inputs, folder, size)
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
