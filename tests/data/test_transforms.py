"""Transforms: open_clip's bits for evaluation, torchvision's distribution for training, keyed draws."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms as tv

from pi_repro.data.pixels import MEAN, STD, normalize
from pi_repro.data.randomness import generator
from pi_repro.data.transforms import build, crop_box, decode, evaluation_transform, is_random
from pi_repro.errors import StateError
from pi_repro.spec.training import Augmentation

MODES = ["RGB", "P", "RGBA", "LA", "L", "1", "I;16"]
SHAPES = [(64, 64), (100, 37), (37, 100), (17, 23), (300, 299)]
KINDS = [
    Augmentation(kind="resize"),
    Augmentation(kind="center_crop"),
    Augmentation(kind="random_resized_crop", scale=(0.9, 1.0)),
    Augmentation(kind="mocov2", scale=(0.2, 1.0)),
]


def file_of(mode: str, width: int, height: int, form: str = "PNG") -> bytes:
    channels = {"RGBA": 4, "LA": 2, "L": 1}.get(mode, 3)
    draws = generator("test image", width, height)
    # smooth and noisy parts, so that resampling matters
    y, x = np.mgrid[:height, :width]
    pixels = (x * 5 + y * 3)[..., None] % 256 * 0.6 + draws.random((height, width, channels)) * 100
    pixels = pixels.astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    elif mode in ("P", "1"):
        image = Image.fromarray(pixels).convert(mode)
    else:
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode="LA" if mode == "LA" else None)
    assert image.mode == mode
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_has_open_clips_bits(mode: str, shape: tuple[int, int]) -> None:
    content = file_of(mode, *shape)
    ours = evaluation_transform(64)(content, None)
    assert ours.dtype == np.uint8
    assert ours.shape == (3, 64, 64)
    theirs = image_transform(64, is_train=False)(Image.open(io.BytesIO(content)))
    assert torch.equal(normalize(torch.from_numpy(ours)[None])[0], theirs)


def test_evaluation_has_open_clips_bits_on_jpeg_at_224() -> None:
    content = file_of("RGB", 500, 375, "JPEG")
    theirs = image_transform(224, is_train=False)(Image.open(io.BytesIO(content)))
    assert torch.equal(normalize(torch.from_numpy(evaluation_transform(224)(content, None))), theirs)


def test_normalize_on_every_value() -> None:
    assert (MEAN, STD) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    theirs = tv.Compose([tv.ToTensor(), tv.Normalize(MEAN, STD)])(values)
    ours = torch.from_numpy(values.transpose(2, 0, 1).copy())
    assert torch.equal(normalize(ours[None].expand(5, -1, -1, -1)), theirs[None].expand(5, -1, -1, -1))
    assert ours.dtype == torch.uint8
    # More than is worked on at once, and laid out as a decoder does.
    many = torch.randint(0, 256, (9, 3, 200, 200), dtype=torch.uint8)
    found = normalize(many.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous()
    assert torch.equal(found, torch.stack([tv.functional.normalize(one / 255, MEAN, STD) for one in many]))
    assert normalize(many[:0]).shape == (0, 3, 200, 200)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_normalize_on_a_gpu() -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(normalize(values.cuda()).cpu(), normalize(values))


def test_center_crop_is_the_evaluation_transform() -> None:
    content = file_of("RGB", 100, 37)
    cropped = build(Augmentation(kind="center_crop"), 32)(content, None)
    assert np.array_equal(cropped, evaluation_transform(32)(content, None))


def test_resize_does_not_keep_the_aspect() -> None:
    content = file_of("RGB", 100, 37)
    image = Image.open(io.BytesIO(content)).resize((48, 48), Image.Resampling.BICUBIC)
    resized = build(Augmentation(kind="resize"), 48)(content, None)
    assert np.array_equal(resized, np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("augmentation", KINDS, ids=lambda a: a.kind)
@pytest.mark.parametrize("mode", MODES[:-1])
def test_result_depends_on_content_and_key_alone(augmentation: Augmentation, mode: str) -> None:
    transform = pickle.loads(pickle.dumps(build(augmentation, 40)))
    content = file_of(mode, 90, 70)
    results = []
    for key in (1, 1, 2):
        torch.manual_seed(len(results))
        np.random.seed(len(results))
        results.append(transform(content, generator(key)))
    assert all(r.shape == (3, 40, 40) and r.dtype == np.uint8 and r.flags.c_contiguous for r in results)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2]) != is_random(augmentation)


def test_random_kinds_need_a_generator() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        build(KINDS[2], 32)(file_of("RGB", 40, 40), None)


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (64, 64, (0.9, 1.0)),
        (200, 300, (0.2, 1.0)),
        (375, 500, (0.08, 1.0)),
        (40, 400, (0.5, 1.0)),
        (9, 7, (0.2, 1.0)),
    ],
)
def test_crop_is_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    n = 4_000
    ours = np.array([crop_box(height, width, scale, generator("crop", i)) for i in range(n)], dtype=float)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)], dtype=float
    )
    for column in range(4):
        grid = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        gaps = [(x[:, column][:, None] <= grid).mean(0) for x in (ours, theirs)]
        # Kolmogorov-Smirnov at 0.1 % for two samples of n
        assert np.abs(gaps[0] - gaps[1]).max() < 1.95 * (2 / n) ** 0.5
    with np.errstate(invalid="ignore"):
        correlations = [np.nan_to_num(np.corrcoef(x[:, 2:].T))[0, 1] for x in (ours, theirs)]
    assert correlations[0] == pytest.approx(correlations[1], abs=0.08)


@pytest.mark.parametrize(("height", "width"), [(1, 100), (100, 1), (30, 30)])
def test_crop_falls_back_to_the_centre_as_torchvisions(height: int, width: int) -> None:
    # An area above the whole image never fits, so all tries fail.
    theirs = tv.RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], [3 / 4, 4 / 3])
    assert crop_box(height, width, (2.0, 2.0), generator(0)) == theirs


def test_mocov2_does_each_thing_as_often_as_it_should() -> None:
    """On an image that is red left and blue right, with a crop of everything, the parts can be told apart."""
    half = np.zeros((32, 32, 3), dtype=np.uint8)
    half[:, :16, 0] = half[:, 16:, 2] = 200
    file = io.BytesIO()
    Image.fromarray(half).save(file, "PNG")
    transform = build(Augmentation(kind="mocov2", scale=(1.0, 1.0)), 32)
    results = np.stack([transform(file.getvalue(), generator("mocov2", i)) for i in range(3_000)]).astype(int)
    left, right = results[..., 0], results[..., -1]
    grey = (results[:, 0] == results[:, 1]).all((1, 2)) & (results[:, 1] == results[:, 2]).all((1, 2))
    assert grey.mean() == pytest.approx(0.2, abs=0.03)
    flipped = (right[:, 0] > left[:, 0])[~grey].all(1)
    assert flipped.mean() == pytest.approx(0.5, abs=0.03)
    plain = ((left[:, 0] == 200) & (left[:, 2] == 0) | (left[:, 2] == 200) & (left[:, 0] == 0)).all(1)
    assert plain[~grey].mean() == pytest.approx(0.2, abs=0.03)
    steps = np.abs(np.diff(results, axis=3)).max((1, 2))
    blurred = (steps > 0).sum(1) > 1
    # Radii that are too small to change a pixel make the share a little less than a half.
    assert 0.38 < blurred.mean() < 0.52


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_files_are_refused(form: str, damage: str) -> None:
    content = file_of("RGB", 64, 64, form)
    content = {"cut": content[: len(content) // 2], "empty": b"", "text": b"no image" * 40}[damage]
    with pytest.raises(StateError, match="image cannot be decoded"):
        decode(content)
