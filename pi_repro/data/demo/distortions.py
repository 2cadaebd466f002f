"""Picture distortions with the strengths of KADID-10k.

RULE: a distortion is a pure function of (pixels, type, level, key); its randomness is counter-based, so the
same key gives the same bits in any order and process.

The numbers are those of `levels`. What each type does is written anew here, from the published descriptions and
from two ports; the docstring of each says how sure that is: "sure" (levels and operation agree in all sources),
"close" (levels agree, a detail of MATLAB's operation is approximated) or "scaled" (levels agree, the extent was
adapted to a smaller canvas). Not here: denoising, which needs MATLAB's pretrained DnCNN.

KADID-10k's pictures are 512 x 384 photographs; here the canvas is a smaller square. Blur, noise, jitter and
block size stay in pixels of the canvas; patches and colour blocks keep their share of the picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import CubicSpline

from pi_repro.data.randomness import generator

from .levels import LEVELS, NUMBERS
from .planes import Plane, filtered, from_image, from_lab, gaussian, to_image, to_lab

Pixels = NDArray[np.uint8]
Random = np.random.Generator

#: Pixels of a KADID-10k picture, to which counts and extents of patches refer.
_KADID_PIXELS = 512 * 384
_LUMA = np.array([0.2989, 0.5870, 0.1140])
_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def distort(pixels: Pixels, kind: str, level: int, *key: int | str) -> Pixels:
    """Distort a picture.

    Args:
        pixels: uint8 [H, W, 3], sRGB.
        kind: a key of `LEVELS`.
        level: 1 to 5, as KADID-10k counts.
        key: what the randomness depends on beside type and level.

    Raises:
        KeyError: for an unknown type.
        ValueError: for a level outside 1 to 5 or pixels of another shape.
    """
    if not 1 <= level <= 5:
        raise ValueError(f"level {level} is outside 1 to 5")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be uint8 [H, W, 3], not {pixels.dtype} {pixels.shape}")
    random = generator("distortion", *key, NUMBERS[kind], level)
    result = _FUNCTIONS[kind](pixels.astype(np.float64) / 255.0, LEVELS[kind][level - 1], random)
    return np.round(np.clip(result, 0.0, 1.0) * 255.0).astype(np.uint8)


def gaussian_blur(rgb: Plane, sigma: float, _: Random) -> Plane:
    """Gaussian of `sigma` pixels, cut at 2 sigma. Sure."""
    return gaussian(rgb, sigma)


def lens_blur(rgb: Plane, radius: float, _: Random) -> Plane:
    """Disk of `radius` pixels. Close: the pixels' shares of the disk come from 16 x 16 samples each."""
    half, fine = math.ceil(radius - 0.5), 16
    line = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    inside = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    side = 2 * half + 1
    kernel = inside.reshape(side, fine, side, fine).mean(axis=(1, 3))
    return filtered(rgb, kernel / kernel.sum())


def motion_blur(rgb: Plane, length: float, random: Random) -> Plane:
    """Line of `length` pixels at a random angle, one pixel soft at its sides. Close: same rule as fspecial's
    (one minus the distance to the line), its rounding at the ends aside."""
    half, angle = (length - 1) / 2, random.random() * math.pi
    reach = math.ceil(half) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    along = np.clip(x * math.cos(angle) + y * math.sin(angle), -half, half)
    kernel = np.maximum(0.0, 1.0 - np.hypot(x - along * math.cos(angle), y - along * math.sin(angle)))
    return filtered(rgb, kernel / kernel.sum())


def color_diffusion(rgb: Plane, amount: float, _: Random) -> Plane:
    """Both colour planes of Lab blurred with sigma 1.5 `amount` + 2 and multiplied by `amount`. Sure."""
    lab = to_lab(rgb)
    lab[..., 1:] = gaussian(lab[..., 1:], 1.5 * amount + 2) * amount
    return from_lab(lab)


def color_shift(rgb: Plane, amount: float, random: Random) -> Plane:
    """Green moved by `amount` pixels in a random direction, mixed in where edges are. Sure of the rule; close in
    how edge strength is stretched (1st to 99th percentile)."""
    grey = rgb @ _LUMA
    edges = gaussian(np.hypot(*np.gradient(grey))[..., None], 4.0)[..., 0]
    low, high = np.percentile(edges, [1, 99])
    weight = np.clip((edges - low) / max(high - low, 1e-12), 0.0, 1.0)
    direction = random.random(2)
    down, right = np.round(direction / np.hypot(*direction) * amount).astype(int)
    green = np.pad(rgb[..., 1], ((down, 0), (right, 0)), mode="edge")[: rgb.shape[0], : rgb.shape[1]]
    result = rgb.copy()
    result[..., 1] = green * weight + rgb[..., 1] * (1 - weight)
    return result


