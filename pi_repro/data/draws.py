"""Keyed draws of a share of things, for doses: exact in number, and nested.

Rule: what a smaller share draws is part of what a larger one draws by the same key, so two doses differ in what
was added and in nothing else.
"""

from __future__ import annotations

import numpy as np

from pi_repro.data.randomness import permutation
from pi_repro.errors import RequestError


def share_of(count: int, share: float, *key: int | str) -> np.ndarray:
    """round(share x count) of 0..count-1, int64, in the order of the draw: its beginnings are the smaller shares."""
    chosen: np.ndarray = permutation(count, *key)[: round(share * count)]
    return chosen


def swapped(count: int, share: float, *key: int | str) -> np.ndarray:
    """Whose part each of 0..count-1 takes: a share of them takes that of the next one drawn, in a ring; int64 [count].

    Raises:
        RequestError: the share is one alone, which has nobody to take from.
    """
    chosen = share_of(count, share, *key)
    if len(chosen) == 1:
        raise RequestError("one alone has nobody to swap with", given=f"{share:g} of {count}", allowed="none, or two")
    source = np.arange(count)
    source[chosen] = np.roll(chosen, -1)
    return source
