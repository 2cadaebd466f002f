"""Colour spaces and filters on float64 planes [H, W, C], for `distortions`; sRGB values are 0 to 1.

RULE: transfer functions are read from tables, which is quick and gives one answer whatever a CPU's power function
rounds to.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

Plane = NDArray[np.float64]

_RGB_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)
#: D65
_WHITE = np.array([0.95047, 1.0, 1.08883])
_GREY = np.arange(256) / 255.0
_LINEAR = np.where(_GREY <= 0.04045, _GREY / 12.92, ((_GREY + 0.055) / 1.055) ** 2.4)
#: steps of at most 0.05 grey levels, at black
_STEPS = 65535
_RAMP = np.arange(_STEPS + 1) / _STEPS
_GAMMA = np.where(_RAMP <= 0.0031308, _RAMP * 12.92, 1.055 * _RAMP ** (1 / 2.4) - 0.055)


def to_lab(rgb: Plane) -> Plane:
    """sRGB on the 256 grey levels to CIE L*a*b* (D65)."""
    xyz = np.einsum("ij,hwj->hwi", _RGB_TO_XYZ, _LINEAR[np.rint(rgb * 255.0).astype(np.int64)]) / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=2)


def from_lab(lab: Plane) -> Plane:
    """CIE L*a*b* (D65) to sRGB, clipped to 0..1."""
    y = (lab[..., 0] + 16.0) / 116.0
    f = np.stack([y + lab[..., 1] / 500.0, y, y - lab[..., 2] / 200.0], axis=2)
    xyz = np.where(f > 0.2068966, f * f * f, (f - 16.0 / 116.0) / 7.787) * _WHITE
    linear = np.clip(np.einsum("ij,hwj->hwi", _XYZ_TO_RGB, xyz), 0.0, 1.0)
    srgb: Plane = _GAMMA[np.rint(linear * _STEPS).astype(np.int64)]
    return srgb


def filtered(planes: Plane, kernel: Plane) -> Plane:
    """Correlation with an odd symmetric kernel, edges repeated (MATLAB's imfilter with 'replicate')."""
    tall, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(planes, ((tall, tall), (wide, wide), (0, 0)), mode="edge")
    shape = (fft.next_fast_len(padded.shape[0], True), fft.next_fast_len(padded.shape[1], True))
    spectrum = fft.rfft2(padded, shape, axes=(0, 1)) * fft.rfft2(kernel, shape)[:, :, None]
    full: Plane = fft.irfft2(spectrum, shape, axes=(0, 1))
    return full[2 * tall : 2 * tall + planes.shape[0], 2 * wide : 2 * wide + planes.shape[1]]


def gaussian(planes: Plane, sigma: float) -> Plane:
    """Gaussian blur cut at two sigma, edges repeated."""
    radius = math.ceil(2 * sigma)
    blurred: Plane = ndimage.gaussian_filter(
        planes, (sigma, sigma), radius=(radius, radius), mode="nearest", axes=(0, 1)
    )
    return blurred


def to_image(rgb: Plane) -> Image.Image:
    """Rounded to 256 grey levels."""
    return Image.fromarray(np.round(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8))


def from_image(image: Image.Image) -> Plane:
    """Back to 0..1."""
    return np.asarray(image, dtype=np.float64) / 255.0