def color_quantization(rgb: Plane, colors: float, _: Random) -> Plane:
    """A palette of `colors` colours, dithered. Close: Pillow's median cut for MATLAB's minimum variance."""
    image = to_image(rgb)
    palette = image.quantize(int(colors), method=Image.Quantize.MEDIANCUT)
    return from_image(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))


def desaturation(rgb: Plane, factor: float, _: Random) -> Plane:
    """HSV saturation times `factor`; below zero the hue turns to its complement. Sure."""
    value: Plane = rgb.max(axis=2, keepdims=True)
    # At fixed hue and value, a colour is value - saturation * (something): scaling saturation scales the gap.
    return value - (value - rgb) * factor


def oversaturation(rgb: Plane, factor: float, _: Random) -> Plane:
    """Both colour planes of Lab times `factor`. Sure."""
    lab = to_lab(rgb)
    lab[..., 1:] *= factor
    return from_lab(lab)


def jpeg2000(rgb: Plane, ratio: float, _: Random) -> Plane:
    """JPEG 2000 at a compression `ratio`. Close: OpenJPEG for MATLAB's codec."""
    target = io.BytesIO()
    to_image(rgb).save(target, "JPEG2000", quality_mode="rates", quality_layers=[int(ratio)], irreversible=True)
    return from_image(Image.open(target))


def jpeg(rgb: Plane, quality: float, _: Random) -> Plane:
    """JPEG of `quality`, colour halved (4:2:0). Sure."""
    target = io.BytesIO()
    to_image(rgb).save(target, "JPEG", quality=int(quality), subsampling="4:2:0")
    return from_image(Image.open(target))


def white_noise(rgb: Plane, variance: float, random: Random) -> Plane:
    """Normal noise of `variance` on each of R, G, B. Sure."""
    return rgb + random.standard_normal(rgb.shape) * math.sqrt(variance)


def color_noise(rgb: Plane, variance: float, random: Random) -> Plane:
    """Normal noise of `variance` on each of Y, Cb, Cr. Sure of levels; close in the range of YCbCr (full)."""
    noise: Plane = random.standard_normal(rgb.shape) * math.sqrt(variance)
    return rgb + noise @ np.linalg.inv(_TO_YCBCR).T


def impulse_noise(rgb: Plane, density: float, random: Random) -> Plane:
    """A share `density` of all values set to 0 or 1, half each, channels apart (imnoise 'salt & pepper').
    Close: sources differ in whether a pixel's channels are hit together."""
    draw = random.random(rgb.shape)
    result: Plane = np.where(draw < density / 2, 0.0, np.where(draw < density, 1.0, rgb))
    return result


def multiplicative_noise(rgb: Plane, variance: float, random: Random) -> Plane:
    """Each value times 1 + normal noise of `variance`. Close: sources differ in normal or uniform noise."""
    return rgb * (1.0 + random.standard_normal(rgb.shape) * math.sqrt(variance))


def _bent(x: Plane, middle: float) -> Plane:
    """The parabola through (0, 0), (0.5, middle), (1, 1), clipped to 0..1."""
    bend = 2.0 - 4.0 * middle
    return np.clip(bend * x * x + (1.0 - bend) * x, 0.0, 1.0)


def brighten(rgb: Plane, amount: float, _: Random) -> Plane:
    """Curve through (0.5, 0.5 + amount / 2): two parts on RGB, one part on Lab's L. Sure."""
    lab = to_lab(rgb)
    lab[..., 0] = 100.0 * _bent(lab[..., 0] / 100.0, 0.5 + amount / 2)
    return (2.0 * _bent(rgb, 0.5 + amount / 2) + from_lab(lab)) / 3.0


def darken(rgb: Plane, amount: float, _: Random) -> Plane:
    """Curve through (0.5, 0.5 - amount / 2) on RGB. Sure."""
    return _bent(rgb, 0.5 - amount / 2)


def mean_shift(rgb: Plane, amount: float, _: Random) -> Plane:
    """`amount` added to every value, then clipped. Sure of levels; level 3 changes nothing, by design of KADID."""
    return rgb + amount


