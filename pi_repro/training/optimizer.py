"""torch's AdamW or Adam over named parameters, or another one, and its state as named tensors.

Rule: one parameter group for what decays and one for what doesn't, both in the model's order. The
state leaves and enters as tensors named <slot>/<parameter>; nothing of it is pickled. Others are added by entry
points in pi_repro.optimizers: a callable that takes the groups and, as keywords, lr, betas, eps, weight_decay and
the spec's options, and returns a torch.optim.Optimizer whose state is tensors, for each parameter, and nothing
else; what the update does may depend on the group's "lr", which is set before each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pi_repro.errors import RequestError, StateError
from pi_repro.spec import plugins
from pi_repro.spec.training import Optimizer as Settings

_SLOTS = ("exp_avg", "exp_avg_sq", "step")
_TORCHS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
_UNDECAYED = ("class_embedding", "positional_embedding", "logit_scale", "logit_bias")


class Optimizer:
    """An optimizer of named parameters.

    Args:
        settings: science.
        parameters: name -> parameter, in the model's order.
    """

    def __init__(self, settings: Settings, parameters: Mapping[str, nn.Parameter]) -> None:
        self.settings = settings
        self.parameters = dict(parameters)
        decayed = [p for name, p in self.parameters.items() if decays(settings, name, p)]
        kept = [p for name, p in self.parameters.items() if not decays(settings, name, p)]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
        self._torch = _made(settings, [group for group in groups if group["params"]])

    def step(self, gradient: Mapping[str, torch.Tensor], lr: float) -> None:
        """One update of all parameters, each of which must have a gradient."""
        for group in self._torch.param_groups:
            group["lr"] = lr
        for name, parameter in self.parameters.items():
            parameter.grad = gradient[name].to(parameter.dtype)
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """All moments and step counts; empty before the first step."""
        found = {}
        for name, parameter in self.parameters.items():
            state = self._torch.state[parameter]
            for slot in _SLOTS if self.settings.name in _TORCHS else sorted(state):
                if slot in state:
                    found[f"{slot}/{name}"] = _tensor(state[slot], slot, self.settings)
        return found

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state.

        Raises:
            StateError: it belongs to other parameters.
        """
        slots = _SLOTS if self.settings.name in _TORCHS else {key.partition("/")[0] for key in state}
        wanted = {f"{slot}/{name}" for name in self.parameters for slot in slots}
        if state and set(state) != wanted:
            strangers = sorted(set(state) ^ wanted)[:3]
            raise StateError("optimizer state of other parameters", given=", ".join(strangers))
        for key, tensor in state.items():
            slot, _, name = key.partition("/")
            parameter = self.parameters[name]
            # torch keeps step counts on CPU unless the fused kernel reads them.
            moved = slot != "step" or self.settings.implementation == "fused" or self.settings.name not in _TORCHS
            self._torch.state[parameter][slot] = tensor.to(parameter.device if moved else "cpu", copy=True)


def _made(settings: Settings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """torch's own, or the one that an entry point offers.

    Raises:
        RequestError: nobody offers it, or it does not take the settings.
    """
    common = {
        "lr": settings.lr,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.name in _TORCHS:
        kernel = {"fused": settings.implementation == "fused", "foreach": settings.implementation == "foreach"}
        torchs: torch.optim.Optimizer = _TORCHS[settings.name](groups, **common, **kernel)
        return torchs
    try:
        made: torch.optim.Optimizer = plugins.load("optimizers", settings.name)(groups, **common, **settings.options)
    except TypeError as error:
        raise RequestError("options don't fit", where=f"optimizer {settings.name!r}", given=str(error)) from error
    return made


def _tensor(value: object, slot: str, settings: Settings) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise RequestError(
            "an optimizer's state is tensors, for each parameter",
            where=f"optimizer {settings.name!r}, state {slot!r}",
            given=type(value).__name__,
        )
    return value


def decays(settings: Settings, name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies to a parameter (see `spec.training.Optimizer.decay`)."""
    if settings.decay == "all":
        return True
    # Norms and biases are the 1-d tensors of open_clip's models.
    return parameter.ndim >= 2 and name.rpartition(".")[2] not in _UNDECAYED


def norm(gradient: Mapping[str, torch.Tensor]) -> float:
    """Euclidean norm of a gradient: of each tensor by torch, then of these in float64, in the mapping's order."""
    parts = torch.stack([part.double() for part in torch._foreach_norm(list(gradient.values()))])
    total = 0.0
    for part in parts.tolist():
        total += part * part
    return float(total**0.5)


def clip(gradient: Mapping[str, torch.Tensor], found: float, limit: float) -> None:
    """Scale a gradient of norm `found` down to `limit`, in place, as torch's clip_grad_norm_ does."""
    factor = limit / (found + 1e-6)
    if factor < 1:
        torch._foreach_mul_(list(gradient.values()), factor)
