"""How fast a loss rises when weights are moved by a set share of their own size.

Rule: only matrices move (no biases, norms or class token), and what is the same function of the same size moves the
same share, so that two networks of different weight norms are comparable. Random directions are normalized filter by
filter (Li et al., NeurIPS 2018, sec. 4) and drawn by a key of tensor and direction: every arm, seed and checkpoint
is shaken in the same directions. The ascent goes along the gradient, the step as long as a share of the weights' norm
(Foret et al., ICLR 2021, eq. 2, relative).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pi_repro.data.randomness import generator

from .exact import Floats

Weights = Mapping[str, npt.NDArray[np.float32]]
#: Gives the loss at some weights, or raises to stop.
Loss = Callable[[Weights], float]


@dataclass(frozen=True)
class Sharpness:
    """Rises of a loss.

    Attributes:
        loss: at the weights themselves.
        random: [directions, radii] rise along each random direction.
        ascent: [radii] rise along the gradient.
        gradient_norm: of the loss over what moves.
    """

    loss: float
    random: Floats
    ascent: Floats
    gradient_norm: float


def sharpness(
    weights: Weights,
    loss: Loss,
    gradient: Mapping[str, npt.NDArray[np.floating]],
    radii: Sequence[float],
    directions: int,
) -> Sharpness:
    """How a loss rises around some weights.

    Args:
        weights: what moves: matrices by name.
        loss: at other values of them.
        gradient: of the loss at `weights`, by the same names.
        radii: lengths of the moves as shares of the weights' norm.
        directions: random ones; every radius is tried in each.
    """
    base = loss(weights)
    random = [
        [loss(moved(weights, direction, radius)) - base for radius in radii]
        for direction in (filter_normalized(weights, number) for number in range(directions))
    ]
    size = norm(gradient)
    uphill = {name: np.asarray(part, np.float64) for name, part in gradient.items()}
    scale = norm(weights) / size if size > 0 else 0.0
    uphill = {name: part * scale for name, part in uphill.items()}
    ascent = [loss(moved(weights, uphill, radius)) - base for radius in radii]
    shape = (directions, len(radii))
    return Sharpness(base, np.array(random, np.float64).reshape(shape), np.array(ascent, np.float64), size)


def filter_normalized(weights: Weights, number: int) -> dict[str, Floats]:
    """A Gaussian direction whose every filter is as long as the weights' own; a filter is a slice of the first axis.

    Args:
        weights: matrices (or kernels) by name.
        number: of the direction.
    """
    found = {}
    for name, w in weights.items():
        drawn = generator("sharpness", number, name).standard_normal(w.shape)
        flat = drawn.reshape(len(w), -1)
        own = np.sqrt(np.square(np.asarray(w, np.float64).reshape(len(w), -1)).sum(axis=1, keepdims=True))
        length = np.sqrt(np.square(flat).sum(axis=1, keepdims=True))
        found[name] = (flat * (own / length)).reshape(w.shape)
    return found


def moved(weights: Weights, direction: Mapping[str, Floats], radius: float) -> dict[str, npt.NDArray[np.float32]]:
    """weights + radius x direction, rounded once."""
    return {name: (w + radius * direction[name]).astype(np.float32) for name, w in weights.items()}


def norm(tensors: Mapping[str, npt.NDArray[np.floating]]) -> float:
    """L2 norm over all numbers."""
    return math.sqrt(math.fsum(float(np.square(np.asarray(part, np.float64)).sum()) for part in tensors.values()))


def matrices(names_and_shapes: Mapping[str, Sequence[int]], tower: str) -> tuple[str, ...]:
    """Names of the tensors that move, sorted: of the image tower, or of both ("both"), with two axes or more."""
    chosen = (
        name
        for name, shape in names_and_shapes.items()
        if len(shape) >= 2 and (tower == "both" or name.startswith("visual."))
    )
    return tuple(sorted(chosen))
