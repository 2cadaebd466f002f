"""CLIP's loss on a fixed batch of pairs, as a function of the weights that are moved.

Rule: one contrastive batch, images prepared as for evaluation, fp32 forward passes of one batch shape, the loss itself
in float64; the gradient is the loss's own, sent back through one forward pass after another, so that the memory of one
is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from pi_repro.evaluation.embed import Embedder, Pulse, no_pulse, pad
from pi_repro.evaluation.pictures import Pictures

from .sharpness import Weights, matrices


class PairLoss:
    """The loss of one model on some pairs.

    Args:
        embedder: of the model, in fp32; the weights that move are overwritten until `close`.
        pictures: the images.
        tokens: their captions, int64 [N, L], in the same order.
        towers: "image" or "both": whose matrices move.
        pulse: told after each forward pass; may raise to stop.
    """

    def __init__(
        self, embedder: Embedder, pictures: Pictures, tokens: torch.Tensor, towers: str, pulse: Pulse = no_pulse
    ) -> None:
        self._embedder, self._pictures, self._tokens, self._pulse = embedder, pictures, tokens, pulse
        parameters = dict(embedder.model.named_parameters())
        names = matrices({name: tuple(p.shape) for name, p in parameters.items()}, towers)
        self._moving = {name: parameters[name] for name in names}
        self._index = torch.from_numpy(pictures.index)
        model: Any = embedder.model
        self._scale = float(model.logit_scale.detach().double().exp())
        self._text = None if towers == "both" else embedder.texts(tokens, pulse)
        #: The weights as they came.
        self.weights: dict[str, npt.NDArray[np.float32]] = {
            name: p.detach().cpu().numpy().copy() for name, p in self._moving.items()
        }

    def at(self, weights: Weights) -> float:
        """The loss where the matrices have these values."""
        self._put(weights)
        distinct = self._embedder.images(self._pictures.batches(), len(self._pictures), self._pulse)
        text = self._embedder.texts(self._tokens, self._pulse) if self._text is None else self._text
        return float(clip_loss(distinct[self._index.to(distinct.device)], text, self._scale))

    def gradient(self) -> dict[str, npt.NDArray[np.float32]]:
        """Of the loss at the weights as they came, for what moves."""
        self._put(self.weights)
        distinct = self._embedder.images(self._pictures.batches(), len(self._pictures), self._pulse)
        text = self._embedder.texts(self._tokens, self._pulse) if self._text is None else self._text
        # Clones: what inference mode made can't be part of a graph.
        leaves = [features.clone().double().requires_grad_() for features in (distinct, text)]
        torch.autograd.backward(clip_loss(leaves[0][self._index.to(distinct.device)], leaves[1], self._scale))
        model: Any = self._embedder.model
        model.requires_grad_(False)
        for parameter in self._moving.values():
            parameter.requires_grad_(True).grad = None
        self._send_back(
            self._pictures.batches(), leaves[0].grad, lambda b: model.encode_image(self._embedder.prepare(b))
        )
        if self._text is None:
            self._send_back(torch.split(self._tokens, self._embedder.batch), leaves[1].grad, model.encode_text)
        found = {}
        for name, parameter in self._moving.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = gradient.cpu().numpy().copy()
            parameter.requires_grad_(False).grad = None
        return found

    def close(self) -> None:
        """Give the model its weights back."""
        self._put(self.weights)

    def _send_back(self, batches: Any, gradient: Any, encode: Any) -> None:
        done = 0
        for batch in batches:
            features = encode(pad(batch, self._embedder.batch).to(self._embedder.device))[: len(batch)]
            part = gradient[done : done + len(batch)].float()
            torch.autograd.backward(functional.normalize(features.float(), dim=-1), part)
            done += len(batch)
            self._pulse(done, len(gradient))

    def _put(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        with torch.no_grad():
            for name, parameter in self._moving.items():
                parameter.copy_(torch.from_numpy(weights[name]))


def clip_loss(image: torch.Tensor, text: torch.Tensor, scale: float) -> torch.Tensor:
    """Mean of the two cross-entropies of matching N images and N texts, float64 scalar (Radford et al. 2021, fig. 3).

    Args:
        image, text: unit-length features [N, D]; row i of one belongs to row i of the other.
        scale: exp(logit scale).
    """
    logits = scale * (image.double() @ text.double().T)
    right = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
