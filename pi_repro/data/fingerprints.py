"""A perceptual hash: 64 bits by which two files of one photograph are known, whatever their size and compression.

Rule: the same pixels give the same bits on any machine. Every number here is a whole number, and every sum stays
below 2^53, so that a floating-point matrix product is exact in whatever order it is taken.

It is the customary hash of low frequencies (a cosine transform of the grey image, each coefficient compared with their
median), of the 64 lowest frequencies but the mean. Files of one picture differ in a few bits, strangers in about 32.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image

from pi_repro.errors import StateError

#: Which hash this is; what stores or compares hashes names it.
NAME = "pirepro-dct64-v1"

#: The hash of an image without structure, such as a blank page: it is like no other in particular.
FLAT = 0

#: Samples taken along the shorter side, at least, where the image has so many: more cost time and change few bits.
_SAMPLES = 72
_FREQUENCIES = 10
#: Samples of a transform that is kept for the next image, at most.
_KEPT = 1024
_SCALE = 1 << 10
#: Grey is R + 2 G + B, so a grey level of 256 counts four times.
_GREY = 4
#: Steps of a grey level in which a coefficient is counted: noise below one is no structure.
_STEPS = 4
_LOWEST = sorted(
    ((v, u) for v in range(_FREQUENCIES) for u in range(_FREQUENCIES) if (v, u) != (0, 0)),
    key=lambda vu: (vu[0] ** 2 + vu[1] ** 2, vu),
)[:64]
_PLACES = np.array([v * _FREQUENCIES + u for v, u in _LOWEST])
_BITS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


def phash(image: np.ndarray) -> int:
    """The hash of a decoded image, as a signed number of 64 bits (an int64 column holds it).

    Args:
        image: uint8, [H, W, 3], [H, W, 1] or [H, W]; any memory layout.

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"no image to hash: {image.dtype} {list(image.shape)}")
    if min(image.shape[:2]) < 1:
        raise ValueError(f"no image to hash: {list(image.shape)}")
    grey = _grey(samples(image))
    grey -= grey.sum() // grey.size  # a blank image is then nothing but zeros
    high, wide = grey.shape
    found = (_cosines(high) @ grey @ _cosines(wide).T).astype(np.int64).ravel()[_PLACES]
    # A wave of amplitude a gives high * wide * a / 4 of the scales: the mean of a squared cosine, in both directions.
    unit = high * wide * _SCALE * _SCALE * _GREY // (4 * _STEPS)
    levels = found // unit + (found % unit * 2 >= unit)
    middle = np.partition(levels, 31)[31]
    bits = np.bitwise_or.reduce(_BITS[levels > middle], initial=np.uint64(0))
    return int(np.uint64(bits).astype(np.int64))


def samples(image: np.ndarray) -> np.ndarray:
    """The pixels that an image's hash is made of, as a view; the hash of these alone is the same."""
    # One stride for both sides, and none of it from the edge alone. What is left is less than twice _SAMPLES.
    stride = max(1, min(image.shape[:2]) // _SAMPLES)
    return image[stride // 2 :: stride, stride // 2 :: stride]


def phash_of(content: bytes) -> int:
    """The hash of an image file; what is transparent in it lies on white, and no EXIF turns it.

    Raises:
        StateError: it cannot be decoded.
    """
    # torch, for which whoever only compares hashes need not wait.
    from pi_repro.data import jpeg, transforms

    pixels = jpeg.decode(content)
    if pixels is not None:
        return phash(pixels.permute(1, 2, 0).numpy())
    image = transforms.decode(content)
    return phash(on_white(image))


def on_white(image: Image.Image) -> np.ndarray:
    """A decoded image as uint8 [H, W, 3]; what is transparent in it lies on white.

    Raises:
        StateError: its colours cannot be converted.
    """
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, MemoryError) as error:
        raise StateError("image cannot be decoded", given=f"{type(error).__name__}: {error}") from None


def _grey(taken: np.ndarray) -> np.ndarray:
    """float64 [h, w] of whole numbers from 0 to 1,020."""
    if taken.ndim == 2 or taken.shape[2] == 1:
        return taken.reshape(taken.shape[:2]).astype(np.float64) * 4.0
    grey = taken[..., 1].astype(np.uint16)
    grey <<= 1
    grey += taken[..., 0]
    grey += taken[..., 2]
    return grey.astype(np.float64)


@lru_cache(maxsize=1024)
def _kept_cosines(samples: int) -> np.ndarray:
    return _made_cosines(samples)


def _cosines(samples: int) -> np.ndarray:
    # Those of strips and panoramas are seldom the same again, and some megabytes each.
    return _kept_cosines(samples) if samples <= _KEPT else _made_cosines(samples)


def _made_cosines(samples: int) -> np.ndarray:
    """Rows of the cosine transform over so many samples, as whole numbers; those after the first sum to nothing."""
    rows = [
        [round(_SCALE * math.cos(math.pi * k * (2 * x + 1) / (2 * samples))) for x in range(samples)]
        for k in range(_FREQUENCIES)
    ]
    return np.array(rows, dtype=np.float64)


def distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many bits differ, uint8, elementwise over int64 hashes."""
    found: np.ndarray = np.bitwise_count(np.bitwise_xor(left, right).view(np.uint64))
    return found
