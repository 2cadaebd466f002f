"""Which learner a mode has, and the model made ready for it.

Rule: the modes part here, and in `determinism.enter`, which sets the kernels; from here on one loop trains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import nn

from pi_repro.spec.experiment import Resources

from . import attention
from .alignment import Alignment
from .contrastive import Contrastive
from .fast import FastAlignment, FastContrastive
from .objectives import Objective
from .processes import Group
from .step import Conditions, Learner

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
