"""All pairs of two sets of 64-bit hashes that differ in few bits, exactly, in memory that does not grow with them.

Rule (multi-index hashing): cut the 64 bits into m bands; where two hashes differ in d bits, some band differs in
floor(d / m) at most, and only the first d mod m + 1 bands need that much. So all keys within that reach of a query's
band are looked up in a table of the other set's band, and what is found there is compared in full. A pair that several
bands find is given by the first of them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np

#: Hashes of the larger set that lie in tables at once, and candidates that are compared at once.
BLOCK, STEP = 1 << 22, 1 << 20
#: The most bits that may differ: beyond it strangers meet by chance, and a search is no faster than comparing all.
MOST = 12


@dataclass(frozen=True)
class Pairs:
    """Some near pairs: rows of either set, int64, and the bits in which they differ, uint8."""

    left: np.ndarray
    right: np.ndarray
    bits: np.ndarray


@dataclass(frozen=True)
class _Band:
    """Bits [low, low + wide) of a hash, looked up with up to `reach` of them turned."""

    low: int
    wide: int
    reach: int

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """The band's bits, as numbers."""
        bits: np.ndarray = np.right_shift(hashes, np.uint64(self.low)) & np.uint64((1 << self.wide) - 1)
        return bits.astype(np.int64)

    def masks(self) -> np.ndarray:
        """What to turn for each key within reach."""
        turned = [
            sum(1 << bit for bit in chosen)
            for many in range(self.reach + 1)
            for chosen in combinations(range(self.wide), many)
        ]
        return np.array(turned, dtype=np.int64)

    def reaches(self, differing: np.ndarray) -> np.ndarray:
        """Where two hashes with these differing bits meet in this band."""
        near_by: np.ndarray = np.bitwise_count(differing & np.uint64(((1 << self.wide) - 1) << self.low)) <= self.reach
        return near_by


def near(left: np.ndarray, right: np.ndarray, within: int) -> Iterator[Pairs]:
    """Every pair of rows whose hashes differ in at most `within` bits, each once, in no order.

    Args:
        left: int64, any length; the larger of the two searches faster here.
        right: int64.
        within: bits, 0 to `MOST`.

    Raises:
        ValueError: another type or distance.
    """
    if left.dtype != np.int64 or right.dtype != np.int64 or not 0 <= within <= MOST:
        raise ValueError(f"hashes of {left.dtype} and {right.dtype}, {within} bits")
    queries = right.view(np.uint64)
    for begin in range(0, len(left), BLOCK):
        block = left[begin : begin + BLOCK].view(np.uint64)
        bands = _bands(within, len(block))
        for number, band in enumerate(bands):
            yield from _found(block, queries, within, bands[:number], band, begin)


@cache
def _bands(within: int, table: int) -> tuple[_Band, ...]:
    """The bands by which a search costs least among `table` hashes that are spread evenly."""

    def cut(many: int) -> tuple[_Band, ...]:
        reach, rest = divmod(within, many)
        found, low = [], 0
        for number in range(many):
            wide = 64 // many + (number < 64 % many)
            if (own := reach if number <= rest else reach - 1) >= 0:
                found.append(_Band(low, wide, own))
            low += wide
        return tuple(found)

    def cost(bands: tuple[_Band, ...]) -> float:
        probes = [sum(comb(band.wide, turned) for turned in range(band.reach + 1)) for band in bands]
        return sum(many * (1 + table / (1 << band.wide)) for many, band in zip(probes, bands, strict=True))

    # At least three: a table has a place for every key, 2^22 of them then.
    return min((cut(many) for many in range(3, 17)), key=cost)


def _found(
    block: np.ndarray, queries: np.ndarray, within: int, earlier: tuple[_Band, ...], band: _Band, begin: int
) -> Iterator[Pairs]:
    """The pairs that this band finds and none of the earlier ones."""
    keys = band.of(block)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    starts = np.zeros((1 << band.wide) + 1, dtype=np.int32)
    np.cumsum(np.bincount(keys, minlength=1 << band.wide), out=starts[1:])
    del keys
    hashes, masks = block[order], band.masks()
    many = max(1, STEP // len(masks))
    for first in range(0, len(queries), many):
        asked = queries[first : first + many]
        keys = (band.of(asked)[:, None] ^ masks).ravel()
        at, sizes = starts[keys], starts[keys + 1] - starts[keys]
        hit = np.flatnonzero(sizes)
        at, sizes, who = at[hit], sizes[hit], hit // len(masks)
        ends = np.cumsum(sizes, dtype=np.int64)
        # A key that many hashes share may alone hold more than a step: candidates are counted, not keys.
        for low in range(0, int(ends[-1]) if len(ends) else 0, STEP):
            one, other = np.searchsorted(ends, [low, low + STEP - 1], side="right")
            span = slice(one, other + 1)
            before = ends[span] - sizes[span]
            skip = np.maximum(low - before, 0)
            taken = np.minimum(ends[span], low + STEP) - before - skip
            places = np.repeat(at[span] + skip - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())
            rows = np.repeat(who[span], taken)
            differing = hashes[places] ^ asked[rows]
            bits = np.bitwise_count(differing)
            good = np.flatnonzero(bits <= within)
            for before_it in earlier:
                good = good[~before_it.reaches(differing[good])]
            if len(good):
                yield Pairs(order[places[good]].astype(np.int64) + begin, rows[good] + first, bits[good])
