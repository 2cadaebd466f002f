"""The gradient of one update, micro-batch by micro-batch.

Rule: whatever is computed is computed for one micro-batch of fixed size, in a state that depends
on (seed, update, micro-batch) alone, and summed by the fixed tree: over the micro-batches of a
batch, then over accumulated batches. So the bits don't depend on how many micro-batches a process
owns, nor on whether their graphs are kept between the two passes or built again (`memory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as functional
from torch import nn

from pi_repro.data.pixels import normalize
from pi_repro.errors import RequestError

from . import losses
from .determinism import reseed
from .memory import GraphBudget
from .objectives import Objective
from .rows import Lookup, Rows, Table, recorded, text_embedding
from .tree import Term, TreeSum, separate

Batch = Mapping[str, torch.Tensor]
Encoder = Callable[[torch.Tensor], torch.Tensor]
LOGIT_SCALE = "logit_scale"


@dataclass(frozen=True)
class Gradient:
    """Gradient of the mean loss over all batches of an update.

    Attributes:
        values: parameter name -> gradient, in the model's order.
        loss: the mean loss, float64 scalar tensor.
    """

    values: dict[str, torch.Tensor]
    loss: torch.Tensor


class Learner(Protocol):
    """What the training loop asks for gradients."""

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """Of an update counted from 1, taking as many micro-batches as the update has."""
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
                "exact mode cannot train batch normalization",
                where=f"module {name}",
                allowed="models without it, such as vision transformers",
            )


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
        moved = tensor.to(self.device)
        return normalize(moved) if tensor.dtype == torch.uint8 and tensor.ndim == 4 else moved


class Contrastive:
    """CLIP on pairs: the mean over A batches of the symmetric loss over N pairs.

    Args:
        model: open_clip-like, with `encode_image`, `encode_text` and `logit_scale`.
        conditions: how forward passes are computed.
        accumulation: batches of an update.
        logit_scale_max: upper bound of exp(logit scale); the lower one is 1, as in open_clip.
        keep_graphs: whether graphs are kept between the passes; decided by free memory when None.

    Raises:
        RequestError: the model has a logit bias, which this loss has no use for, or batch normalization.
    """

    def __init__(
        self,
        model: nn.Module,
        conditions: Conditions,
        accumulation: int,
        logit_scale_max: float,
        keep_graphs: bool | None = None,
    ) -> None:
        if getattr(model, "logit_bias", None) is not None:
            raise RequestError("the softmax loss has no logit bias", where="model.architecture.init_logit_bias")
        refuse_batch_statistics(model)
        self.encode_image: Encoder = cast("Any", model).encode_image
        self.encode_text: Encoder = cast("Any", model).encode_text
        self.conditions = conditions
        self.accumulation = accumulation
        self.max = math.log(logit_scale_max)
        self.budget = GraphBudget(conditions.micro_batches, conditions.device, keep_graphs)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.logit_scale = trained.pop(LOGIT_SCALE)
        self.embedding = text_embedding(model)
        self.tables = {}
        if self.embedding is not None:
            name = self.embedding[0]
            self.tables[name] = Table(trained.pop(name))
        self.encoders = trained

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`; a micro-batch has "image" uint8 [m, 3, S, S] and "text" int64 [m, L].

        The embedding's gradient is valid until the next call.
        """
        count = self.conditions.micro_batches
        total = TreeSum()
        for number in range(self.accumulation):
            batch = [next(micro_batches) for _ in range(count)]
            total.add(self._batch(update, number * count, batch))
        found = total.total()
        if self.accumulation > 1:
            found.divide(self.accumulation)
        *values, at_scale, loss = found.tensors
        gradient = dict(zip(self.encoders, values, strict=True))
        gradient[LOGIT_SCALE] = at_scale.to(self.logit_scale.dtype).reshape(self.logit_scale.shape)
        for (name, table), rows in zip(self.tables.items(), found.tables, strict=True):
            gradient[name] = table.fill(rows)
        return Gradient({name: gradient[name] for name in self.names}, loss)

    def settle(self) -> None:
        """See `Learner`."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, self.max)

    def _batch(self, update: int, first: int, batch: Sequence[Batch]) -> Term:
        """Gradients of one batch at the encoders' parameters, at the log scale, and its loss."""
        passes: list[_Pass | None] = []
        images, texts = [], []
        for number, part in enumerate(batch):
            with self.budget.forward() as keep:
                made = self._encode(update, first + number, part)
            images.append(made.image.detach())
            texts.append(made.text.detach())
            passes.append(made if keep() else None)
            del made
        # What several processes will gather: features here, row sums below, the tree's nodes at the end.
        features = losses.Features(torch.cat(images), torch.cat(texts), self.logit_scale.detach().exp())
        size = self.conditions.size
        rows = [slice(number * size, (number + 1) * size) for number in range(len(batch))]
        sums = losses.RowSums.cat([losses.row_sums(features, each) for each in rows])
        tree = TreeSum()
        for number, part in enumerate(batch):
            made = passes[number] or self._encode(update, first + number, part)
            passes[number] = None
            tree.add(self._backward(made, losses.row_gradients(features, sums, rows[number])))
        return tree.total()

    def _encode(self, update: int, number: int, part: Batch) -> _Pass:
        """One forward pass of a micro-batch."""
        reseed(self.conditions.seed, update, number)
        lookups: AbstractContextManager[list[Lookup]] = nullcontext([])
        if self.embedding is not None:
            lookups = recorded(self.embedding[1])
        with lookups as found, self.conditions.autocast():
            image = self.encode_image(self.conditions.put(part["image"]))
            text = self.encode_text(self.conditions.put(part["text"]))
        image, text = (functional.normalize(each.to(self.logit_scale.dtype), dim=-1) for each in (image, text))
        return _Pass(image, text, tuple(found))

    def _backward(self, made: _Pass, at: losses.RowGradients) -> Term:
        wanted = [*self.encoders.values(), *(lookup.output for lookup in made.lookups)]
        found = torch.autograd.grad((made.image, made.text), wanted, (at.image, at.text), materialize_grads=True)
        dense, embedded = found[: len(self.encoders)], found[len(self.encoders) :]
        tables = [Rows.collect(one.ids, gradient) for one, gradient in zip(made.lookups, embedded, strict=True)]
        return Term([*separate(dense), at.logit_scale, at.loss], tables)


