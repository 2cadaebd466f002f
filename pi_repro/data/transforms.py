"""From an image file to the uint8 pixels a model sees, before normalization.

Rule: a transform draws from the generator it is handed and from nothing else. Files are decoded
and resampled by Pillow, or by torch where a random kind meets a plain JPEG file; the arithmetic of
both is integer and so the same on every CPU.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from pi_repro.data import jpeg, mocov2
from pi_repro.errors import StateError
from pi_repro.spec.training import Augmentation

#: Called with an image file's bytes and a generator (None where nothing is drawn); returns uint8 [3, S, S],
#: contiguous or with the channels innermost in memory.
Transform = Callable[[bytes, np.random.Generator | None], np.ndarray]

_BICUBIC = InterpolationMode.BICUBIC
_RATIO = (3 / 4, 4 / 3)
_LOW, _HIGH = (math.log(ratio) for ratio in _RATIO)
_TRIES = 10
_RANDOM_KINDS = ("random_resized_crop", "mocov2")
#: What Pillow's readers raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
)


def decode(content: bytes) -> Image.Image:
    """Decode an image file completely, in its own mode.

    Raises:
        StateError: it cannot be decoded; whoever knows the shard and key says where.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except _DECODE_ERRORS as error:
        raise StateError("image cannot be decoded", given=f"{type(error).__name__}: {error}") from None
    return image


def is_random(augmentation: Augmentation) -> bool:
    """Whether a transform draws; if not, its result may be kept from epoch to epoch."""
    return augmentation.kind in _RANDOM_KINDS


def build(augmentation: Augmentation, image_size: int) -> Transform:
    """The training transform of a spec.

    Args:
        augmentation: kind and crop scale.
        image_size: S, edge of the square result in pixels.

    Returns:
        A function of (bytes, generator) to uint8 [3, S, S]; it raises StateError on an image
        that cannot be decoded. It may be sent to other processes.
    """
    if augmentation.kind == "resize":
        return partial(_resize, image_size)
    if augmentation.kind == "center_crop":
        return evaluation_transform(image_size)
    scale = augmentation.scale
    if scale is None:
        raise ValueError(f"{augmentation.kind} without a scale")
    return partial(_random_resized_crop if augmentation.kind == "random_resized_crop" else _mocov2, image_size, scale)


def evaluation_transform(image_size: int) -> Transform:
    """open_clip's evaluation transform up to ToTensor (open_clip.transform.image_transform, is_train=False).

    Shorter edge to S by bicubic, centre crop, then RGB: in this order, so that palettes and alpha
    are treated as open_clip treats them.
    """
    return partial(_evaluation, image_size)


def _evaluation(size: int, content: bytes, _random: np.random.Generator | None = None) -> np.ndarray:
    image = decode(content)
    if image.size != (size, size):
        image = functional.center_crop(functional.resize(image, [size], _BICUBIC), [size, size])
    return _pixels(image)


def _resize(size: int, content: bytes, _random: np.random.Generator | None = None) -> np.ndarray:
    # DreamSim's loader, which the lineage's first stage shares: RGB, then a square whatever the aspect.
    return _pixels(functional.resize(decode(content).convert("RGB"), [size, size], _BICUBIC))


def _random_resized_crop(
    size: int, scale: tuple[float, float], content: bytes, random: np.random.Generator | None
) -> np.ndarray:
    """open_clip's training transform: crop, then RGB.

    A plain JPEG file (`jpeg.plain_frame`) is decoded and resampled by torchvision and torch: Pillow's pixels
    before resampling, and after it at most 1 of 255 away from Pillow's, 2 where a small crop is enlarged (0.004
    on average over photos; tests/benchmarks/loader.py prints it). Any other file has Pillow's own bits.
    """
    random = _needed(random)
    pixels = jpeg.decode(content)
    if pixels is not None:
        box = crop_box(pixels.shape[1], pixels.shape[2], scale, random)
        return _resampled(pixels, box, size, "bicubic").expand(3, size, size).numpy()
    image = decode(content)
    top, left, height, width = crop_box(image.height, image.width, scale, random)
    return _pixels(functional.resized_crop(image, top, left, height, width, [size, size], _BICUBIC))


def _mocov2(size: int, scale: tuple[float, float], content: bytes, random: np.random.Generator | None) -> np.ndarray:
    """MoCo v2's augmentation (FACTS 1.3): bilinear, torchvision's default; the rest as `mocov2` says."""
    random = _needed(random)
    pixels = jpeg.decode(content)
    if pixels is None:
        # A copy, because torch warns of an array that is not writable.
        pixels = torch.from_numpy(np.array(decode(content).convert("RGB"))).permute(2, 0, 1)
    box = crop_box(pixels.shape[1], pixels.shape[2], scale, random)
    crop = _resampled(pixels, box, size, "bilinear").expand(3, size, size).numpy()
    return mocov2.distort(crop, random)


def _resampled(pixels: torch.Tensor, box: tuple[int, int, int, int], size: int, mode: str) -> torch.Tensor:
    """A box of uint8 [C, H, W] as [C, S, S], antialiased as Pillow does; integer arithmetic, the same on every CPU."""
    top, left, height, width = box
    # In one piece with the channels innermost, else the kernel would sort it by a slower way.
    part = pixels[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.interpolate(part, size=(size, size), mode=mode, antialias=True)[0]


def crop_box(
    height: int, width: int, scale: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop.

    Distributed as torchvision's RandomResizedCrop.get_params: area uniform in `scale`, aspect
    log-uniform in 3/4..4/3, ten tries, then the largest central crop of an allowed aspect.
    """
    # Four draws a try at once: a call of the generator costs more than what it draws.
    for share, shape, down, across in random.random((_TRIES, 4)).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(_LOW + (_HIGH - _LOW) * shape)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
    aspect = min(max(width / height, _RATIO[0]), _RATIO[1])
    w, h = width, height
    if width / height < aspect:
        h = round(width / aspect)
    elif width / height > aspect:
        w = round(height * aspect)
    return (height - h) // 2, (width - w) // 2, h, w


def _needed(random: np.random.Generator | None) -> np.random.Generator:
    if random is None:
        raise ValueError("a random transform needs a generator")
    return random


def _pixels(image: Image.Image) -> np.ndarray:
    plain = image if image.mode == "RGB" else image.convert("RGB")
    return np.ascontiguousarray(np.asarray(plain).transpose(2, 0, 1))