def jitter(rgb: Plane, amount: float, random: Random) -> Plane:
    """Five passes that read each pixel from a place `amount` pixels (normal) away, bilinear. Sure."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float64)
    flat = rgb.reshape(-1, 3)
    for _ in range(5):
        move = random.standard_normal((2, height * width)) * amount
        at_y, at_x = np.clip(y - move[0], 0, height - 1), np.clip(x - move[1], 0, width - 1)
        top, left = np.minimum(at_y.astype(np.int64), height - 2), np.minimum(at_x.astype(np.int64), width - 2)
        down, right = (at_y - top)[:, None], (at_x - left)[:, None]
        corner = top * width + left
        upper = flat.take(corner, axis=0) * (1 - right) + flat.take(corner + 1, axis=0) * right
        lower = flat.take(corner + width, axis=0) * (1 - right) + flat.take(corner + width + 1, axis=0) * right
        flat = upper * (1 - down) + lower * down
    return flat.reshape(rgb.shape)


def patches(rgb: Plane, count: float, random: Random) -> Plane:
    """`count` patches of 16 pixels copied to a place up to 8 pixels away in each direction. Scaled: patch and
    distance shrink with the canvas."""
    height, width = rgb.shape[:2]
    side = max(2, round(16 * _scale(rgb)))
    result = rgb.copy()
    for _ in range(int(count)):
        top, left = (int(random.integers(side, size - 2 * side)) for size in (height, width))
        down, right = (round((random.random() - 0.5) * side) for _ in range(2))
        copy = result[top : top + side, left : left + side].copy()
        result[top + down : top + down + side, left + right : left + right + side] = copy
    return result


def pixelate(rgb: Plane, strength: float, _: Random) -> Plane:
    """Shrunk to a share 0.95 - strength ** 0.6 of each side and back, nearest pixel. Sure."""
    share = 0.95 - strength**0.6
    height, width = rgb.shape[:2]
    small = to_image(rgb).resize((int(width * share), int(height * share)), Image.Resampling.NEAREST)
    return from_image(small.resize((width, height), Image.Resampling.NEAREST))


def quantization(rgb: Plane, levels: float, _: Random) -> Plane:
    """Each channel cut into `levels` + 1 equal steps. Close: equal steps for MATLAB's Otsu thresholds."""
    steps = int(levels)
    return np.minimum(np.floor(rgb * (steps + 1)), steps) / steps


def color_blocks(rgb: Plane, count: float, random: Random) -> Plane:
    """`count` squares of 32 pixels in random plain colours. Scaled: the side shrinks with the canvas."""
    side = max(2, round(32 * _scale(rgb)))
    result = rgb.copy()
    for _ in range(int(count)):
        top, left = (int(random.integers(0, size - side)) for size in rgb.shape[:2])
        result[top : top + side, left : left + side] = random.random(3)
    return result


def sharpen(rgb: Plane, amount: float, _: Random) -> Plane:
    """Unsharp mask on Lab's L: Gaussian of 3 pixels, strength `amount`. Close: as MATLAB's imsharpen is documented."""
    lab = to_lab(rgb)
    light = lab[..., :1]
    lab[..., :1] = np.clip(light + amount * (light - gaussian(light, 3.0)), 0.0, 100.0)
    return from_lab(lab)


def contrast(rgb: Plane, amount: float, _: Random) -> Plane:
    """Spline through (0.3, 0.25 - amount / 4), (0.5, 0.5), (0.7, 0.75 + amount / 4) and the corners. Sure."""
    curve = CubicSpline([0, 0.3, 0.5, 0.7, 1], [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1])
    return np.asarray(curve(rgb), dtype=np.float64)


def _scale(rgb: Plane) -> float:
    return math.sqrt(rgb.shape[0] * rgb.shape[1] / _KADID_PIXELS)


_FUNCTIONS: dict[str, Callable[[Plane, float, Random], Plane]] = {
    function.__name__: function
    for function in (
        gaussian_blur, lens_blur, motion_blur, color_diffusion, color_shift, color_quantization, desaturation,
        oversaturation, jpeg2000, jpeg, white_noise, color_noise, impulse_noise, multiplicative_noise, brighten,
        darken, mean_shift, jitter, patches, pixelate, quantization, color_blocks, sharpen, contrast,
    )
}  # fmt: skip
