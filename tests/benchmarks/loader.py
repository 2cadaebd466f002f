"""Loader against open_clip's: samples a second on one core, from the same shards, and pixels side by side.

    python -m tests.benchmarks.loader

Rule: both run in this process, on one core, one thread, in turns; the best turn of each counts, because
what else the machine does can only slow a turn down.
Time is the process's own on the CPU.
Each turn takes every sample once, read, decoded, augmented and tokenized, with no sample in a cache; both
tokenizers remember words from turn to turn, as in a training.
open_clip's loader is its own (open_clip_train.data.get_wds_dataset, its training transform, no workers).
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import webdataset
from open_clip.transform import image_transform
from open_clip_train import data as open_clip_data
from PIL import Image, ImageFilter
from torchvision import transforms as tv
from torchvision.transforms import functional

from pi_repro.data import captions, jpeg, mocov2, transforms
from pi_repro.data.loader import PairSource, micro_batches
from pi_repro.data.pixels import MEAN, STD, normalize
from pi_repro.data.randomness import generator
from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.spec.training import Augmentation

from . import photos
from .rows import Row, row

SIZE, BATCH, COUNT, SHARD, TURNS = 224, 32, 64, 32, 9
#: A crop of 90 % is still larger than what it becomes.
SHORT_SIDE = 240
_COLOURS = ("red", "green", "blue", "yellow", "grey")
CROP = Augmentation(kind="random_resized_crop", scale=(0.9, 1.0))
MOCO = Augmentation(kind="mocov2", scale=(0.2, 1.0))

Epoch = Callable[[], Iterator[torch.Tensor]]


def measure() -> list[Row]:
    """One row a comparison, samples a second."""
    core = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(core)})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measured(Path(folder))
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, core)


def _measured(folder: Path) -> list[Row]:
    files = [photos.jpeg_file(photos.picture(number)) for number in range(COUNT)]
    full, small = _shards(folder / "full", None, files), _shards(folder / "small", SHORT_SIDE, files)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    theirs = _open_clips(full, image_transform(SIZE, is_train=True), tokenizer)
    moco = _open_clips(full, mocov2_of_torchvision(), tokenizer)

    words = captions.fast(tokenizer)

    def ours(shards: Shards, augmentation: Augmentation) -> Epoch:
        return lambda: _ours(shards, augmentation, words)

    def normalized() -> Iterator[torch.Tensor]:
        return (normalize(images) for images in _ours(full, CROP, words))

    before = "a 500 x 375 JPEG to a 224 crop of 90 to 100 %"
    return [
        _row(f"loader, one core: {before}", ours(full, CROP), theirs, ">= 2.5"),
        _row(f"the same, and normalized on that core: {before}", normalized, theirs),
        _row(
            f"loader, one core: short side {SHORT_SIDE} at fetch (open_clip: the originals)",
            ours(small, CROP),
            theirs,
            ">= 5",
        ),
        _row("loader, one core: mocov2 (open_clip's loader with torchvision's transforms)", ours(full, MOCO), moco),
    ]


def _row(what: str, ours: Epoch, theirs: Epoch, target: str = "") -> Row:
    speeds = [(_speed(ours), _speed(theirs)) for _ in range(TURNS)]
    best = [max(side) for side in zip(*speeds, strict=True)]
    return row(what, best[0], best[1], "samples/s", target, better="more")


def _speed(epoch: Epoch) -> float:
    start = time.process_time()
    samples = sum(len(images) for images in epoch())
    if samples != COUNT:
        raise RuntimeError(f"{samples} samples, not {COUNT}")
    return samples / (time.process_time() - start)


def _ours(
    shards: Shards, augmentation: Augmentation, tokenizer: Callable[[list[str]], torch.Tensor]
) -> Iterator[torch.Tensor]:
    source = PairSource(shards, augmentation, SIZE, tokenizer, seed=0)
    rows = source.order(4).rows(0, 0, COUNT)
    schedule = [[(0, int(row)) for row in part] for part in rows.reshape(-1, BATCH)]
    return (batch["image"] for batch in micro_batches(source, schedule, workers=0, prefetch=1))


def _open_clips(shards: Shards, transform: Callable[[Image.Image], torch.Tensor], tokenizer: object) -> Epoch:
    last = len(shards.shards) - 1
    args = argparse.Namespace(
        train_data=f"{shards.folder}/shards/{{00000..{last:05d}}}.tar",
        train_num_samples=COUNT,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=BATCH,
        workers=0,
        world_size=1,
    )
    # Newer webdatasets mark the end of a shard, which open_clip's grouping (3.3) does not know.
    open_clip_data.tar_file_expander = partial(webdataset.tariterators.tar_file_expander, eof_value=None)
    data = open_clip_data.get_wds_dataset(args, transform, is_train=True, tokenizer=tokenizer)
    return lambda: (images for images, _ in data.dataloader)


def mocov2_of_torchvision() -> tv.Compose:
    """The lineage's transform (FACTS 1.3) of torchvision's parts, with Pillow's blur."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(np.random.uniform(0.1, 2.0))))

    return tv.Compose(
        [
            tv.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([tv.Lambda(blur)], p=0.5),
            tv.RandomHorizontalFlip(),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ]
    )


