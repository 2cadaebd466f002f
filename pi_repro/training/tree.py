"""Sums over micro-batches, in one order.

Rule: terms 0, 1, 2, ... are added as the leaves of a fixed binary tree: (0+1)+(2+3), and so on. A
process that owns a contiguous, aligned power of two of the terms computes one node of that tree,
so the sum's bits don't depend on who computed which part. Never a library's reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .rows import Rows


@dataclass(frozen=True)
class Term:
    """What one micro-batch contributes, or many: tensors and tables that are added one by one.

    It may be added to in place, so its tensors are contiguous and share no memory (see `separate`).
    """

    tensors: Sequence[torch.Tensor]
    tables: Sequence[Rows] = ()

    def plus(self, right: Term) -> Term:
        """The sum; neither term may be used afterwards."""
        if self.tensors:
            torch._foreach_add_(list(self.tensors), list(right.tensors))
        return Term(self.tensors, [a.plus(b) for a, b in zip(self.tables, right.tables, strict=True)])

    def divide(self, number: int) -> None:
        """Divide everything in place."""
        torch._foreach_div_([*self.tensors, *(table.values for table in self.tables)], number)


class TreeSum:
    """A running sum as a binary counter: one partial sum for each set bit of the number of terms."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, Term]] = []  # (height, partial sum), of falling height

    def add(self, term: Term) -> None:
        """Add the next term, which belongs to the sum from now on."""
        height = 0
        while self._nodes and self._nodes[-1][0] == height:
            term, height = self._nodes.pop()[1].plus(term), height + 1
        self._nodes.append((height, term))

    def total(self) -> Term:
        """The sum of all terms, after which the sum is empty again.

        For a number of terms that is no power of two, the right edge is folded upwards.

        Raises:
            ValueError: there was no term.
        """
        if not self._nodes:
            raise ValueError("a sum without terms")
        total = self._nodes.pop()[1]
        while self._nodes:
            total = self._nodes.pop()[1].plus(total)
        return total


def separate(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same values as tensors that may be added to: those that share memory, with each other or within
    themselves (autograd hands out such gradients), are copied."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        fit = tensor.is_contiguous() and memory not in seen
        seen.add(memory)
        result.append(tensor if fit else tensor.clone(memory_format=torch.contiguous_format))
    return result
