"""The parts of MoCo v2's augmentation behind the crop: colour jitter, grey and blur of one picture.

Rule: a picture is float32 [3, S, S] with values in 0..255, rounded to uint8 once, at the end; each
function changes it in place. There are element-wise operations and sums of integers only, so the bits
are the same wherever the array lies in memory and however wide the CPU's vectors are.

torchvision does the same to Pillow's images (ColorJitter, RandomGrayscale, Pillow's GaussianBlur) and
rounds after each part; tests/benchmarks/loader.py prints how far apart the two are, and how fast.
"""

from __future__ import annotations

import math

import numpy as np

#: Red's, green's and blue's share in grey (ITU-R 601, as in Pillow).
_GREY = (0.299, 0.587, 0.114)
_STRENGTH, _HUE = 0.4, 0.1
_REACH = 3  # standard deviations that the blur's kernel covers to either side


def distort(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """uint8 [3, S, S] of a crop to uint8 of the same shape: jitter 80 %, grey 20 %, blur 50 %, flip 50 %."""
    picture = np.ascontiguousarray(pixels).astype(np.float32)
    if random.random() < 0.8:
        jitter(picture, random)
    if random.random() < 0.2:
        to_grey(picture)
    if random.random() < 0.5:
        blur(picture, random.uniform(0.1, 2.0))
    if random.random() < 0.5:
        picture = picture[:, :, ::-1]
    return rounded(picture)


def jitter(picture: np.ndarray, random: np.random.Generator) -> None:
    """torchvision's ColorJitter(0.4, 0.4, 0.4, 0.1): four changes in random order."""
    order = np.argsort(random.random(4), kind="stable")
    factors = random.uniform(1 - _STRENGTH, 1 + _STRENGTH, 3).tolist()
    factors.append(float(random.uniform(-_HUE, _HUE)))
    changes = (brighten, contrast, saturate, turn_hue)
    for number in order:
        changes[number](picture, factors[number])


def brighten(picture: np.ndarray, factor: float) -> None:
    """Away from black, 1 changing nothing."""
    picture *= np.float32(factor)
    _clip(picture)


def contrast(picture: np.ndarray, factor: float) -> None:
    """Away from the picture's mean grey, rounded as Pillow does."""
    grey = _grey(picture)
    mean = math.floor(int(np.rint(grey).astype(np.int32).sum()) / grey.size + 0.5)
    picture *= np.float32(factor)
    picture += np.float32((1 - factor) * mean)
    _clip(picture)


def saturate(picture: np.ndarray, factor: float) -> None:
    """Away from each pixel's grey."""
    grey = _grey(picture)
    grey *= np.float32(1 - factor)
    picture *= np.float32(factor)
    picture += grey
    _clip(picture)


def turn_hue(picture: np.ndarray, turn: float) -> None:
    """Turn the hue of HSV by a part of the circle, -0.1 to 0.1."""
    hue, chroma, value = _hue_chroma_value(picture)
    hue += np.float32(6 * turn)
    for channel, place in zip(picture, (0, 2, 4), strict=True):
        # A channel is full up to a sixth away from its own hue, and at its least from two sixths on;
        # beyond three sixths, the other way round the circle is nearer.
        away = np.abs(hue - np.float32(place))
        away -= np.float32(3)
        np.abs(away, out=away)
        np.subtract(np.float32(2), away, out=away)
        np.clip(away, np.float32(0), np.float32(1), out=away)
        away *= chroma
        np.subtract(value, away, out=channel)


def to_grey(picture: np.ndarray) -> None:
    """Each pixel's grey in all three channels."""
    picture[:] = _grey(picture)


def blur(picture: np.ndarray, deviation: float) -> None:
    """A Gaussian blur; beyond the edge the edge's own pixels go on.

    Args:
        picture: float32 [3, S, S], changed.
        deviation: standard deviation in pixels, positive.
    """
    reach = math.ceil(_REACH * deviation)
    weights = [math.exp(-((step / deviation) ** 2) / 2) for step in range(reach + 1)]
    whole = weights[0] + 2 * sum(weights[1:])
    kernel = [np.float32(weight / whole) for weight in weights if weight / whole > 1e-5]
    if len(kernel) == 1:
        return
    reach, size = len(kernel) - 1, picture.shape[1]
    for channel in picture:
        rows = np.empty((size + 2 * reach, size), dtype=np.float32)
        rows[:reach], rows[reach:-reach], rows[-reach:] = channel[0], channel, channel[-1]
        # Rows follow each other in memory, so that a shift by rows, or by columns, is one along the whole.
        down = _weighted(rows.reshape(-1), size, kernel).reshape(size, size)
        columns = np.empty((size, size + 2 * reach), dtype=np.float32)
        columns[:, :reach], columns[:, reach:-reach], columns[:, -reach:] = down[:, :1], down, down[:, -1:]
        across = np.empty(columns.size, dtype=np.float32)
        across[: columns.size - 2 * reach] = _weighted(columns.reshape(-1), 1, kernel)
        channel[:] = across.reshape(columns.shape)[:, :size]


def rounded(picture: np.ndarray) -> np.ndarray:
    """The picture as uint8 of the same shape."""
    pixels: np.ndarray = np.rint(picture).astype(np.uint8)
    return pixels


def _weighted(values: np.ndarray, stride: int, kernel: list[np.float32]) -> np.ndarray:
    """Sum of kernel[|k|] times values[i + k * stride], around each i that has all its neighbours."""
    reach = (len(kernel) - 1) * stride
    result = np.empty(len(values) - 2 * reach, dtype=np.float32)
    count = len(result)
    np.multiply(values[reach : reach + count], kernel[0], out=result)
    pair = np.empty_like(result)
    for step, weight in enumerate(kernel[1:], 1):
        left, right = reach - step * stride, reach + step * stride
        np.add(values[left : left + count], values[right : right + count], out=pair)
        pair *= weight
        result += pair
    return result


def _hue_chroma_value(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HSV's hue in sixths of the circle, 0 to 6; largest less least channel; largest channel."""
    red, green, blue = picture
    # The channels are sorted; `turned` is what the two exchanges add to the hue.
    first, last = np.maximum(green, blue), np.minimum(green, blue)
    turned = (green < blue) * np.float32(-6)
    value, middle = np.maximum(red, first), np.minimum(red, first)
    turned += (red < first) * (np.float32(-2) - turned - turned)
    chroma = value - np.minimum(middle, last)
    hue = middle - last
    hue /= np.maximum(chroma, np.float32(1e-3))
    hue += turned
    return np.abs(hue, out=hue), chroma, value


def _grey(picture: np.ndarray) -> np.ndarray:
    grey: np.ndarray = picture[0] * np.float32(_GREY[0])
    for channel, share in zip(picture[1:], _GREY[1:], strict=True):
        grey += channel * np.float32(share)
    return grey


def _clip(picture: np.ndarray) -> None:
    np.clip(picture, np.float32(0), np.float32(255), out=picture)
