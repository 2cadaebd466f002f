"""Images made smaller when they are fetched, so that training decodes fewer pixels.

Rule: the shorter side becomes N pixels, or the file stays as it is, byte for byte, where it is not
longer than that. What is written is a plain JPEG file by constants that stand here; they may change
only with the recipe number of fetching.
"""

from __future__ import annotations

import io

from PIL import Image

from pi_repro.data import transforms

#: How a smaller image is written.
QUALITY = 90
SUBSAMPLING = "4:2:0"
FILTER = Image.Resampling.LANCZOS


def presize(content: bytes, short_side: int) -> bytes | None:
    """A JPEG file of the image with its shorter side at `short_side` pixels, its aspect kept.

    Pixels only: EXIF (by which nothing here turns an image), profiles and comments are left behind.

    Returns:
        None where the file is to be kept: its shorter side is no longer than that.

    Raises:
        StateError: the image cannot be decoded.
    """
    image = transforms.decode(content)
    shorter = min(image.size)
    if shorter <= short_side:
        return None
    width, height = (max(1, round(side * short_side / shorter)) for side in image.size)
    # RGB first: a palette can't be resampled, and JPEG holds no alpha.
    smaller = image.convert("RGB").resize((width, height), FILTER)
    file = io.BytesIO()
    smaller.save(file, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return file.getvalue()
