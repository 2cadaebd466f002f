"""Gradients of an embedding table by the rows that occurred.

Rule: the same bits as the dense gradient summed by the tree, without its zeros: a vocabulary has
49,408 rows, a micro-batch touches some hundred, and clearing and adding the rest for every
micro-batch took longer than the arithmetic (a small net on CPU: 30 of 130 ms an update).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Rows:
    """A table of which only some rows are not zero.

    Attributes:
        ids: rising row numbers, int64 [R].
        values: [R, width].
    """

    ids: torch.Tensor
    values: torch.Tensor

    @classmethod
    def collect(cls, ids: torch.Tensor, values: torch.Tensor) -> Rows:
        """Sum the values [..., width] of equal ids [...], in the order they stand in."""
        unique, places = torch.unique(ids.reshape(-1), return_inverse=True)
        # From +0, so that no value is -0 and a row left out is as good as a zero added.
        zeros = values.new_zeros(len(unique), values.shape[-1])
        return cls(unique, zeros.index_add_(0, places, values.reshape(-1, values.shape[-1])))

    def plus(self, right: Rows) -> Rows:
        """The sum of two tables."""
        ids = torch.unique(torch.cat([self.ids, right.ids]))
        values = self.values.new_zeros(len(ids), self.values.shape[-1])
        values[torch.searchsorted(ids, self.ids)] = self.values
        values[torch.searchsorted(ids, right.ids)] += right.values
        return Rows(ids, values)


class Table:
    """The dense form of one table after another, in memory that is kept: only rows of the last are cleared.

    Args:
        like: a tensor of the table's shape, type and device.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._dense = torch.zeros_like(like, requires_grad=False)
        self._filled: torch.Tensor | None = None

    def fill(self, rows: Rows) -> torch.Tensor:
        """The dense table, valid until the next call."""
        if self._filled is not None:
            self._dense[self._filled] = 0
        self._dense[rows.ids] = rows.values
        self._filled = rows.ids
        return self._dense


@dataclass
class Lookup:
    """One use of an embedding: the ids looked up and what came out, a leaf whose gradient is wanted."""

    ids: torch.Tensor
    output: torch.Tensor


@contextmanager
def recorded(embedding: nn.Embedding) -> Iterator[list[Lookup]]:
    """Cut the graph behind an embedding's output for the forward passes within; they are listed in the result."""
    lookups: list[Lookup] = []

    def cut(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_(torch.is_grad_enabled())
        lookups.append(Lookup(inputs[0], leaf))
        return leaf

    hook = embedding.register_forward_hook(cut)
    try:
        yield lookups
    finally:
        hook.remove()


def text_embedding(model: nn.Module) -> tuple[str, nn.Embedding] | None:
    """The token embedding of an open_clip text tower with the name of its weight; None where there is none
    that is looked up and nothing else."""
    for prefix, holder in (("", model), ("text.", getattr(model, "text", None))):
        found = getattr(holder, "token_embedding", None)
        if type(found) is nn.Embedding and found.max_norm is None and found.padding_idx is None:
            shared = sum(parameter is found.weight for _, parameter in model.named_parameters(remove_duplicate=False))
            return (f"{prefix}token_embedding.weight", found) if shared == 1 else None
    return None
