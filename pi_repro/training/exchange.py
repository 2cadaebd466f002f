"""The tree sum across processes.

Rule: a process brings one node of the tree, the sum over its micro-batches. Process i is sent chunk i of every
node and adds these by the same tree; the sums of the chunks are gathered again. So each number is added in one
order, whoever owned which micro-batch. A sum under way does not keep a process from computing on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist

from .processes import Group
from .rows import Rows
from .tree import Term, TreeSum

#: Called to wait for a sum under way.
Pending = Callable[[], Term]


def begin(group: Group, node: Term) -> Pending:
    """Begin to sum the nodes of all processes, which have tensors of the same shapes and types.

    Args:
        group: who sums; each calls this in the same order.
        node: this process's; it belongs to the sum from now on.
    """
    if group.size == 1:
        return lambda: node
    tables = [_aligned(group, table) for table in node.tables]
    flat = [*node.tensors, *(table.values for table in tables)]
    by_type = {kind: [n for n, tensor in enumerate(flat) if tensor.dtype == kind] for kind in {t.dtype for t in flat}}
    # In one order everywhere: the order of a set differs from process to process.
    sums = [(by_type[kind], _Sum(group, [flat[n] for n in by_type[kind]])) for kind in sorted(by_type, key=str)]

    def finish() -> Term:
        found: list[torch.Tensor] = list(flat)
        for numbers, one in sums:
            for number, tensor in zip(numbers, one.wait(), strict=True):
                found[number] = tensor
        count = len(node.tensors)
        values = found[count:]
        return Term(found[:count], [Rows(table.ids, each) for table, each in zip(tables, values, strict=True)])

    return finish


class _Sum:
    """The sum of tensors of one type, by chunks."""

    def __init__(self, group: Group, tensors: Sequence[torch.Tensor]) -> None:
        self._group = group
        self._shapes = [tensor.shape for tensor in tensors]
        self._count = sum(tensor.numel() for tensor in tensors)
        chunk = -(-self._count // group.size)
        mine = tensors[0].new_zeros(chunk * group.size)
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=mine[: self._count])
        self._nodes = torch.empty_like(mine)
        self._sent = mine  # kept until it is sent
        self._work = cast("dist.Work", dist.all_to_all_single(self._nodes, mine, async_op=True))

    def wait(self) -> list[torch.Tensor]:
        self._work.wait()
        del self._sent
        tree = TreeSum()
        for node in self._nodes.chunk(self._group.size):
            tree.add(Term([node]))
        total = self._group.gather(tree.total().tensors[0])[: self._count]
        parts = torch.split(total, [shape.numel() for shape in self._shapes])
        # Cloned, because slices of one buffer are aligned as they fall, and a norm on CUDA adds in another order then.
        return [part.view(shape).clone() for part, shape in zip(parts, self._shapes, strict=True)]


def _aligned(group: Group, table: Rows) -> Rows:
    """The table with a row for each id that any process has: the same ids everywhere.

    A row that is not there counts as zero, which alters no sum (see `rows`).
    """
    counts = group.gather(torch.tensor([len(table.ids)], device=table.ids.device))
    longest = int(counts.max())
    padded = table.ids.new_full((longest,), -1)
    padded[: len(table.ids)] = table.ids
    gathered = group.gather(padded)
    ids = torch.unique(gathered[gathered >= 0])
    values = table.values.new_zeros(len(ids), table.values.shape[-1])
    values[torch.searchsorted(ids, table.ids)] = table.values
    return Rows(ids, values)
