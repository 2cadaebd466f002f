"""The processes of one training, side by side on one host or on many.

Rule: a process owns a contiguous part of the micro-batches of every batch, and whatever is brought together
is concatenated in the order of the ranks. No library ever adds up anything that reaches a weight.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pi_repro.errors import RequestError, StateError
from pi_repro.stages.context import Processes

#: Environment variable -> minutes of silence after which another process is taken for lost.
STALL = "PIREPRO_STALL_MINUTES"
#: Without it, the first may read a terabyte of shards meanwhile (`inputs`): who started a process that died
#: ends the others.
_PATIENCE = timedelta(days=1)


class Group:
    """The processes of a training, as one of them sees them.

    Args:
        rank: this one's number.
        size: how many there are.
        device: what this one computes on.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.device = device

    @property
    def chief(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The numbers, of `count`, that this process owns: contiguous and equally many for each.

        Raises:
            RequestError: they can't be divided so; names the sizes that can.
        """
        if count % self.size:
            raise RequestError(
                f"{self.size} processes can't divide {count} micro-batches",
                where="resources.processes",
                given=self.size,
                allowed=", ".join(str(size) for size in range(1, count + 1) if count % size == 0),
            )
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All processes' tensors [n, ...] joined to [size * n, ...] in the order of the ranks."""
        if self.size == 1:
            return tensor
        joined = tensor.new_empty((self.size * len(tensor), *tensor.shape[1:]))
        dist.all_gather_into_tensor(joined, tensor.contiguous())
        return joined

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised anywhere."""
        if self.size == 1:
            return flag
        return bool(self.gather(torch.tensor([flag], device=self.device)).any())

    def number(self, value: int) -> int:
        """The first process's number."""
        if self.size == 1:
            return value
        return int(self.gather(torch.tensor([value], device=self.device))[0])

    def agree(self, digest: str, what: str) -> None:
        """Check that all processes hold the same bits.

        Args:
            digest: hex of what this one holds.
            what: for the message.

        Raises:
            StateError: they differ, naming the processes that differ from the first.
        """
        if self.size == 1:
            return
        mine = torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8).to(self.device)
        rows = self.gather(mine[None])
        strangers = [rank for rank in range(self.size) if not torch.equal(rows[rank], rows[0])]
        if strangers:
            raise StateError(
                f"processes disagree on {what}",
                given=f"{', '.join(map(str, strangers))} differ from 0",
                todo="a machine or GPU computes wrongly; leave it out and run again to resume",
            )

    def barrier(self) -> None:
        """Wait until all are here."""
        self.any(False)


def alone(device: torch.device) -> Group:
    """One process by itself."""
    return Group(0, 1, device)


def join(processes: Processes, device: torch.device) -> Group:
    """Meet the other processes: gloo between CPUs, NCCL between GPUs.

    Args:
        processes: who there is.
        device: what this process computes on.
    """
    if processes.size == 1:
        return alone(device)
    meet, patience = processes.rendezvous, _patience()
    about: dict[str, Any] = {"rank": processes.rank, "world_size": processes.size, "timeout": patience}
    backend = "nccl" if device.type == "cuda" else "gloo"
    if dist.is_initialized():
        pass
    elif meet is None:
        dist.init_process_group(backend, init_method="env://", **about)
    elif meet.startswith("tcp://"):
        dist.init_process_group(backend, store=_store(processes, patience), **about)
    else:
        # All on this host; the name that a laptop gives itself may not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        dist.init_process_group(backend, init_method=f"file://{meet}", **about)
    return Group(processes.rank, processes.size, device)


def _store(processes: Processes, patience: timedelta) -> Any:
    """Where they find each other: the first serves it on the socket whose address it has told already."""
    assert processes.rendezvous is not None
    host, port = processes.rendezvous.removeprefix("tcp://").rsplit(":", 1)
    # Those that come earlier are held by the listening socket for as long as the first takes.
    return dist.TCPStore(  # type: ignore[attr-defined]
        host,
        int(port),
        processes.size,
        is_master=processes.rank == 0,
        timeout=patience,
        wait_for_workers=False,
        master_listen_fd=processes.listening,
    )


def _patience() -> timedelta:
    minutes = os.environ.get(STALL)
    return timedelta(minutes=float(minutes)) if minutes else _PATIENCE
