"""The gradient of CLIP's loss and an auxiliary term on the image tower, in one update.

Rule: each term's gradient is summed over its micro-batches by the tree, across all processes; then the two sums
are added, the auxiliary one times its weight. So the bits don't depend on who computed what.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .step import Batch, Gradient, Learner

#: Names of the two terms in the ledger.
CLIP, AUXILIARY = "loss_clip", "loss_auxiliary"


class Joint:
    """Loss = CLIP's + weight x the auxiliary one's.

    Args:
        pairs: gives CLIP's gradient, at every parameter that trains.
        triplets: gives the term's gradient, at some of these; its micro-batches come after those of the pairs.
        weight: of the term.
    """

    def __init__(self, pairs: Learner, triplets: Learner, weight: float) -> None:
        self.pairs, self.triplets, self.weight = pairs, triplets, weight

    def gradient(self, update: int, micro_batches: Iterator[Batch]) -> Gradient:
        """See `Learner`."""
        pairs = self.pairs.gradient(update, micro_batches)
        triplets = self.triplets.gradient(update, micro_batches)
        names = list(triplets.values)
        torch._foreach_add_(
            [pairs.values[name] for name in names], [triplets.values[name] for name in names], alpha=self.weight
        )
        terms = {CLIP: pairs.loss, AUXILIARY: triplets.loss}
        return Gradient(pairs.values, pairs.loss + self.weight * triplets.loss, terms)

    def settle(self) -> None:
        """See `Learner`."""
        self.pairs.settle()
