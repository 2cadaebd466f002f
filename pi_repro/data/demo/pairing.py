"""Which two distortions of a reference make a triplet, and which side is left: keyed draws with exact balance.

RULE: of each reference's triplets exactly half go against pixel error (the side that people prefer has the larger
error); of each split's triplets, half of those and half of the others have the preferred side on the right, up
to one. Nothing else about a triplet follows from its side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from pi_repro.data.randomness import permutation

from .cells import Cell, error, shrink
from .distortions import Pixels, distort
from .kadid import Order

#: True where a cell pair (better, worse) may be used.
Allowed = Callable[[Cell, Cell], bool]


@dataclass(frozen=True)
class Side:
    """A distorted reference: the stimulus, uint8 [S, S, 3], and its root mean square error in grey levels."""

    cell: Cell
    error: float
    pixels: Pixels = field(repr=False)


@dataclass(frozen=True)
class Triplet:
    """A reference with the side that people prefer and the other one.

    Attributes:
        reference: which one.
        votes: of the 81 photographs, how many were scored better with the preferred side's distortion.
        against: True where the preferred side has the larger pixel error.
    """

    reference: str
    better: Side
    worse: Side
    votes: int
    against: bool


def sides_of(pixels: Pixels, size: int, cells: Sequence[Cell], count: int, key: Sequence[int | str]) -> list[Side]:
    """A keyed draw of `count` cells, applied to a reference on the canvas and shrunk to `size`."""
    drawn = sorted(int(place) for place in permutation(len(cells), "cells", *key)[:count])
    small = shrink(pixels, size)
    found = []
    for cell in (cells[place] for place in drawn):
        distorted = shrink(distort(pixels, cell.kind, cell.level, "sides", *key), size)
        found.append(Side(cell, error(small, distorted), distorted))
    return found


def pair_up(
    reference: str,
    sides: Sequence[Side],
    order: Order,
    allowed: Allowed,
    change: float,
    most: int,
    used: Counter[tuple[Cell, Cell]],
    key: Sequence[int | str],
) -> list[Triplet]:
    """At most `most` triplets of one reference, half of them against pixel error.

    Pairs of cells that were used least so far come first, which keeps a split from leaning on a few of them.

    Args:
        reference: its name.
        sides: from `sides_of`.
        order: what people said.
        allowed: which pairs of cells may be used.
        change: a side that differs less from its reference (grey levels) is not used.
        most: an even number.
        used: how often each pair of cells was used; counted up here.
        key: of the draw among pairs that were used equally often.
    """
    candidates: dict[bool, list[tuple[Side, Side]]] = {False: [], True: []}
    for better, worse in permutations([side for side in sides if side.error >= change], 2):
        if better.cell.kind == worse.cell.kind or better.error == worse.error:
            continue
        if order.prefers(better.cell.index, worse.cell.index) and allowed(better.cell, worse.cell):
            candidates[better.error > worse.error].append((better, worse))
    count = min(most // 2, *(len(pairs) for pairs in candidates.values()))
    found = []
    for against, pairs in candidates.items():
        luck = permutation(len(pairs), "pairs", int(against), *key)
        ranked = sorted(range(len(pairs)), key=lambda place: (used[_cells(pairs[place])], luck[place]))
        for better, worse in (pairs[place] for place in ranked[:count]):
            used[better.cell, worse.cell] += 1
            votes = int(order.votes[better.cell.index, worse.cell.index])
            found.append(Triplet(reference, better, worse, votes, against))
    return found


def _cells(pair: tuple[Side, Side]) -> tuple[Cell, Cell]:
    return pair[0].cell, pair[1].cell


def labelled(triplets: Iterable[Triplet], key: Sequence[int | str]) -> list[tuple[Triplet, int]]:
    """Each triplet with its label (1: the preferred side is on the right), in a keyed order, halves balanced."""
    every = list(triplets)
    labels = [0] * len(every)
    for against in (False, True):
        places = [place for place, triplet in enumerate(every) if triplet.against == against]
        for rank, place in enumerate(permutation(len(places), "labels", int(against), *key)):
            labels[places[int(place)]] = (rank + against) % 2
    return [(every[int(place)], labels[int(place)]) for place in permutation(len(every), "order", *key)]
