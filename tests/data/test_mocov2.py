"""MoCo v2's parts: torchvision's, to a level or two, where Pillow rounds after each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter
from torchvision.transforms import functional

from pi_repro.data import mocov2
from pi_repro.data.randomness import generator

Own = Callable[[np.ndarray], None]
Other = Callable[[Image.Image], Image.Image]


def picture() -> Image.Image:
    """Noise over colours that change slowly, with grey, black, white and pure colours in a corner."""
    draws = generator("mocov2 picture")
    coarse = Image.fromarray(draws.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + draws.integers(-12, 12, pixels.shape), 0, 255).astype(np.uint8)
    corners = [[a, b, c] for a in (0, 128, 255) for b in (0, 128, 255) for c in (0, 128, 255)]
    pixels[30, 15:42] = corners
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("own", "other", "mean", "largest"),
    [
        (lambda x: mocov2.brighten(x, 1.4), lambda i: functional.adjust_brightness(i, 1.4), 0.6, 1),
        (lambda x: mocov2.brighten(x, 0.6), lambda i: functional.adjust_brightness(i, 0.6), 0.6, 1),
        (lambda x: mocov2.contrast(x, 1.4), lambda i: functional.adjust_contrast(i, 1.4), 0.6, 1),
        (lambda x: mocov2.saturate(x, 0.6), lambda i: functional.adjust_saturation(i, 0.6), 0.6, 1),
        (lambda x: mocov2.saturate(x, 1.4), lambda i: functional.adjust_saturation(i, 1.4), 0.6, 1),
        # Pillow's circle has 255 steps, and torchvision turns by whole ones.
        (lambda x: mocov2.turn_hue(x, 25 / 255), lambda i: functional.adjust_hue(i, 0.1), 1.0, 10),
        (lambda x: mocov2.turn_hue(x, -25 / 255), lambda i: functional.adjust_hue(i, -0.1), 1.0, 10),
        (lambda x: mocov2.turn_hue(x, 0.0), lambda i: i, 0.0, 0),
        (mocov2.to_grey, lambda i: functional.rgb_to_grayscale(i, 3), 0.01, 1),
        (lambda x: mocov2.blur(x, 0.1), lambda i: i, 0.0, 0),
        (lambda x: mocov2.blur(x, 1.0), lambda i: i.filter(ImageFilter.GaussianBlur(1.0)), 0.8, 12),
        (lambda x: mocov2.blur(x, 2.0), lambda i: i.filter(ImageFilter.GaussianBlur(2.0)), 0.8, 12),
    ],
)
def test_parts_are_torchvisions(own: Own, other: Other, mean: float, largest: int) -> None:
    image = picture()
    ours = np.asarray(image).transpose(2, 0, 1).astype(np.float32)
    own(ours)
    change = np.abs(mocov2.rounded(ours).astype(int) - np.asarray(other(image)).transpose(2, 0, 1))
    assert change.mean() <= mean
    assert change.max() <= largest


def test_blur_keeps_what_is_flat() -> None:
    flat = np.full((3, 40, 40), 255, dtype=np.float32)
    mocov2.blur(flat, 2.0)
    assert (mocov2.rounded(flat) == 255).all()
