"""Pixels on a device: uint8 as decoded becomes float as the model wants it.

Rule: the bits are those of torchvision's ToTensor and Normalize, on every device.
"""

from __future__ import annotations

from functools import cache

import torch

#: CLIP's (open_clip.constants.OPENAI_DATASET_MEAN and _STD), red, green, blue, of values in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

#: Values worked on at once on a CPU, 1 MiB of float32: so they stay in a core's own cache.
_PART = 2**18


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 [..., 3, H, W], in memory in any order, to contiguous float32 of the same shape: (x / 255 - MEAN) / STD."""
    full, mean, std = _constants(images.device)
    pixels = images.reshape(-1, *images.shape[-3:])
    result = torch.empty(pixels.shape, dtype=torch.float32, device=images.device)
    step = max(1, _PART // pixels[:1].numel()) if images.device.type == "cpu" and len(pixels) else max(1, len(pixels))
    for start in range(0, len(pixels), step):
        result[start : start + step].copy_(pixels[start : start + step]).div_(full).sub_(mean).div_(std)
    return result.view(images.shape)


@cache
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """255, MEAN and STD on a device, sent once: sending makes a GPU's queue wait."""
    # 255 as a tensor: CUDA divides by a Python number through its reciprocal, which rounds otherwise.
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return torch.tensor(255.0, device=device), mean, std
