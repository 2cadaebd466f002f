"""Sums over micro-batches: one fixed binary tree, whoever computes its nodes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pi_repro.training.rows import Rows, Table, recorded, text_embedding
from pi_repro.training.tree import Term, TreeSum, separate


def terms(count: int) -> list[Term]:
    """Terms of very different sizes, so that another order of additions gives other bits."""
    random = torch.Generator().manual_seed(count)
    made = []
    for _ in range(count):
        size = 10 ** torch.randint(-4, 5, (1,), generator=random).item()
        ids = torch.randint(0, 9, (4,), generator=random)
        rows = Rows.collect(ids, size * torch.randn(4, 3, generator=random))
        made.append(Term([size * torch.randn(50, generator=random), size * torch.randn((), generator=random)], [rows]))
    return made


def dense(rows: Rows) -> torch.Tensor:
    table = torch.zeros(9, 3)
    table[rows.ids] = rows.values
    return table


def flat(term: Term) -> list[torch.Tensor]:
    return [*term.tensors, *(dense(table) for table in term.tables)]


def folded(values: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The definition: neighbours are added, level by level; an odd last one moves up."""
    while len(values) > 1:
        pairs = [[a + b for a, b in zip(*values[i : i + 2], strict=True)] for i in range(0, len(values) - 1, 2)]
        values = pairs + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def total(parts: list[Term]) -> Term:
    tree = TreeSum()
    for part in parts:
        tree.add(part)
    return tree.total()


@given(st.integers(1, 33))
def test_sum_is_the_fixed_binary_tree(count: int) -> None:
    expected = folded([flat(term) for term in terms(count)])
    assert all(a.equal(b) for a, b in zip(flat(total(terms(count))), expected, strict=True))


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16])
def test_contiguous_subtrees_give_the_same_bits(processes: int) -> None:
    whole, parts = flat(total(terms(16))), terms(16)
    each = 16 // processes
    nodes = [total(parts[start : start + each]) for start in range(0, 16, each)]
    assert all(a.equal(b) for a, b in zip(flat(total(nodes)), whole, strict=True))


def test_a_plain_sum_has_other_bits() -> None:
    one_by_one = terms(16)[0].tensors[0].clone()
    for term in terms(16)[1:]:
        one_by_one += term.tensors[0]
    assert not one_by_one.equal(total(terms(16)).tensors[0])


def test_no_terms_are_refused_and_a_sum_is_empty_afterwards() -> None:
    tree = TreeSum()
    tree.add(terms(1)[0])
    tree.total()
    with pytest.raises(ValueError, match="without terms"):
        tree.total()


def test_tensors_that_share_memory_are_copied() -> None:
    base = torch.ones(3)
    same, wide, own = base, torch.ones(1).expand(3), torch.zeros(3)
    result = separate([base, same, wide, own])
    assert [t.tolist() for t in result] == [[1.0] * 3] * 3 + [[0.0] * 3]
    assert result[0] is base and result[3] is own
    assert len({t.untyped_storage().data_ptr() for t in result}) == 4
    assert all(t.is_contiguous() for t in result)


def test_rows_of_a_lookup_are_autograds_dense_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.token_embedding = nn.Embedding(30, 5)
    ids, weight = torch.randint(0, 30, (4, 6)), torch.randn(4, 6, 5)
    (model.token_embedding(ids) * weight).sum().backward()
    found = text_embedding(model)
    assert found is not None and found[0] == "token_embedding.weight"
    with recorded(found[1]) as lookups:
        output = (found[1](ids) * weight).sum()
    (gradient,) = torch.autograd.grad(output, [lookups[0].output])
    table = Table(found[1].weight)
    for _ in range(2):
        dense = table.fill(Rows.collect(lookups[0].ids, gradient))
        assert dense.equal(found[1].weight.grad)
    assert not Table(found[1].weight).fill(Rows.collect(ids[:0], gradient[:0])).any()


def test_an_embedding_used_elsewhere_is_left_to_autograd() -> None:
    model = nn.Module()
    model.token_embedding = nn.Embedding(30, 5)
    model.head = nn.Linear(5, 30, bias=False)
    model.head.weight = model.token_embedding.weight
    assert text_embedding(model) is None
