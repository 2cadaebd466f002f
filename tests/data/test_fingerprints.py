"""Perceptual hashes: one picture's files are near each other, other pictures are not, and the bits are pinned."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import resvg_py
from PIL import Image

from pi_repro.data.fingerprints import FLAT, distance, phash

#: What is customarily taken for a near-duplicate, and a little more for heavy hands.
NEAR, ALIKE = 8, 12
#: Hashes of a pattern, as whole numbers give them.
PINNED = [5_365_985_269_067_506_210, 2_190_442_516_268_953_712, 6_230_489_759_355_905_570]


def jpeg(image: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resize(image: np.ndarray, factor: float = 0.8) -> np.ndarray:
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def crop(image: np.ndarray) -> np.ndarray:
    """Two of a hundred of each side cut off."""
    high, wide = (round(side * 0.01) for side in image.shape[:2])
    return image[high:-high, wide:-wide]


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Sixteen cuts of one photograph, overlapping, as pictures of one series do."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    whole = np.asarray(Image.open(path).convert("RGB"))
    return [whole[y : y + 280, x : x + 280] for y in range(0, 320, 80) for x in range(0, 232, 75)]


@pytest.fixture(scope="module")
def drawings() -> list[np.ndarray]:
    """As the demo's: figures on white, 64 pixels."""
    rng, made = np.random.default_rng(5), []
    for _ in range(60):
        shapes = "".join(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="#{c:06x}" rx="4"/>'
            for x, y, w, h, c in zip(
                *rng.integers(2, 24, (2, 4)), *rng.integers(4, 14, (2, 4)), rng.integers(0, 1 << 24, 4), strict=True
            )
        )
        svg = f'<svg viewBox="0 0 36 36" xmlns="http://www.w3.org/2000/svg">{shapes}</svg>'
        file = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=64, height=64))
        image = Image.open(io.BytesIO(file)).convert("RGBA")
        made.append(np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")))
    return made


def test_the_bits_are_the_same_on_any_machine() -> None:
    """Whole numbers alone decide, so a value that changes here changes what every stored column means."""
    y, x = np.mgrid[0:375, 0:500]
    image = np.stack([(x * y // 7) % 256, (x * 3 + y * y // 50) % 256, (x ^ y) % 256], axis=-1).astype(np.uint8)
    assert [phash(image), phash(image[:97, :31]), phash(image[..., 0])] == PINNED
    assert phash(np.asfortranarray(image)) == phash(image)
    assert phash(np.repeat(image[..., :1], 3, axis=2)) == phash(image[..., :1]) == PINNED[2]


@pytest.mark.parametrize("change", [jpeg, resize, crop])
@pytest.mark.parametrize("which", ["photographs", "drawings"])
def test_one_picture_stays_near(
    change: Callable[[np.ndarray], np.ndarray], which: str, request: pytest.FixtureRequest
) -> None:
    images = request.getfixturevalue(which)
    found = distance(hashes(images), hashes([change(image) for image in images]))
    assert np.median(found) <= NEAR // 2 and found.max() <= ALIKE


@pytest.mark.parametrize("which", ["photographs", "drawings"])
def test_other_pictures_are_far(which: str, request: pytest.FixtureRequest) -> None:
    found = hashes(request.getfixturevalue(which))
    apart = distance(found[:, None], found[None])[np.triu_indices(len(found), 1)]
    assert apart.min() > NEAR // 2 and np.median(apart) > 24


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500), (40, 40, 3), (301, 200, 1)])
def test_an_image_without_structure_is_flat(shape: tuple[int, ...]) -> None:
    assert phash(np.full(shape, 200, np.uint8)) == FLAT


def test_strips_leave_nothing_behind() -> None:
    tracemalloc.start()
    try:
        for width in range(30_000, 30_004):
            phash(np.zeros((2, width, 3), np.uint8))
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_image_is_refused() -> None:
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="no image"):
            phash(wrong)


def hashes(images: list[np.ndarray]) -> np.ndarray:
    return np.array([phash(image) for image in images], dtype=np.int64)
