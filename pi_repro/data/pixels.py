"""Pixels on a device: uint8 as decoded becomes float as the model wants it.

Rule: the bits are those of torchvision's ToTensor and Normalize, on every device.
"""

from __future__ import annotations

import torch

#: CLIP's (open_clip.constants.OPENAI_DATASET_MEAN and _STD), red, green, blue, of values in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 [..., 3, H, W] to float32 of the same shape: (x / 255 - MEAN) / STD."""
    # 255 as a tensor on the device: CUDA divides by a Python number through its reciprocal,
    # which rounds otherwise.
    full = torch.tensor(255.0, device=images.device)
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return images.to(torch.float32).div_(full).sub_(mean).div_(std)
