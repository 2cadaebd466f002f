"""Which learner a mode has, and the model made ready for it.

Rule: the modes part here, and in `determinism.enter`, which sets the kernels; from here on one loop trains them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import nn

from pi_repro.spec.experiment import Resources

from . import attention
from .adapters import TOWER
from .alignment import Alignment
from .contrastive import Contrastive
from .fast import FastAlignment, FastContrastive
from .joint import Joint
from .objectives import Objective
from .processes import Group
from .step import LOGIT_SCALE, Conditions, Learner

Mode = Literal["exact", "fast"]


def prepare(model: nn.Module, device: torch.device, resources: Resources) -> nn.Module:
    """The model on its device, its attention and memory as the device and the resources want them; no tensor alters."""
    if device.type == "cuda":
        attention.make_causal(model)
    if resources.activation_checkpointing:
        # Of every block only the input is kept, and what it drew from torch's generators is drawn again.
        cast("Any", model).set_grad_checkpointing()
    return model.to(device)


def contrastive(
    mode: Mode, model: nn.Module, conditions: Conditions, accumulation: int, settings: Mapping[str, Any], group: Group
) -> Learner:
    """The learner of pairs; `settings` are the model's, errors as in its class."""
    most = settings["logit_scale_max"]
    if mode == "fast":
        return FastContrastive(model, conditions, accumulation, most, group)
    return Contrastive(model, conditions, accumulation, most, group=group)


def alignment(mode: Mode, model: nn.Module, conditions: Conditions, objective: Objective, group: Group) -> Learner:
    """The learner of an objective, errors as in its class."""
    return (FastAlignment if mode == "fast" else Alignment)(model, conditions, objective, group)


def joint(
    mode: Mode,
    model: nn.Module,
    conditions: Conditions,
    accumulation: int,
    settings: Mapping[str, Any],
    group: Group,
    term: tuple[Objective, int, float],
) -> Learner:
    """The learner of pairs with a triplet term: (objective, triplets of a micro-batch, weight); errors as theirs.

    The term is computed as in mode exact in either mode: torch wraps a model for one loss at a time.
    """
    objective, size, weight = term
    pairs = contrastive(mode, model, conditions, accumulation, settings, group)
    first = accumulation * conditions.micro_batches
    return Joint(pairs, Alignment(model, replace(conditions, size=size), objective, group, first), weight)


def freeze(model: nn.Module, towers: Sequence[str]) -> None:
    """Let towers ("image", "text") rest: no tensor of theirs trains. The logit scale is nobody's."""
    for name, parameter in model.named_parameters():
        tower = "image" if name.startswith(TOWER) else "text"
        if tower in towers and name != LOGIT_SCALE:
            parameter.requires_grad_(False)
