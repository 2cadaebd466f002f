"""From a stored image to what the model sees.

Rule: decoding gives one tensor an image, of one shape for all; `prepare` turns a batch of them, on the
device, into the model's input; `record` says in words and numbers what was done and goes into every result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from pi_repro.data import pixels, transforms


@dataclass(frozen=True)
class Preprocess:
    """How images reach a model.

    Attributes:
        decode: encoded bytes -> tensor [3, H, W], uint8 or float32.
        prepare: stacked tensors [B, 3, H, W] -> float32 input of the same shape, on the same device.
        record: what is done, for the results.
    """

    decode: Callable[[bytes], torch.Tensor]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    record: Mapping[str, Any]


def clip_preprocess(image_size: int) -> Preprocess:
    """open_clip's evaluation transform for models of this package."""
    return Preprocess(
        decode=_ToTensor(transforms.evaluation_transform(image_size)),
        prepare=pixels.normalize,
        record={
            "by": "pi_repro",
            "image_size": image_size,
            "resize": "shorter side, bicubic",
            "crop": "center",
            "mean": list(pixels.MEAN),
            "std": list(pixels.STD),
        },
    )


def own_preprocess(transform: Callable[[Image.Image], torch.Tensor]) -> Preprocess:
    """A model's own transform (PIL image to normalized float tensor), recorded by its printed form."""
    steps = [_described(step) for step in getattr(transform, "transforms", [transform])]
    return Preprocess(decode=_Own(transform), prepare=lambda batch: batch, record={"by": "open_clip", "steps": steps})


@dataclass(frozen=True)
class _ToTensor:
    # Classes, not closures: a loader's worker may have to be sent them.
    transform: transforms.Transform

    def __call__(self, content: bytes) -> torch.Tensor:
        return torch.from_numpy(self.transform(content, None))


@dataclass(frozen=True)
class _Own:
    transform: Callable[[Image.Image], torch.Tensor]

    def __call__(self, content: bytes) -> torch.Tensor:
        return self.transform(transforms.decode(content))


def _described(step: object) -> str:
    # A plain function prints its address, which differs from run to run.
    return getattr(step, "__name__", None) or " ".join(repr(step).split())
