"""Whose rule draws a model's initial weights.

Rule: torch's generator was seeded and open_clip has drawn every tensor by its own rule; what an initialization
draws after that, in the model's order, replaces some of them. Others are added by entry points in
pi_repro.initializations: a function of the model that draws from torch's generator on the CPU, in place. The logit
scale is set afterwards, as the spec says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pi_repro.errors import RequestError
from pi_repro.spec import plugins

Initialization = Callable[[nn.Module], None]


def lineage(model: nn.Module) -> None:
    """The image tower as the authors' lineage draws it (FACTS 1.2), with width w and L blocks.

    Positional embedding N(0, 0.01); query, key, value N(0, w^-1/2); attention's output and the second matrix of an
    MLP N(0, w^-1/2 (2L)^-1/2); the first N(0, (2w)^-1/2); projection N(0, w^-1/2); class embedding N(0, 1). The
    second number is the standard deviation. Patches, norms, biases and the whole text tower stay as open_clip draws
    them: the lineage's rule for these is not known.

    Raises:
        RequestError: the image tower is no open_clip ViT.
    """
    named = dict(model.named_parameters())
    blocks = sorted({name.split(".")[3] for name in named if name.startswith("visual.transformer.resblocks.")}, key=int)
    if not blocks or "visual.class_embedding" not in named:
        raise RequestError("lineage draws a vision transformer of open_clip's", where="model.initialization")
    width = named["visual.class_embedding"].shape[0]
    std = {
        "visual.class_embedding": 1.0,
        "visual.positional_embedding": 0.01,
        "visual.proj": width**-0.5,
    }
    for block in blocks:
        inside = f"visual.transformer.resblocks.{block}"
        std[f"{inside}.attn.in_proj_weight"] = width**-0.5
        std[f"{inside}.attn.out_proj.weight"] = std[f"{inside}.mlp.c_proj.weight"] = (2 * width * len(blocks)) ** -0.5
        std[f"{inside}.mlp.c_fc.weight"] = (2 * width) ** -0.5
    with torch.no_grad():
        for name, parameter in named.items():
            if name in std:
                parameter.normal_(0.0, std[name])


def _as_drawn(model: nn.Module) -> None:
    """open_clip's own draw stands."""


_BUILT_IN: dict[str, Initialization] = {"open_clip": _as_drawn, "lineage": lineage}


def initialization(name: str) -> Initialization:
    """The initialization that a spec names.

    Raises:
        RequestError: nobody offers it.
    """
    found: Initialization = _BUILT_IN[name] if name in _BUILT_IN else plugins.load("initializations", name)
    return found