def _shards(folder: Path, short_side: int | None, files: list[bytes]) -> Shards:
    with ShardWriter(folder, "photos", "pairs", shard_size=SHARD, short_side=short_side) as writer:
        for number, content in enumerate(files):
            caption = f"photo {number} of a {_COLOURS[number % 5]} thing in front of other things, at noon"
            writer.add(f"p{number:05d}", {"jpg": content, "txt": caption.encode()})
    return Shards.open(folder)


def differences() -> list[tuple[str, float, float, int]]:
    """What our ways change against Pillow's and torchvision's of the same file and draws, in levels of 255.

    Returns:
        (what, mean, 99.9th percentile, largest) over some photos.
    """
    changes: dict[str, list[np.ndarray]] = {}

    def note(what: str, ours: np.ndarray, theirs: Image.Image) -> None:
        change = np.abs(ours.astype(np.int16) - np.asarray(theirs.convert("RGB")).transpose(2, 0, 1))
        changes.setdefault(what, []).append(change.ravel())

    for number in range(6):
        content = photos.jpeg_file(photos.picture(number))
        image = Image.open(io.BytesIO(content))
        decoded = jpeg.decode(content)
        if decoded is None:
            raise RuntimeError("the photo is no plain JPEG file")
        note("decoding", decoded.numpy(), image)
        box = transforms.crop_box(image.height, image.width, (0.9, 1.0), generator("crop", number))
        ours = transforms.build(CROP, SIZE)(content, generator("crop", number))
        crop = functional.resized_crop(image, *box, [SIZE, SIZE], tv.InterpolationMode.BICUBIC)
        note("random_resized_crop", ours, crop)
        for what, own, other in _mocov2_parts():
            picture = np.asarray(crop).transpose(2, 0, 1).astype(np.float32)
            own(picture)
            note(f"mocov2: {what}", mocov2.rounded(picture), other(crop))
    return [
        (what, float(found.mean()), float(np.percentile(found, 99.9)), int(found.max()))
        for what, found in ((what, np.concatenate(parts)) for what, parts in changes.items())
    ]


def _mocov2_parts() -> list[tuple[str, Callable[[np.ndarray], None], Callable[[Image.Image], Image.Image]]]:
    return [
        (
            "brightness 1.3",
            partial(mocov2.brighten, factor=1.3),
            lambda image: functional.adjust_brightness(image, 1.3),
        ),
        ("contrast 1.3", partial(mocov2.contrast, factor=1.3), lambda image: functional.adjust_contrast(image, 1.3)),
        (
            "saturation 1.3",
            partial(mocov2.saturate, factor=1.3),
            lambda image: functional.adjust_saturation(image, 1.3),
        ),
        # Pillow's hue has 255 steps.
        ("hue 0.1", partial(mocov2.turn_hue, turn=25 / 255), lambda image: functional.adjust_hue(image, 0.1)),
        ("grey", mocov2.to_grey, lambda image: functional.rgb_to_grayscale(image, 3)),
        ("blur 1.0", partial(mocov2.blur, deviation=1.0), lambda image: image.filter(ImageFilter.GaussianBlur(1.0))),
        ("blur 2.0", partial(mocov2.blur, deviation=2.0), lambda image: image.filter(ImageFilter.GaussianBlur(2.0))),
    ]


def main() -> None:
    """Print both tables."""
    for found in measure():
        print(
            f"{found['what']:88} {found['ours']:7.0f} {found['theirs']:7.0f} {found['unit']} {found['ratio']:5.2f} x"
            f"  {found['target']}"
        )
    print("\npixels against Pillow's and torchvision's: mean, 99.9 %, largest difference, of 255")
    for what, mean, most, largest in differences():
        print(f"{what:24} {mean:8.4f} {most:6.1f} {largest:5d}")


if __name__ == "__main__":
    main()
