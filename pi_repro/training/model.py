"""open_clip's models, built from the architecture that the settings carry.

Rule: the settings alone decide the shape: a name that open_clip knows with another shape is
refused, never silently preferred. Weights are open_clip state dicts, checked name by name, and
leave as files that `open_clip.create_model(name, pretrained=file)` loads unchanged (the lineage's text tower aside:
see `has_twin`).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from pi_repro.data.captions import Padded
from pi_repro.errors import RequestError, StateError

from . import lineage, weights

Model = Mapping[str, Any]


def register(model: Model) -> str:
    """Make open_clip know the architecture; gives the name to ask it for.

    Raises:
        RequestError: open_clip has another architecture of that name.
    """
    name, architecture = str(model["name"]), json.loads(json.dumps(model["architecture"]))
    known = open_clip.get_model_config(name)
    if known is None:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, f"{name}.json")
            config.write_text(json.dumps(architecture))
            open_clip.add_model_config(config)
    elif known != architecture:
        raise RequestError(
            "open_clip knows this name with another architecture",
            where="model.name",
            given=name,
            todo="give the model under specs/models/ a name of its own",
        )
    return name


def build(model: Model) -> nn.Module:
    """The model with weights drawn from torch's global generator, on CPU in float32.

    Raises:
        RequestError: see `register`.
    """
    name = register(model)
    with _Quiet():
        built: nn.Module = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    return lineage.mean_pooled(built) if not has_twin(model) else built


def has_twin(model: Model) -> bool:
    """Whether open_clip computes with the weights what this package computes with them."""
    return bool(model.get("text_pooling", "open_clip") == "open_clip")


def tokenizer(model: Model) -> Callable[[list[str]], torch.Tensor]:
    """Captions to int64 [captions, context length]."""
    with _Quiet():
        made: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(register(model))
    return made if has_twin(model) else Padded(made, lineage.PAD)


def image_size(model: Model) -> int:
    """Side of the square input in pixels.

    Raises:
        RequestError: the architecture's input is not square.
    """
    size = model["architecture"]["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else {int(side) for side in size}
    if len(sides) != 1:
        raise RequestError("images must be square", where="model.architecture.vision_cfg.image_size", given=size)
    return int(sides.pop())


def load(model: Model, file: Path) -> nn.Module:
    """The model with the weights of a file.

    Raises:
        StateError: the file is missing or damaged, or holds other tensors than the model.
    """
    built = build(model)
    found = weights.read(file)
    wanted = built.state_dict()
    wrong = [name for name in sorted({*found, *wanted}) if not _fits(found.get(name), wanted.get(name))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise StateError(
            f"weights don't fit the model {model['name']!r}", where=str(file), given=", ".join(wrong[:3]) + more
        )
    built.load_state_dict(found)
    return built


def save(module: nn.Module, model: Model, file: Path, **about: Any) -> str:
    """Write a weights file; gives its sha256.

    Args:
        module: whose state dict is written.
        model: its settings, kept in the file so that it can be judged without its spec.
        file: where to.
        about: whatever else the file says of itself, as JSON.
    """
    return weights.write(file, module.state_dict(), {"model": dict(model), **about})


def _fits(found: torch.Tensor | None, wanted: torch.Tensor | None) -> bool:
    return found is not None and wanted is not None and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


class _Quiet:
    """open_clip warns on the root logger that a model without weights is random, which is what we want."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        logging.getLogger().setLevel(self._level)
