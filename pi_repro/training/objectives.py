"""What alignment minimizes: a loss a sample, on features of the sample's images.

Rule: an objective returns one loss for each sample and never averages over samples, because the
mean over a batch is taken by the fixed tree. Others are added by entry points in
pi_repro.objectives: a callable that takes the options as keywords and returns an `Objective`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as functional

from pi_repro.spec.plugins import TripletHinge as TripletHingeOptions
from pi_repro.spec.training import Plugin

from . import parts

Tensors = Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A loss on image features."""

    #: Names of the sample's images that are encoded.
    images: Sequence[str]

    def loss(self, features: Tensors, targets: Tensors) -> torch.Tensor:
        """Loss of each sample.

        Args:
            features: image name -> float32 [m, D], the tower's final projected output, not normalized.
            targets: everything else in the micro-batch, such as "label" uint8 [m].

        Returns:
            float32 [m].
        """
        ...


class TripletHinge:
    """Hinge on the difference of cosine distances (FACTS 1.2; Fu et al. 2023, DreamSim).

    With d0, d1 the distances of left and right from the reference, and y = 1 where right was
    called closer: max(0, margin - (d0 - d1)(2y - 1)).
    """

    images: Sequence[str] = ("ref", "left", "right")

    def __init__(self, options: TripletHingeOptions) -> None:
        self.margin = options.margin

    def loss(self, features: Tensors, targets: Tensors) -> torch.Tensor:
        """See `Objective`; needs "label"."""
        ref, left, right = (functional.normalize(features[name], dim=-1) for name in self.images)
        difference = (1 - (ref * left).sum(-1)) - (1 - (ref * right).sum(-1))
        sign = 2 * targets["label"].to(difference.dtype) - 1
        return functional.relu(self.margin - difference * sign)


def objective(plugin: Plugin) -> Objective:
    """The objective that a spec names.

    Raises:
        RequestError: unknown name or options.
    """
    return parts.make("objectives", plugin, {"triplet_hinge": TripletHinge})
