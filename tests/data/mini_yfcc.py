"""A miniature of the hub's YFCC15M: three parquet files of images and token ids, some of them unusable."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pi_repro.spec.card import Card
from pi_repro.stages.context import silent

REPO, COMMIT = "mini/YFCC15M", "fc" * 20
FILES, ROWS = 3, 40
CONTEXT = 77
CAPTIONS = (
    "A dog on the beach",
    "Mum's 2nd birthday!! (cake & candles)",
    "IMG_2008.jpg",
    "Café Müller – Zürich, 日本 & Россия ☃ 🎉",
    "don't we've I'm it'll",
    "",
    "tab\tand\nnewline   and spaces",
    "x<y>z </w> <b>bold</b> 3.14159%",
    "a very " * 60 + "long description of Schwarzschildradius",
    "supercalifragilisticexpialidocious " * 12,
)
#: row -> why it cannot be used, in every file.
BROKEN = {
    3: "image cannot be decoded",
    11: "image cannot be decoded",
    12: "no image",
    13: "no image",
    20: "image is a GIF",
    25: "token ids without start or end",
    26: "no token ids",
}


@dataclass
class MiniStage:
    """What a fetcher sees of its stage."""

    out: Path
    scratch: Path
    data_root: Path | None = None
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[..., None] = silent
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("test"))

    @classmethod
    def below(cls, folder: Path, **more: Any) -> MiniStage:
        stage = cls(folder / "out", folder / "scratch" / "print", folder / "site", **more)
        for made in (stage.out, stage.scratch):
            made.mkdir(parents=True, exist_ok=True)
        return stage


def picture(number: int, form: str = "JPEG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    draws = np.random.Generator(np.random.Philox(number))
    coarse = Image.fromarray(draws.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, form, **options)
    return file.getvalue()


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # not wanted by all who read a card from here

    return SimpleTokenizer()


def ids_of(caption: str, *, pad: int = 0) -> list[int]:
    """As a hub stores a caption; some pad with the end's id."""
    row = _tokenizer()([caption])[0].tolist()
    last = row.index(49407)
    return row[: last + 1] + [pad] * (len(row) - last - 1)


def rows(file: int, count: int = ROWS) -> list[tuple[bytes | None, list[int] | None]]:
    """(image, ids) of a file."""
    made: list[tuple[bytes | None, list[int] | None]] = []
    for row in range(count):
        number = 1000 * file + row
        image: bytes | None = picture(number, ("JPEG", "JPEG", "PNG", "WEBP")[row % 4])
        if row % 4 == 1:
            image = picture(number, progressive=True, quality=80)
        ids: list[int] | None = ids_of(f"{CAPTIONS[row % len(CAPTIONS)]}", pad=49407 if row % 3 == 2 else 0)
        if row == 3:
            image = b"not an image at all" + struct.pack("<Q", number)
        elif row == 11:
            image = picture(number)[:-300]
        elif row == 12:
            image = None
        elif row == 13:
            image = b""
        elif row == 20:
            image = picture(number, "GIF")
        elif row == 25:
            ids = [5] * CONTEXT
        elif row == 26:
            ids = None
        made.append((image, ids))
    return made


def write(folder: Path, *, files: int = FILES, count: int = ROWS, struct_images: bool = False, group: int = 16) -> Path:
    """The hub's folder."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for file in range(files):
        made = rows(file, count)
        images: Any = [image for image, _ in made]
        kind: Any = pa.binary()
        if struct_images:
            images = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {
                "images": pa.array(images, kind),
                "texts": pa.array([ids for _, ids in made], pa.list_(pa.int64())),
                "photo": pa.array([10_000 * file + row for row in range(count)], pa.int64()),
                "owner": pa.array([f"user {row}" for row in range(count)]),
            }
        )
        pq.write_table(table, folder / "data" / f"train-{file:05d}-of-{files:05d}.parquet", row_group_size=group)
    return folder


def card(name: str = "mini-yfcc", *, location: str = "site", short_side: int | None = None, **settings: Any) -> Card:
    """A card that reads them."""
    return Card.model_validate(
        {
            "name": name,
            "kind": "pairs",
            "title": "Miniature",
            "description": "Miniature",
            "licence": "none",
            "fetcher": "yfcc15m",
            "location": location,
            "sources": [
                {
                    "name": "mini-hub",
                    "kind": "hub",
                    "locator": REPO,
                    "revision": COMMIT,
                    "digest": "recorded at first fetch",
                    "bytes": None,
                    "licence": "none",
                }
            ],
            "settings": {
                "captions": "raw",
                "segment": 0,
                "context": CONTEXT,
                "shards": FILES,
                "holdout": 10,
                "holdout_rule": "lowest_keyed_hash",
                "holdout_seed": 42,
                "failures_allowed": 0.25,
                **settings,
            },
            "count": FILES * (ROWS - len(BROKEN)) - 10,
            "disk_bytes": 10**6,
            "files": FILES,
            "short_side": short_side,
        }
    )
