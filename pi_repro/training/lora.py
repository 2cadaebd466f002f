"""Low-rank adaptation of the image tower's matrices (Hu et al. 2021).

Rule: a matrix is never touched while training; it is used as W + (alpha / rank) B A, computed in float32 outside
autocast, and what is published has that sum in W's place. So the weights are a plain open_clip state dict, and
they are the very numbers that the last forward pass used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from pi_repro.errors import RequestError
from pi_repro.spec.plugins import LoraAdapter

#: target -> (module inside a residual block, its matrix, how many matrices of equal height are stacked in it).
_TARGETS = {
    "qkv": (("attn", "in_proj_weight", 3),),
    "out": (("attn.out_proj", "weight", 1),),
    "mlp": (("mlp.c_fc", "weight", 1), ("mlp.c_proj", "weight", 1)),
}
#: The blocks of the image tower, as open_clip names them.
_BLOCK = re.compile(r"visual\.transformer\.resblocks\.\d+")
#: torch's name for the matrix under a parametrization, which is the name's last part but one.
_ORIGINAL = re.compile(r"(.*)\.parametrizations\.(\w+)\.original")


class LowRank(nn.Module):
    """W -> W + scale B A, for a matrix W that may be several stacked ones, each with its own pair.

    Args:
        matrix: W, [stacked x out, in].
        rank: of each update.
        scale: of each update.
        stacked: how many matrices W holds.
    """

    def __init__(self, matrix: torch.Tensor, rank: int, scale: float, stacked: int) -> None:
        super().__init__()
        rows, columns = matrix.shape
        if rank > (most := min(rows // stacked, columns)):
            raise RequestError(
                "rank is larger than the matrix", where="adapter 'lora'", given=rank, allowed=f"at most {most}"
            )
        # As Linear draws its weights (Hu et al.'s code); up is zero, so training begins where the weights stand.
        bound = math.sqrt(1 / columns)
        self.down = nn.Parameter(torch.empty(stacked, rank, columns).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(stacked, rows // stacked, rank))
        self.scale = scale

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        """The adapted matrix."""
        with torch.autocast(matrix.device.type, enabled=False):
            return matrix + self.scale * torch.bmm(self.up, self.down).reshape(matrix.shape)


class Lora:
    """See `spec.plugins.LoraAdapter`."""

    def __init__(self, options: LoraAdapter) -> None:
        self.options = options

    def attach(self, model: nn.Module) -> Sequence[str]:
        """See `adapters.Adapter`; draws from torch's generator.

        Raises:
            RequestError: the image tower has no such blocks, or the rank is too large.
        """
        for holder, matrix, stacked in self._places(model):
            update = LowRank(
                getattr(holder, matrix), self.options.rank, self.options.alpha / self.options.rank, stacked
            )
            parametrize.register_parametrization(holder, matrix, update)
        added = [name for name, _ in model.named_parameters() if re.search(r"\.parametrizations\.\w+\.0\.", name)]
        if not added:
            raise RequestError("the image tower has no blocks to adapt", where="adapter 'lora'")
        return added

    def weights(self, model: nn.Module) -> Mapping[str, torch.Tensor]:
        """See `adapters.Adapter`."""
        plain: dict[str, torch.Tensor] = {}
        for name, tensor in model.state_dict().items():
            original = _ORIGINAL.fullmatch(name)
            if original:
                with torch.no_grad():
                    plain[f"{original[1]}.{original[2]}"] = getattr(model.get_submodule(original[1]), original[2])
            elif ".parametrizations." not in name:
                plain[name] = tensor
        return plain

    def _places(self, model: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
        blocks = [module for name, module in model.named_modules() if _BLOCK.fullmatch(name)]
        for block in blocks:
            for target in self.options.targets:
                for inside, matrix, stacked in _TARGETS[target]:
                    yield block.get_submodule(inside), matrix, stacked