@dataclass(frozen=True)
class _Pass:
    """Normalized features [m, D] of a micro-batch, with their graph, and the embedding's use in it."""

    image: torch.Tensor
    text: torch.Tensor
    lookups: tuple[Lookup, ...]


class Alignment:
    """The image tower on an objective: the mean of its loss over the samples of a batch.

    Args:
        model: open_clip-like, with `encode_image`; what requires a gradient trains.
        conditions: how forward passes are computed.
        objective: the loss.

    Raises:
        RequestError: the model has batch normalization.
    """

    def __init__(self, model: nn.Module, conditions: Conditions, objective: Objective) -> None:
        refuse_batch_statistics(model)
        self.encode_image: Encoder = cast("Any", model).encode_image
        self.conditions = conditions
        self.objective = objective
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`; a micro-batch has what the objective asks for."""
        samples = self.conditions.size * self.conditions.micro_batches
        tree = TreeSum()
        for number in range(self.conditions.micro_batches):
            loss = self._losses(update, number, next(micro_batches))
            share = torch.full_like(loss, 1 / samples)
            found = torch.autograd.grad(loss, list(self.trained.values()), share, materialize_grads=True)
            tree.add(Term([*separate(found), loss.detach().sum(dtype=torch.float64) / samples]))
        *values, loss = tree.total().tensors
        return Gradient(dict(zip(self.trained, values, strict=True)), loss)

    def settle(self) -> None:
        """See `Learner`; nothing here is bounded."""

    def _losses(self, update: int, number: int, part: Batch) -> torch.Tensor:
        names = self.objective.images
        reseed(self.conditions.seed, update, number)
        images = self.conditions.put(torch.cat([part[name] for name in names]))
        with self.conditions.autocast():
            features = self.encode_image(images)
        features = features.to(next(iter(self.trained.values())).dtype)
        split = dict(zip(names, torch.split(features, self.conditions.size), strict=True))
        targets = {name: self.conditions.put(value) for name, value in part.items() if name not in names}
        return self.objective.loss(split, targets)
