"""Plain JPEG files: Pillow's pixels by the fast way, and Pillow itself for all else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from pi_repro.data import jpeg
from pi_repro.data.randomness import generator
from pi_repro.data.transforms import build, crop_box, decode
from pi_repro.errors import StateError
from pi_repro.spec.training import Augmentation

CROP = Augmentation(kind="random_resized_crop", scale=(0.9, 1.0))
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter, which neither we nor open_clip undo

PLAIN: dict[str, dict[str, Any]] = {
    "4:2:0": {"quality": 90, "subsampling": "4:2:0"},
    "4:2:2": {"quality": 75, "subsampling": "4:2:2"},
    "4:4:4": {"quality": 95, "subsampling": "4:4:4"},
    "poor": {"quality": 5},
    "progressive": {"quality": 85, "progressive": True},
    "optimized": {"quality": 85, "optimize": True},
    "restarts": {"quality": 85, "restart_marker_blocks": 4},
    "exif": {"quality": 85, "exif": EXIF, "icc_profile": b"profile" * 20_000, "comment": b"c"},
    "rgb": {"quality": 85, "keep_rgb": True},
    "grey": {"mode": "L", "quality": 85},
}


def file_of(width: int = 61, height: int = 47, form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    draws = generator("jpeg", width, height)
    coarse = Image.fromarray(draws.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(smooth + draws.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("size", [(61, 47), (16, 16), (1, 9), (333, 250)])
def test_pixels_are_pillows(options: dict[str, Any], size: tuple[int, int]) -> None:
    content = file_of(*size, **options)
    theirs = np.asarray(Image.open(io.BytesIO(content)))
    ours = jpeg.decode(content)
    assert ours is not None
    assert np.array_equal(ours.permute(1, 2, 0).numpy().reshape(theirs.shape), theirs)


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P"), ("PNG", "LA")],
)
def test_other_files_have_pillows_own_bits(form: str, mode: str) -> None:
    content = file_of(form=form, mode=mode)
    assert jpeg.plain_frame(content) is None
    image = Image.open(io.BytesIO(content))
    box = crop_box(image.height, image.width, (0.9, 1.0), generator(1))
    theirs = functional.resized_crop(image, *box, [32, 32], InterpolationMode.BICUBIC).convert("RGB")
    assert np.array_equal(build(CROP, 32)(content, generator(1)), np.asarray(theirs).transpose(2, 0, 1))


def test_other_frames_and_rests_are_left_to_pillow() -> None:
    content = file_of()
    place = content.index(b"\xff\xc0")
    for marker in (0xC3, 0xC9):  # lossless, arithmetic
        assert jpeg.plain_frame(content[: place + 1] + bytes([marker]) + content[place + 2 :]) is None
    assert jpeg.plain_frame(content[: place + 4] + b"\x0c" + content[place + 5 :]) is None  # 12 bits
    assert jpeg.plain_frame(content) == (47, 61, 3)
    for cut in range(0, place + 9):
        assert jpeg.plain_frame(content[:cut]) is None


def test_a_file_that_pillow_would_warn_of_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 47 - 1)
    assert jpeg.decode(file_of()) is None


@pytest.mark.parametrize("options", [PLAIN["4:2:0"], PLAIN["progressive"], PLAIN["grey"]], ids=str)
def test_damaged_files_are_refused_or_read_as_pillow_does(options: dict[str, Any]) -> None:
    content = file_of(**options)
    draws = generator("damage")
    cuts = [content[: int(end)] for end in draws.integers(0, len(content) - 2, 40)]
    flips = []
    for _ in range(150):
        spoilt = bytearray(content)
        spoilt[int(draws.integers(len(content)))] = int(draws.integers(256))
        flips.append(bytes(spoilt))
    refused = 0
    for spoilt in [content[:-2], content[:-1], content + b"rest", *cuts, *flips]:
        try:
            theirs = np.asarray(decode(spoilt).convert("RGB"))
        except StateError:
            theirs = None
        ours = jpeg.decode(spoilt)
        if theirs is None:
            refused += 1
            assert ours is None
        elif ours is not None:
            assert np.array_equal(ours.expand(3, -1, -1).permute(1, 2, 0).numpy(), theirs)
    assert refused >= len(cuts)


@pytest.mark.parametrize("options", [PLAIN["4:2:0"], PLAIN["grey"]], ids=["rgb", "grey"])
@pytest.mark.parametrize(
    ("scale", "mean", "largest"), [((0.9, 1.0), 0.02, 1), ((0.08, 0.2), 0.1, 2)], ids=["whole", "enlarged"]
)
def test_crop_is_pillows_to_a_level(
    options: dict[str, Any], scale: tuple[float, float], mean: float, largest: int
) -> None:
    content = file_of(333, 250, **options)
    image = Image.open(io.BytesIO(content))
    changes = []
    for key in range(5):
        box = crop_box(image.height, image.width, scale, generator(key))
        crop = functional.resized_crop(image, *box, [112, 112], InterpolationMode.BICUBIC).convert("RGB")
        ours = build(Augmentation(kind="random_resized_crop", scale=scale), 112)(content, generator(key))
        changes.append(np.abs(ours.astype(int) - np.asarray(crop).transpose(2, 0, 1)))
    assert np.max(changes) <= largest
    assert np.mean(changes) < mean


def test_bits_do_not_depend_on_where_things_lie() -> None:
    content = file_of(333, 250)
    held = []
    for kind, scale in (("random_resized_crop", (0.9, 1.0)), ("mocov2", (0.2, 1.0))):
        transform = build(Augmentation(kind=kind, scale=scale), 50)
        results = set()
        for number in range(8):
            held.append(bytearray(37 * number + 1))  # moves what is allocated next
            results.add(transform(bytes(content), generator(3)).tobytes())
        assert len(results) == 1
