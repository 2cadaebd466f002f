"""The text tower as the authors' lineage has it, on open_clip's parameters (FACTS 1.5, 1).

Rule: the tensors and their names are open_clip's, what is computed with them is not: attention sees every
position, and a caption's feature is the mean over the tokens other than 0. Captions are padded with the
end-of-text id, so the padding is averaged in. open_clip has no such tower: the weights load there and mean
something else, so they are never exported as its own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as functional
from open_clip.model import CLIP
from torch import nn

from pi_repro.errors import RequestError

#: open_clip's end-of-text id, with which the lineage's tokenizer pads.
PAD = 49407
#: The id that the lineage's mean leaves out, taken there for the padding; in CLIP's vocabulary it is "!".
_LEFT_OUT = 0


class MeanPooled(CLIP):  # type: ignore[misc]
    """open_clip's CLIP with the lineage's text tower."""

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Features [n, D] of tokens int64 [n, L]; the final norm comes before the mean, the projection after it."""
        tower = cast("Any", self)
        kind = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(text).to(kind) + tower.positional_embedding.to(kind)
        x = tower.ln_final(tower.transformer(x, attn_mask=None))
        counted = (text != _LEFT_OUT).unsqueeze(-1).to(x.dtype)
        x = (x * counted).sum(dim=1) / counted.sum(dim=1)
        projection = tower.text_projection
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return functional.normalize(x, dim=-1) if normalize else x


def mean_pooled(model: nn.Module) -> nn.Module:
    """The model with the lineage's text tower; not a tensor alters.

    Raises:
        RequestError: it is not open_clip's plain CLIP, whose text tower is part of it.
    """
    if type(model) is not CLIP or cast("Any", model).text_projection is None:
        raise RequestError(
            "mean pooling is for open_clip's plain CLIP",
            where="model.text_pooling",
            given=type(model).__name__,
            allowed="an architecture without custom text tower, or text_pooling: open_clip",
        )
    # The same object with another way to encode: what refers to its tensors by name or identity goes on to hold.
    model.__class__ = MeanPooled
    return model
