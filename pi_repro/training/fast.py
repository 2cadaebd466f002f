"""The gradients of mode fast: plain autograd over a process's whole share, averaged by DistributedDataParallel.

Rule: the same loss as exact mode's and none of its promises. Libraries add up in whatever order is quickest, the
towers are compiled on a GPU, and bits depend on the number of processes. What a process owns of a batch goes
through in one forward pass; where that doesn't fit into memory, lower the batch, compute activations again
(resources.activation_checkpointing), or use mode exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .determinism import reseed
from .objectives import Objective
from .processes import Group, alone
from .step import LOGIT_SCALE, Batch, Conditions, Encoder, Gradient, bound, refuse_batch_statistics, refuse_bias


class _Learner:
    """Gradient of a loss that a module gives for this process's micro-batches of a batch.

    Args:
        model: what requires a gradient trains.
        loss: holds the model; called with the micro-batches, it gives a scalar whose mean over the processes
            is the batch's loss.
        conditions: how forward passes are computed.
        accumulation: batches of an update.
        group: the processes that share the micro-batches.

    Raises:
        RequestError: the model has batch normalization, or the processes can't divide the micro-batches.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, conditions: Conditions, accumulation: int, group: Group):
        refuse_batch_statistics(model)
        self.conditions = conditions
        self.accumulation = accumulation
        self.group = group
        self.mine = group.share(conditions.micro_batches)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.module = loss
        if group.size > 1:
            self.module = DistributedDataParallel(loss, broadcast_buffers=False, gradient_as_bucket_view=True)

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`. The gradient is valid until the next call."""
        for parameter in self.trained.values():
            parameter.grad = None
        total = torch.zeros((), dtype=torch.float64, device=self.conditions.device)
        for number in range(self.accumulation):
            batch = [next(micro_batches) for _ in self.mine]
            reseed(self.conditions.seed, update, number * self.conditions.micro_batches + self.mine[0])
            with self._sent(last=number == self.accumulation - 1):
                loss = self.module(batch) / self.accumulation
                loss.backward()
            total += loss.detach()
        found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.trained.items()}
        return Gradient(found, self.group.gather(total[None]).mean())

    def settle(self) -> None:
        """See `Learner`."""

    def _sent(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once an update, with the last batch."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()


class FastContrastive(_Learner):
    """CLIP on pairs: the mean over A batches of the symmetric loss over N pairs; see `Contrastive`.

    Args:
        model: open_clip-like, with `encode_image`, `encode_text` and `logit_scale`.
        conditions: how forward passes are computed.
        accumulation: batches of an update.
        logit_scale_max: upper bound of exp(logit scale); the lower one is 1, as in open_clip.
        group: the processes that share the micro-batches; this one by itself when None.

    Raises:
        RequestError: the model has a logit bias or batch normalization, or the processes can't divide the
            micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        conditions: Conditions,
        accumulation: int,
        logit_scale_max: float,
        group: Group | None = None,
    ) -> None:
        refuse_bias(model)
        group = group or alone(conditions.device)
        super().__init__(model, _PairLoss(model, conditions, group), conditions, accumulation, group)
        self.logit_scale = self.trained[LOGIT_SCALE]
        self.max = logit_scale_max

    def settle(self) -> None:
        """See `Learner`."""
        bound(self.logit_scale, self.max)


class FastAlignment(_Learner):
    """The image tower on an objective: the mean of its loss over the samples of a batch; see `Alignment`.

    Args:
        model: open_clip-like, with `encode_image`; what requires a gradient trains.
        conditions: how forward passes are computed.
        objective: the loss.
        group: the processes that share the micro-batches; this one by itself when None.

    Raises:
        RequestError: the model has batch normalization, or the processes can't divide the micro-batches.
    """

    def __init__(
        self, model: nn.Module, conditions: Conditions, objective: Objective, group: Group | None = None
    ) -> None:
        group = group or alone(conditions.device)
        super().__init__(model, _ObjectiveLoss(model, conditions, objective), conditions, 1, group)


class _PairLoss(nn.Module):
    """The symmetric loss over this process's rows of both logit matrices, against the features of all."""

    def __init__(self, model: nn.Module, conditions: Conditions, group: Group) -> None:
        super().__init__()
        self.model = model
        self.encode_image = _compiled(cast("Any", model).encode_image, conditions)
        self.encode_text = _compiled(cast("Any", model).encode_text, conditions)
        self.conditions = conditions
        self.group = group

    def forward(self, batch: Sequence[Batch]) -> torch.Tensor:
        scale = cast("torch.Tensor", self.model.logit_scale)
        images, texts = (_joined(self.conditions, batch, name) for name in ("image", "text"))
        with self.conditions.autocast():
            image, text = self.encode_image(images), self.encode_text(texts)
        image, text = (functional.normalize(each.to(scale.dtype), dim=-1) for each in (image, text))
        together = torch.cat([image, text], dim=1)  # one exchange each way for both
        if self.group.size > 1:
            together = cast("torch.Tensor", _Gather.apply(together, self.group))
        all_images, all_texts = together.chunk(2, dim=1)
        target = torch.arange(len(image), device=image.device) + self.group.rank * len(image)
        by_image = functional.cross_entropy(scale.exp() * (image @ all_texts.T), target)
        by_text = functional.cross_entropy(scale.exp() * (text @ all_images.T), target)
        return (by_image + by_text) / 2


class _ObjectiveLoss(nn.Module):
    """The mean of an objective over this process's samples of a batch."""

    def __init__(self, model: nn.Module, conditions: Conditions, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.encode_image = _compiled(cast("Any", model).encode_image, conditions)
        self.conditions = conditions
        self.objective = objective
        self.dtype = next(p.dtype for p in model.parameters() if p.requires_grad)

    def forward(self, batch: Sequence[Batch]) -> torch.Tensor:
        names = self.objective.images
        parts = [_joined(self.conditions, batch, name) for name in names]
        with self.conditions.autocast():
            features = self.encode_image(torch.cat(parts))
        split = dict(zip(names, features.to(self.dtype).chunk(len(names)), strict=True))
        targets = {name: _joined(self.conditions, batch, name) for name in batch[0] if name not in names}
        size = self.conditions.size
        # By micro-batches, because an objective may compare the samples of one.
        losses = [
            self.objective.loss(_part(split, number * size, size), _part(targets, number * size, size))
            for number in range(len(batch))
        ]
        return torch.cat(losses).mean()


class _Gather(torch.autograd.Function):
    """All processes' rows [n, D] as [size * n, D]; backward, each gets the sum of what all found for its rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.size = group.size
        return group.gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].contiguous()
        own = gradient.new_empty((len(gradient) // ctx.size, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(own, gradient)
        return own, None


def _joined(conditions: Conditions, batch: Sequence[Batch], name: str) -> torch.Tensor:
    """One tensor of all micro-batches, on the device."""
    return torch.cat([conditions.put(part[name]) for part in batch])


def _part(tensors: Mapping[str, torch.Tensor], start: int, size: int) -> dict[str, torch.Tensor]:
    return {name: value[start : start + size] for name, value in tensors.items()}


def _compiled(encoder: Encoder, conditions: Conditions) -> Encoder:
    """Compiled on a GPU; the CPU has hardly a gain from it, and often no compiler."""
    return cast("Encoder", torch.compile(encoder)) if conditions.device.type == "cuda" else encoder
