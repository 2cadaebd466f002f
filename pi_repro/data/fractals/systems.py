"""Iterated function systems in the plane and where their points fall.

A system is 2 to 4 affine maps x -> A x + b, each a contraction; a walker that applies one of them at random, again
and again, paints the system's attractor (Barnsley 1988; as training images: Kataoka et al. 2020, FractalDB; maps
drawn by singular values as in Anderson & Farrell 2022).

RULE: the same system gives the same counts on every CPU. Arithmetic is additions, multiplications and divisions of
float64, one at a time, which IEEE 754 fixes to the bit: no sine, no power, no library's sum. A rotation is by a
rational point of the circle, a choice compares integers, and draws are Philox's raw numbers by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pi_repro.data.randomness import raw

MAPS = 4
#: Largest of the two factors by which a map contracts, and the range of the smaller one's share of it.
_CONTRACTION = (0.35, 0.85)
_FLATNESS = (0.4, 1.0)
#: Numbers that a map is made of.
_DRAWS = 9
#: Steps before a walker is on the attractor: 0.85 ** 14 is a tenth.
_BURN_IN = 14
_MARGIN = 0.04

#: Affine maps of several systems, [systems, MAPS, 6] as (a, b, c, d, e, f): x' = a x + b y + e, y' = c x + d y + f.
Maps = np.ndarray


@dataclass(frozen=True)
class Systems:
    """Several systems.

    Attributes:
        maps: [n, MAPS, 6] float64; those that a system lacks are zero.
        chances: [n, MAPS] int64, upper ends in 0..65536 of each map's share of the choices, rising.
    """

    maps: Maps
    chances: np.ndarray

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, places: np.ndarray | slice) -> Systems:
        return Systems(self.maps[places], self.chances[places])


def drawn(keys: Sequence[tuple[int | str, ...]]) -> Systems:
    """One system for each key."""
    numbers = np.stack([_unit(raw(1 + MAPS * _DRAWS, *key)) for key in keys])
    present = np.arange(MAPS) < 2 + (numbers[:, :1] * (MAPS - 1)).astype(np.int64)
    share = numbers[:, 1:].reshape(len(keys), MAPS, _DRAWS)
    large = _between(share[..., 0], _CONTRACTION)
    small = large * _between(share[..., 1], _FLATNESS) * np.where(share[..., 7] < 0.5, -1.0, 1.0)
    (c1, s1), (c2, s2) = (_rotation(share[..., 2], share[..., 5]), _rotation(share[..., 3], share[..., 6]))
    # Rotation x scaling x rotation, written out.
    maps = np.stack(
        [
            c1 * large * c2 - s1 * small * s2,
            -(c1 * large * s2) - s1 * small * c2,
            s1 * large * c2 + c1 * small * s2,
            c1 * small * c2 - s1 * large * s2,
            2.0 * share[..., 4] - 1.0,
            2.0 * share[..., 8] - 1.0,
        ],
        axis=-1,
    )
    return with_chances(np.where(present[..., None], maps, 0.0))


def changed(systems: Systems, change: float, keys: Sequence[tuple[int | str, ...]]) -> Systems:
    """The systems with every number of every map multiplied by one between 1 - change and 1 + change, one key each."""
    numbers = np.stack([_unit(raw(MAPS * 6, *key)) for key in keys]).reshape(systems.maps.shape)
    return with_chances(systems.maps * (1.0 + change * (2.0 * numbers - 1.0)))


def with_chances(maps: Maps) -> Systems:
    """Systems whose maps are chosen in proportion to their area, none of them less than a fiftieth of the time."""
    area = np.abs(maps[..., 0] * maps[..., 3] - maps[..., 1] * maps[..., 2])
    present = (maps != 0).any(axis=-1)
    weight = np.where(present, np.maximum(area, 0.02), 0.0)
    ends = np.zeros_like(weight)
    total = weight[:, 0] + weight[:, 1] + weight[:, 2] + weight[:, 3]
    running = np.zeros(len(maps))
    for place in range(MAPS):
        running = running + weight[:, place]
        ends[:, place] = running / total
    return Systems(maps, np.floor(ends * 65536.0).astype(np.int64))


def counts(
    systems: Systems, size: int, walkers: int, steps: int, keys: Sequence[tuple[int | str, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """How often walkers fall on each pixel, by the map that brought them there.

    Args:
        systems: n of them.
        size: S, pixels a side; the attractor's bounding box fills the picture but for a margin.
        walkers: side by side.
        steps: counted for each walker, after those that bring it to the attractor.
        keys: of the walkers' choices, one a system.

    Returns:
        int64 [n, MAPS, S, S], and the length of each bounding box's longer side, float64 [n]; it is 0 where the
        attractor is a point.
    """
    n = len(systems)
    whole = (_BURN_IN + steps) * walkers
    choices = np.stack([raw(-(-whole // 4), *key).astype("<u8").view("<u2")[:whole] for key in keys])
    choices = choices.reshape(n, _BURN_IN + steps, walkers).astype(np.int64)
    x, y = np.zeros((n, walkers)), np.zeros((n, walkers))
    xs, ys = np.empty((steps, n, walkers)), np.empty((steps, n, walkers))
    by = np.empty((steps, n, walkers), dtype=np.int64)
    flat = systems.maps.reshape(n * MAPS, 6).T.copy()
    first, last = (np.arange(n) * MAPS)[:, None], _last(systems)[:, None]
    for step in range(_BURN_IN + steps):
        drawn = choices[:, step]
        which = sum((drawn >= systems.chances[:, place, None]).astype(np.int64) for place in range(MAPS - 1))
        which = np.minimum(which, last)
        a, b, c, d, e, f = (column[first + which] for column in flat)
        x, y = a * x + b * y + e, c * x + d * y + f
        if step >= _BURN_IN:
            xs[step - _BURN_IN], ys[step - _BURN_IN], by[step - _BURN_IN] = x, y, which
    low_x, high_x = xs.min(axis=(0, 2)), xs.max(axis=(0, 2))
    low_y, high_y = ys.min(axis=(0, 2)), ys.max(axis=(0, 2))
    extent = np.maximum(high_x - low_x, high_y - low_y)
    scale = (1.0 - 2.0 * _MARGIN) * size / np.where(extent > 0, extent, 1.0)
    column = _pixel(xs, (low_x + high_x) / 2.0, scale, size)
    row = _pixel(ys, (low_y + high_y) / 2.0, scale, size)
    place = ((np.arange(n)[:, None] * MAPS + by) * size + row) * size + column
    found = np.bincount(place.ravel(), minlength=n * MAPS * size * size)
    return found.reshape(n, MAPS, size, size), extent


def _last(systems: Systems) -> np.ndarray:
    """Number of the last map that each system has."""
    present = (systems.maps != 0).any(axis=-1)
    return np.asarray(present.sum(axis=1) - 1)


def _pixel(values: np.ndarray, middle: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    found = np.floor((values - middle[:, None]) * scale[:, None] + size / 2.0).astype(np.int64)
    return np.asarray(np.clip(found, 0, size - 1))


def _rotation(share: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle: rational points of the circle, both halves alike, a little denser at the sides."""
    t = 2.0 * share - 1.0
    below = 1.0 + t * t
    cosine, sine = (1.0 - t * t) / below, 2.0 * t / below
    sign = np.where(side < 0.5, -1.0, 1.0)
    return sign * cosine, sign * sine


def _between(share: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * share


def _unit(numbers: np.ndarray) -> np.ndarray:
    """Raw 64-bit numbers as float64 in [0, 1), exactly."""
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
