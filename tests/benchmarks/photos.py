"""Photo-like pictures, the same on every machine: 1/f noise with coloured objects before it.

Saved as JPEG of quality 90 with 4:2:0 chroma at 500 x 375, a file holds about 75 KB, which is what the
stored copy of YFCC15M holds on average (FACTS 3: 1.12 TB for 15.06 million pairs).
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pi_repro.data.randomness import generator

_FALL = 1.3  # of the amplitude with the frequency


def picture(number: int, width: int = 500, height: int = 375) -> np.ndarray:
    """uint8 [height, width, 3]."""
    draws = generator("photo", number, width, height)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def noise() -> np.ndarray:
        phases = draws.standard_normal((2, *frequency.shape))
        field = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency**_FALL, (height, width))
        return np.asarray(field / field.std())

    light = noise()
    levels = np.stack([0.8 * light + 0.35 * noise() for _ in range(3)], axis=2)
    y, x = np.mgrid[:height, :width]
    for _ in range(12):
        place, reach = draws.uniform((0, 0), (height, width)), draws.uniform(20, 120, 2)
        inside = ((y - place[0]) / reach[0]) ** 2 + ((x - place[1]) / reach[1]) ** 2 < 1
        levels[inside] += draws.uniform(-1.2, 1.2, 3)
    return np.asarray(np.clip(128 + 45 * levels, 0, 255).astype(np.uint8))


def jpeg_file(pixels: np.ndarray, quality: int = 90) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()
