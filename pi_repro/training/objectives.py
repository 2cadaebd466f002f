"""What alignment minimizes: a loss a sample, on features of the sample's images.

Rule: an objective returns one loss for each sample and never averages over samples, because the
mean over a batch is taken by the fixed tree. It is given one micro-batch at a time, in every mode, so a loss that
compares samples compares those of one micro-batch. Others are added by entry points in
pi_repro.objectives: a callable that takes the options as keywords and returns an `Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as functional

from pi_repro.spec.plugins import SelfSupervised as SelfSupervisedOptions
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


class SelfSupervised:
    """NT-Xent on three label-free views of a sample: the reference and its two variants, each augmented by itself.

    For view a of sample i, unit vectors z and temperature T, over the 3m views of the micro-batch:
    loss(i, a) = mean over the sample's other two views p of  -z_ia.z_p / T + log sum over all views n except (i, a)
    itself of exp(z_ia.z_n / T); the sample's loss is the mean of its three. With two views this is SimCLR's loss
    (Chen et al. 2020, eq. 1); for more positives it is Khosla et al. 2020, eq. 2 (each positive stands in the
    denominator of the others). No vote is read: left and right count alike.
    """

    images: Sequence[str] = ("ref", "left", "right")

    def __init__(self, options: SelfSupervisedOptions) -> None:
        self.temperature = options.temperature

    def loss(self, features: Tensors, targets: Tensors) -> torch.Tensor:  # noqa: ARG002 (the protocol's)
        """See `Objective`; needs nothing but the features."""
        views = [functional.normalize(features[name], dim=-1) for name in self.images]
        every = torch.cat(views)
        samples, count = len(views[0]), len(views)
        total = views[0].new_zeros(samples)
        for place, view in enumerate(views):
            logits = view @ every.T / self.temperature
            itself = torch.zeros_like(logits, dtype=torch.bool)
            torch.split(itself, samples, dim=1)[place].fill_diagonal_(True)
            whole = logits.masked_fill(itself, float("-inf")).logsumexp(1)
            for other, block in enumerate(torch.split(logits, samples, dim=1)):
                if other != place:
                    total = total + whole - block.diagonal()
        return total / (count * (count - 1))


def objective(plugin: Plugin) -> Objective:
    """The objective that a spec names.

    Raises:
        RequestError: unknown name or options.
    """
    built_in: dict[str, Callable[[Any], Objective]] = {
        "triplet_hinge": TripletHinge,
        "self_supervised": SelfSupervised,
    }
    return parts.make("objectives", plugin, built_in)
