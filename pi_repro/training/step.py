"""The gradient of one update, micro-batch by micro-batch.

Rule: whatever is computed is computed for one micro-batch of fixed size, in a state that depends
on (seed, update, micro-batch) alone, and summed by the fixed tree: over the micro-batches of a
batch, then over accumulated batches. So the bits don't depend on how many micro-batches a process
owns (`processes`, `exchange`), nor on whether their graphs are kept between the two passes or built
again (`memory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import nn

from pi_repro.data.pixels import normalize
from pi_repro.errors import RequestError

Batch = Mapping[str, torch.Tensor]
Encoder = Callable[[torch.Tensor], torch.Tensor]
LOGIT_SCALE = "logit_scale"


@dataclass(frozen=True)
class Gradient:
    """Gradient of the mean loss over all batches of an update.

    Attributes:
        values: parameter name -> gradient, in the model's order.
        loss: the mean loss, float64 scalar tensor.
        terms: name -> a term of the loss, float64 scalar tensor, where it has several; the ledger tells them.
    """

    values: dict[str, torch.Tensor]
    loss: torch.Tensor
    terms: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Learner(Protocol):
    """What the training loop asks for gradients."""

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """Of an update counted from 1, taking as many micro-batches as this process owns of it."""
        ...

    def settle(self) -> None:
        """Bring the parameters back into their bounds after an update."""
        ...


def refuse_batch_statistics(model: nn.Module) -> None:
    """A layer that couples samples or remembers passes would make bits depend on how a batch is computed.

    Raises:
        RequestError: the model has batch normalization.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise RequestError(
                "batch normalization cannot be trained: it couples the samples of a batch",
                where=f"module {name}",
                allowed="models without it, such as vision transformers",
            )


def refuse_bias(model: nn.Module) -> None:
    """The softmax loss has no use for a logit bias.

    Raises:
        RequestError: the model has one.
    """
    if getattr(model, "logit_bias", None) is not None:
        raise RequestError("the softmax loss has no logit bias", where="model.architecture.init_logit_bias")


def bound(logit_scale: nn.Parameter, most: float) -> None:
    """Bring a logit scale back between ln 1 and ln `most`, as open_clip does after each update."""
    with torch.no_grad():
        logit_scale.clamp_(0, math.log(most))


@dataclass(frozen=True)
class Conditions:
    """How forward passes are computed.

    Attributes:
        device: where.
        precision: "fp32", or "bf16" for autocast; parameters and features are float32 either way.
        seed: of the training, for torch's generators.
        size: samples of a micro-batch.
        micro_batches: micro-batches of a batch, a power of two.
    """

    device: torch.device
    precision: Literal["fp32", "bf16"]
    seed: int
    size: int
    micro_batches: int

    def autocast(self) -> AbstractContextManager[None]:
        """One context a micro-batch, so that cast weights are never carried over."""
        on = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A loader's tensor on the device; images come out normalized."""
        moved = tensor.to(self.device, non_blocking=True)
        return normalize(moved) if tensor.dtype == torch.uint8 and tensor.ndim == 4 else moved
