"""The symmetric contrastive loss of CLIP by rows, with its gradient in closed form.

Rule: of the N x N logits only m rows of each of the two matrices (images against texts, texts
against images) exist at a time. Every function takes the rows of one micro-batch, so its bits
depend on m and N alone, however many micro-batches are computed side by side.

Gradient (checked against autograd in float64): with L the logits image x text, over images r and
texts c, dLoss/dL = (exp(L - lse_row) + exp(L - lse_column) - 2 I) / 2N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Features:
    """Normalized features of one contrastive batch, in canonical order.

    Attributes:
        image: [N, D].
        text: [N, D].
        scale: exp(logit scale), a scalar tensor.
    """

    image: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor

    def logits(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of images against texts and of texts against images, each [m, N]."""
        return self.scale * (self.image[rows] @ self.text.T), self.scale * (self.text[rows] @ self.image.T)


@dataclass(frozen=True)
class RowSums:
    """Log-sum-exps of logits: `image` over the texts of each image, `text` over the images of each text."""

    image: torch.Tensor
    text: torch.Tensor

    @classmethod
    def cat(cls, parts: Sequence[RowSums]) -> RowSums:
        """Those of consecutive rows."""
        return cls(torch.cat([part.image for part in parts]), torch.cat([part.text for part in parts]))


@dataclass(frozen=True)
class RowGradients:
    """What one micro-batch contributes.

    Attributes:
        image: gradient of the batch's loss at the rows' image features, [m, D].
        text: the same at their text features, [m, D].
        logit_scale: the rows' share of the gradient at the log scale, float64 scalar.
        loss: the rows' share of the loss, float64 scalar.
    """

    image: torch.Tensor
    text: torch.Tensor
    logit_scale: torch.Tensor
    loss: torch.Tensor


def row_sums(features: Features, rows: slice) -> RowSums:
    """Log-sum-exps of the rows of one micro-batch, each [m]."""
    image, text = features.logits(rows)
    return RowSums(image.logsumexp(1), text.logsumexp(1))


def row_gradients(features: Features, sums: RowSums, rows: slice) -> RowGradients:
    """Loss and gradients of the rows of one micro-batch.

    Args:
        features: of the whole batch.
        sums: of the whole batch, each [N].
        rows: of the micro-batch.
    """
    total = len(features.image)
    image, text = features.logits(rows)
    loss = sum(
        (lse - logits.diagonal(rows.start)).sum(dtype=torch.float64)
        for lse, logits in ((sums.image[rows], image), (sums.text[rows], text))
    )
    at_image = _at_logits(image, sums.image[rows], sums.text, rows.start)
    at_text = _at_logits(text, sums.text[rows], sums.image, rows.start)
    return RowGradients(
        image=features.scale * (at_image @ features.text),
        text=features.scale * (at_text @ features.image),
        logit_scale=(at_image * image).sum(dtype=torch.float64),
        loss=torch.as_tensor(loss) / (2 * total),
    )


def _at_logits(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, start: int) -> torch.Tensor:
    gradient = (logits - rows[:, None]).exp_().add_((logits - columns).exp_())
    gradient.diagonal(start).sub_(2)
    return gradient.div_(2 * logits.shape[1])
