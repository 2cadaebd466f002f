"""What a stage is given. A stage reads its inputs, fills its output folder, and decides nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pi_repro.spec.experiment import Resources


class Progress(Protocol):
    """Where a stage says how far it is; cheap to call, throttled by the receiver."""

    def __call__(self, done: int, total: int, unit: str, note: str = "") -> None: ...


def silent(done: int, total: int, unit: str, note: str = "") -> None:
    """A Progress that nobody watches."""


@dataclass(frozen=True)
class Processes:
    """The processes that compute one stage together, and which of them this one is.

    Attributes:
        rank: this one's number; number 0 alone writes.
        size: how many there are.
        gpu: number of the GPU that it computes on, among those that it sees.
        rendezvous: file through which those of one host meet, or "tcp://address:port" at which the first
            listens; None where the launcher (torchrun) says where by MASTER_ADDR and MASTER_PORT.
        listening: file descriptor of the first one's socket at that address.
    """

    rank: int = 0
    size: int = 1
    gpu: int = 0
    rendezvous: str | None = None
    listening: int | None = None


@dataclass(frozen=True)
class Stretch:
    """A part of a training, computed again to be compared.

    Attributes:
        begin: updates done before it.
        updates: how many it has.
        state: folder of the full state to begin from; None for the start weights.
    """

    begin: int
    updates: int
    state: Path | None

    @property
    def end(self) -> int:
        """The last update."""
        return self.begin + self.updates


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may know.

    Attributes:
        name: the stage's name in dvc.yaml, "pretrain@demo-pi-s0".
        settings: resolved science settings, exactly as params.json holds them.
        inputs: role -> folder or file, whose digests were checked before the stage began.
        scratch: survives kills and belongs to this fingerprint alone; checkpoints go here.
        out: to be filled with complete outputs; emptied before each attempt.
        resources: what changes no bit (workers, prefetch, checkpoint interval).
        processes: who computes.
        stretch: for a training, the part of it that is wanted; None for all.
        data_root: where shards of site-located datasets live; None when not configured.
        progress: reports done/total for people.
        should_stop: true once the stage was asked to stop; save, then raise Interrupted.
        log: plain lines for the stage's log.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    scratch: Path
    out: Path
    resources: Resources
    processes: Processes = Processes()
    stretch: Stretch | None = None
    data_root: Path | None = None
    progress: Progress = silent
    should_stop: Callable[[], bool] = lambda: False
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("pirepro"))
