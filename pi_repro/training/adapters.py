"""Which tensors an alignment trains.

Rule: only the image tower is ever adapted; the text tower and the logit scale keep every bit.
Others are added by entry points in pi_repro.adapters: a callable that takes the options as
keywords and returns an `Adapter`, which may put modules of its own into the tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from pi_repro.errors import RequestError
from pi_repro.spec.plugins import FullAdapter, PatternAdapter
from pi_repro.spec.training import Plugin

from . import parts
from .determinism import reseed
from .lora import Lora

#: Names of the image tower's parameters begin so, in every open_clip model.
TOWER = "visual."


class Adapter(Protocol):
    """Chooses or adds the parameters that train."""

    def attach(self, model: nn.Module) -> Sequence[str]:
        """Prepare the model; gives the names of the parameters that train, all in the image tower."""
        ...

    def weights(self, model: nn.Module) -> Mapping[str, torch.Tensor]:
        """The adapted model as a plain open_clip state dict."""
        ...


class Full:
    """The whole image tower, projection included."""

    def __init__(self, options: FullAdapter) -> None:
        self.options = options

    def attach(self, model: nn.Module) -> Sequence[str]:
        """See `Adapter`."""
        return tower(model)

    def weights(self, model: nn.Module) -> Mapping[str, torch.Tensor]:
        """See `Adapter`."""
        return model.state_dict()


class Pattern:
    """Parameters of the image tower whose whole name matches one of some regular expressions."""

    def __init__(self, options: PatternAdapter) -> None:
        self.patterns = [_compiled(text) for text in options.pattern]

    def attach(self, model: nn.Module) -> Sequence[str]:
        """See `Adapter`.

        Raises:
            RequestError: a pattern matches nothing.
        """
        names = tower(model)
        for pattern in self.patterns:
            if not any(pattern.fullmatch(name) for name in names):
                raise RequestError(
                    "pattern matches no parameter of the image tower",
                    where="adapter 'pattern'",
                    given=pattern.pattern,
                    allowed=f"whole names such as {names[0]} or {names[-1]}",
                )
        return [name for name in names if any(pattern.fullmatch(name) for pattern in self.patterns)]

    def weights(self, model: nn.Module) -> Mapping[str, torch.Tensor]:
        """See `Adapter`."""
        return model.state_dict()


def adapter(plugin: Plugin) -> Adapter:
    """The adapter that a spec names.

    Raises:
        RequestError: unknown name or options.
    """
    built_in: dict[str, Callable[[Any], Adapter]] = {"full": Full, "pattern": Pattern, "lora": Lora}
    return parts.make("adapters", plugin, built_in)


def attach(chosen: Adapter, model: nn.Module, seed: int = 0) -> list[str]:
    """Freeze the model but for what the adapter trains; gives the trained names in the model's order.

    Args:
        chosen: the adapter.
        model: on the CPU, so that what is drawn is the same everywhere.
        seed: of the training; torch's generators are seeded by it, for an adapter that draws weights of its own.

    Raises:
        RequestError: the adapter would train nothing, or something outside the image tower.
    """
    reseed(seed, 0, 0)
    wanted = set(chosen.attach(model))
    strangers = sorted(wanted - set(tower(model)))
    if strangers or not wanted:
        raise RequestError(
            "an adapter trains parameters of the image tower",
            where=f"adapter {type(chosen).__name__}",
            given=", ".join(strangers) or "none",
            allowed=f"names that begin with {TOWER}",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    return [name for name in tower(model) if name in wanted]


def tower(model: nn.Module) -> list[str]:
    """Names of the image tower's parameters, in the model's order."""
    return [name for name, _ in model.named_parameters() if name.startswith(TOWER)]


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise RequestError("no regular expression", where="adapter 'pattern'", given=f"{text}: {error}") from None
