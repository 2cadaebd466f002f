"""Whether the graphs of a batch's forward passes fit into memory at once.

Rule: it decides how often a forward pass is computed, never what it gives: a pass that is built
again has the same seed and so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

#: Share of the free memory that graphs may take.
_SHARE = 0.25


class GraphBudget:
    """Measures the first forward pass, then decides for all.

    Args:
        passes: forward passes of a batch.
        device: where their graphs lie.
        keep: the decision, where it is made already.
        sharing: processes that take from the same memory.
    """

    def __init__(self, passes: int, device: torch.device, keep: bool | None = None, sharing: int = 1) -> None:
        self.passes = passes
        self.sharing = sharing
        self.device = device
        # The only pass of a batch is followed by its backward pass at once.
        self.keep = True if passes == 1 else keep

    @contextmanager
    def forward(self) -> Iterator[Callable[[], bool]]:
        """Around the first forward pass of a micro-batch; tells afterwards whether to keep its graph."""
        if self.keep is False:
            with torch.no_grad():
                yield lambda: False
            return
        if self.keep:
            yield lambda: True
            return
        sizes: dict[int, int] = {}

        def weigh(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        free = _free(self.device)
        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            yield lambda: bool(self.keep)
        self.keep = self.sharing * self.passes * sum(sizes.values()) <= _SHARE * free


def _free(device: torch.device) -> int:
    """Free bytes; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 0)
