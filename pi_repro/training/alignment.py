"""The image tower's gradient on an objective, such as the triplet hinge.

Rule: the loss of a batch is the mean over its samples, summed over micro-batches by the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from . import exchange
from .adapters import TOWER
from .determinism import reseed
from .objectives import Objective
from .processes import Group, alone
from .step import Batch, Conditions, Encoder, Gradient, refuse_batch_statistics
from .tree import Term, TreeSum, separate


class Alignment:
    """The image tower on an objective: the mean of its loss over the samples of a batch.

    Args:
        model: open_clip-like, with `encode_image`; what of the image tower requires a gradient trains.
        conditions: how forward passes are computed.
        objective: the loss.
        group: the processes that share the micro-batches; this one by itself when None.
        first: number within the update of its first micro-batch, where others come before.

    Raises:
        RequestError: the model has batch normalization, or the processes can't divide the micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        conditions: Conditions,
        objective: Objective,
        group: Group | None = None,
        first: int = 0,
    ) -> None:
        refuse_batch_statistics(model)
        self.encode_image: Encoder = cast("Any", model).encode_image
        self.conditions = conditions
        self.objective = objective
        self.group = group or alone(conditions.device)
        self.mine = self.group.share(conditions.micro_batches)
        self.first = first
        tower = ((name, p) for name, p in model.named_parameters() if name.startswith(TOWER))
        self.trained = {name: p for name, p in tower if p.requires_grad}

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`; a micro-batch has what the objective asks for."""
        samples = self.conditions.size * self.conditions.micro_batches
        tree = TreeSum()
        for number in self.mine:
            loss = self._losses(update, number, next(micro_batches))
            share = torch.full_like(loss, 1 / samples)
            found = torch.autograd.grad(loss, list(self.trained.values()), share, materialize_grads=True)
            tree.add(Term([*separate(found), loss.detach().sum(dtype=torch.float64) / samples]))
        *values, loss = exchange.begin(self.group, tree.total())().tensors
        return Gradient(dict(zip(self.trained, values, strict=True)), loss)

    def settle(self) -> None:
        """See `Learner`; nothing here is bounded."""

    def _losses(self, update: int, number: int, part: Batch) -> torch.Tensor:
        names = self.objective.images
        reseed(self.conditions.seed, update, self.first + number)
        # Sent one by one: joined on the CPU they would no longer lie in pinned memory.
        images = torch.cat([self.conditions.put(part[name]) for name in names])
        with self.conditions.autocast():
            features = self.encode_image(images)
        features = features.to(next(iter(self.trained.values())).dtype)
        split = dict(zip(names, torch.split(features, self.conditions.size), strict=True))
        targets = {name: self.conditions.put(value) for name, value in part.items() if name not in names}
        return self.objective.loss(split, targets)
