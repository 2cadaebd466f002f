"""Distortions are functions of their key, follow KADID-10k's table and grow stronger with the level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pi_repro.data.demo.cells import error, shrink
from pi_repro.data.demo.distortions import Pixels, distort
from pi_repro.data.demo.levels import LEVELS, NUMBERS, rising
from pi_repro.data.demo.planes import filtered, from_lab, to_lab

#: identity by KADID-10k's own parameters: a line of one pixel, saturation times one, a shift by nothing
NOTHING = {("motion_blur", 1), ("oversaturation", 1), ("mean_shift", 3)}


@pytest.fixture(scope="module")
def picture() -> Pixels:
    """A coloured drawing, 128 x 128, with edges, gradients and white around."""
    y, x = np.mgrid[0:128, 0:128]
    canvas = np.full((128, 128, 3), 255, np.uint8)
    face = (y - 64) ** 2 + (x - 64) ** 2 < 50**2
    canvas[face] = np.stack([240 - y // 2, 150 + x // 3, 60 + y // 4], axis=2)[face]
    canvas[40:60, 40:52] = (40, 30, 90)
    canvas[40:60, 76:88] = (40, 90, 30)
    canvas[85:93, 45:83] = (200, 40, 40)
    return canvas


def test_numbers_are_those_of_kadid_without_denoising() -> None:
    assert sorted(NUMBERS.values()) == [number for number in range(1, 26) if number != 15]
    assert set(NUMBERS) == set(LEVELS)


@pytest.mark.parametrize("kind", LEVELS)
def test_same_key_same_bits_and_input_untouched(picture: Pixels, kind: str) -> None:
    before = picture.copy()
    first = distort(picture, kind, 4, "a", 7)
    distort(picture, kind, 2, "a", 8)
    assert np.array_equal(first, distort(picture, kind, 4, "a", 7))
    assert np.array_equal(picture, before)
    assert first.dtype == np.uint8 and first.shape == picture.shape


@pytest.mark.parametrize("kind", ["white_noise", "impulse_noise", "motion_blur", "jitter", "color_blocks", "patches"])
def test_randomness_depends_on_the_key(picture: Pixels, kind: str) -> None:
    assert not np.array_equal(distort(picture, kind, 5, "a", 1), distort(picture, kind, 5, "a", 2))


@pytest.mark.parametrize("kind", sorted(set(LEVELS) - {"color_quantization"}))
def test_strength_rises_along_every_run(picture: Pixels, kind: str) -> None:
    for run in rising(kind):
        errors = [np.mean([error(picture, distort(picture, kind, level, n)) for n in range(4)]) for level in run]
        # a few types saturate at their last levels; none may fall by more than a tenth
        assert all(later >= 0.9 * earlier for earlier, later in itertools.pairwise(errors)), errors
        assert errors[-1] > errors[0]


@pytest.mark.parametrize(("kind", "level"), sorted(NOTHING))
def test_kadids_identities_are_identities(picture: Pixels, kind: str, level: int) -> None:
    assert np.abs(distort(picture, kind, level).astype(int) - picture).max() <= 1


@pytest.mark.parametrize("kind", LEVELS)
def test_plain_white_stays_within_range(kind: str) -> None:
    white = np.full((128, 128, 3), 255, np.uint8)
    assert distort(white, kind, 5, "w").shape == white.shape


def test_unusable_requests_are_refused(picture: Pixels) -> None:
    with pytest.raises(KeyError):
        distort(picture, "denoising", 1)
    for level in (0, 6):
        with pytest.raises(ValueError, match="level"):
            distort(picture, "jpeg", level)
    with pytest.raises(ValueError, match="uint8"):
        distort(picture.astype(np.float64), "jpeg", 1)  # type: ignore[arg-type]


def test_lab_has_known_values_and_returns(picture: Pixels) -> None:
    lab = to_lab(np.array([[[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]))
    assert np.allclose(lab[0, 0], (53.24, 80.09, 67.20), atol=0.05)  # published value of sRGB red under D65
    assert np.allclose(lab[0, 1:], [(100, 0, 0), (0, 0, 0)], atol=0.05)
    assert np.abs(from_lab(to_lab(picture / 255.0)) * 255 - picture).max() < 0.6


def test_filter_keeps_a_plain_field_and_moves_nothing() -> None:
    kernel = np.full((5, 5), 1 / 25)
    assert np.allclose(filtered(np.full((20, 30, 3), 0.4), kernel), 0.4)
    point = np.zeros((21, 21, 1))
    point[10, 10] = 1
    assert np.allclose(filtered(point, kernel)[8:13, 8:13, 0], 1 / 25)


def test_shrink_is_the_mean_of_squares_of_pixels() -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    mean = pixels.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrink(pixels, 2) - mean).max() <= 0.5
