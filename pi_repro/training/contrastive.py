"""CLIP's gradient on pairs, in closed form at the features.

Rule: two passes. Features of all micro-batches are gathered in canonical order; each micro-batch then
computes its own rows of the loss and sends their gradient back through its own graph, kept or built again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import nn

from pi_repro.errors import RequestError

from . import exchange, losses
from .determinism import reseed
from .memory import GraphBudget
from .processes import Group, alone
from .rows import Lookup, Rows, Table, recorded, text_embedding
from .step import LOGIT_SCALE, Batch, Conditions, Encoder, Gradient, bound, refuse_batch_statistics, refuse_bias
from .tree import Term, TreeSum, separate

#: Names of the image tower's parameters begin so, in every open_clip model; all others are the text tower's.
_IMAGE = "visual."


class Contrastive:
    """CLIP on pairs: the mean over A batches of the symmetric loss over N pairs.

    Args:
        model: open_clip-like, with `encode_image`, `encode_text` and `logit_scale`; what requires a gradient
            trains, the scale and one tower at least.
        conditions: how forward passes are computed.
        accumulation: batches of an update.
        logit_scale_max: upper bound of exp(logit scale); the lower one is 1, as in open_clip.
        keep_graphs: whether graphs are kept between the passes; decided by free memory when None.
        group: the processes that share the micro-batches; this one by itself when None.

    Raises:
        RequestError: the model has a logit bias, which this loss has no use for, batch normalization, or
            a parameter that both towers use; or the processes can't divide the micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        conditions: Conditions,
        accumulation: int,
        logit_scale_max: float,
        keep_graphs: bool | None = None,
        group: Group | None = None,
    ) -> None:
        refuse_bias(model)
        refuse_batch_statistics(model)
        self.encode_image: Encoder = cast("Any", model).encode_image
        self.encode_text: Encoder = cast("Any", model).encode_text
        self.conditions = conditions
        self.accumulation = accumulation
        self.max = logit_scale_max
        self.group = group or alone(conditions.device)
        self.mine = self.group.share(conditions.micro_batches)
        sharing = self.group.size if conditions.device.type == "cpu" else 1
        self.budget = GraphBudget(len(self.mine), conditions.device, keep_graphs, sharing)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.logit_scale = trained.pop(LOGIT_SCALE)
        self.embedding = text_embedding(model)
        if self.embedding is not None and self.embedding[0] not in trained:
            self.embedding = None  # frozen
        self.tables = {}
        if self.embedding is not None:
            name = self.embedding[0]
            self.tables[name] = Table(trained.pop(name))
        # The towers have nothing in common, so the gradient of one is sent off while the other's is computed.
        self.image = {name: p for name, p in trained.items() if name.startswith(_IMAGE)}
        self.text = {name: p for name, p in trained.items() if not name.startswith(_IMAGE)}
        _refuse_shared(model)

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`; a micro-batch has "image" uint8 [m, 3, S, S] and "text" int64 [m, L].

        The embedding's gradient is valid until the next call.
        """
        count = self.conditions.micro_batches
        total = TreeSum()
        for number in range(self.accumulation):
            batch = [next(micro_batches) for _ in self.mine]
            total.add(self._batch(update, number * count, batch))
        found = total.total()
        if self.accumulation > 1:
            found.divide(self.accumulation)
        *values, at_scale, loss = found.tensors
        gradient = dict(zip([*self.text, *self.image], values, strict=True))
        gradient[LOGIT_SCALE] = at_scale.to(self.logit_scale.dtype).reshape(self.logit_scale.shape)
        for (name, table), rows in zip(self.tables.items(), found.tables, strict=True):
            gradient[name] = table.fill(rows)
        return Gradient({name: gradient[name] for name in self.names}, loss)

    def settle(self) -> None:
        """See `Learner`."""
        bound(self.logit_scale, self.max)

    def _batch(self, update: int, first: int, batch: Sequence[Batch]) -> Term:
        """Gradients of one batch at the text and image tower's parameters, at the log scale, and its loss.

        Args:
            update: counted from 1.
            first: number within the update of the batch's first micro-batch.
            batch: the micro-batches of it that this process owns.
        """
        passes: list[_Pass | None] = []
        images, texts = [], []
        for number, part in zip(self.mine, batch, strict=True):
            with self.budget.forward() as keep:
                made = self._encode(update, first + number, part)
            images.append(made.image.detach())
            texts.append(made.text.detach())
            passes.append(made if keep() else None)
            del made
        gather = self.group.gather
        features = losses.Features(gather(torch.cat(images)), gather(torch.cat(texts)), self.logit_scale.detach().exp())
        size = self.conditions.size
        rows = [slice(number * size, (number + 1) * size) for number in self.mine]
        own = losses.RowSums.cat([losses.row_sums(features, each) for each in rows])
        sums = losses.RowSums(gather(own.image), gather(own.text))
        text, image = TreeSum(), TreeSum()
        sending: exchange.Pending | None = None
        for place, part in enumerate(batch):
            made = passes[place] or self._encode(update, first + self.mine[place], part)
            passes[place] = None
            at = losses.row_gradients(features, sums, rows[place])
            text.add(self._text_backward(made, at))
            if place == len(batch) - 1:
                sending = exchange.begin(self.group, text.total())
            image.add(self._image_backward(made, at))
            del made
        assert sending is not None
        last = exchange.begin(self.group, image.total())
        texts_sum, images_sum = sending(), last()
        return Term([*texts_sum.tensors, *images_sum.tensors], texts_sum.tables)

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

    def _text_backward(self, made: _Pass, at: losses.RowGradients) -> Term:
        wanted = [*self.text.values(), *(lookup.output for lookup in made.lookups)]
        if not wanted:
            return Term([])
        found = torch.autograd.grad(made.text, wanted, at.text, materialize_grads=True)
        dense, embedded = found[: len(self.text)], found[len(self.text) :]
        tables = [Rows.collect(one.ids, gradient) for one, gradient in zip(made.lookups, embedded, strict=True)]
        return Term(separate(dense), tables)

    def _image_backward(self, made: _Pass, at: losses.RowGradients) -> Term:
        if not self.image:
            return Term([at.logit_scale, at.loss])
        found = torch.autograd.grad(made.image, list(self.image.values()), at.image, materialize_grads=True)
        return Term([*separate(found), at.logit_scale, at.loss])


def _refuse_shared(model: nn.Module) -> None:
    users: dict[int, set[bool]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), set()).add(name.startswith(_IMAGE))
        if len(users[id(parameter)]) > 1:
            raise RequestError("the towers share a parameter", where="model.architecture", given=name)


@dataclass(frozen=True)
class _Pass:
    """Normalized features [m, D] of a micro-batch, with their graph, and the embedding's use in it."""

    image: torch.Tensor
    text: torch.Tensor
    lookups: tuple[Lookup, ...]
