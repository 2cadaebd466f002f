"""How far weights went from others: per block and as a whole.

Rule: relative L2, |w - w0| / |w0|, in float64, over all numbers of a group at once; undefined (None) where w0 is zero.
A group is one transformer block, or one tensor's module outside of the blocks; towers and the whole come besides.
The logit scale belongs to the whole alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[np.floating]]

WHOLE, IMAGE, TEXT = "whole", "image tower", "text tower"
LOGIT_SCALE = "logit_scale"
_BLOCK = re.compile(r"(.*?\bresblocks\.\d+)\.")


@dataclass(frozen=True)
class Distance:
    """How far one group of weights is from another state of it.

    Attributes:
        l2: |w - w0|.
        norm: |w|.
        reference_norm: |w0|.
        relative: l2 / reference_norm; None where that is 0.
        cosine: of w and w0; None where one of them is 0.
    """

    l2: float
    norm: float
    reference_norm: float
    relative: float | None
    cosine: float | None


def distances(weights: Tensors, reference: Tensors) -> dict[str, Distance]:
    """Distance of every group, whole and towers first, then groups in the order of their tensors' names.

    Raises:
        ValueError: the two are not of one model.
    """
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in reference.items()}:
        raise ValueError("weights of two models have no distance")
    sums: dict[str, list[list[float]]] = {}
    for name in sorted(weights):
        w, w0 = (np.asarray(tensors[name], dtype=np.float64).reshape(-1) for tensors in (weights, reference))
        moved = w - w0
        terms = [float(values.sum()) for values in (moved * moved, w * w, w0 * w0, w * w0)]
        for group in groups(name):
            sums.setdefault(group, []).append(terms)
    first = [group for group in (WHOLE, IMAGE, TEXT) if group in sums]
    rest = sorted((group for group in sums if group not in first), key=_natural)
    return {
        group: _distance([math.fsum(column) for column in zip(*sums[group], strict=True)]) for group in first + rest
    }


def groups(name: str) -> tuple[str, ...]:
    """The groups that a tensor is of."""
    if name == LOGIT_SCALE:
        return (WHOLE,)
    block = _BLOCK.match(name)
    own = block.group(1) if block else re.sub(r"\.(weight|bias)$", "", name)
    return WHOLE, IMAGE if name.startswith("visual.") else TEXT, own


def _distance(sums: list[float]) -> Distance:
    moved, own, before, inner = sums
    norms = math.sqrt(moved), math.sqrt(own), math.sqrt(before)
    return Distance(
        l2=norms[0],
        norm=norms[1],
        reference_norm=norms[2],
        relative=norms[0] / norms[2] if before > 0 else None,
        cosine=inner / (norms[1] * norms[2]) if own > 0 and before > 0 else None,
    )


def _natural(name: str) -> tuple[object, ...]:
    """Block 10 after block 9."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name))
