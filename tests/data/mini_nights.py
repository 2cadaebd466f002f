"""A miniature NIGHTS in the true layout: the one archive, the archives by folder, and what must come out of them.

As in the real set, not every number exists, some rows have too few votes, which file is left and which right was
drawn for each row, and the label is not what any name suggests.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

HEAD = ("id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split",
        "is_imagenet", "prompt")  # fmt: skip
CATEGORIES = (("tench", True), ("abbey", False), ("goldfish", True), ("apple pie", False), ("rocket", False))
ZERO_TIME = (2023, 6, 1, 0, 0, 0)


@dataclass(frozen=True)
class MiniNights:
    """So many triplets of a width in pixels, spread over `folders` folders."""

    triplets: int = 60
    size: int = 24
    folders: int = 4
    seed: int = 0

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The table, in the order of ids."""
        draw = np.random.default_rng(self.seed)
        numbers = sorted(draw.choice(2 * self.triplets, self.triplets, replace=False).tolist())
        a_folder = -(-2 * self.triplets // self.folders)
        rows = []
        for number in numbers:
            place = f"{number // a_folder:03d}/{number % a_folder:03d}"
            sides = [f"distort/{place}_0.png", f"distort/{place}_1.png"]
            if draw.random() < 0.5:
                sides.reverse()
            right = int(draw.random() < 0.5)
            category, imagenet = CATEGORIES[int(draw.integers(len(CATEGORIES)))]
            values = (number, 1 - right, right, int(draw.integers(4, 12)), f"ref/{place}.png", *sides,
                      ("train", "train", "train", "val", "test")[int(draw.integers(5))], imagenet,
                      f"An image of a {category}")  # fmt: skip
            rows.append(dict(zip(HEAD, map(str, values), strict=True)))
        return rows

    @cached_property
    def images(self) -> dict[str, bytes]:
        """Path -> PNG; each differs from every other, and the ones that no row names are there too."""
        paths = sorted({row[name] for row in self.rows for name in ("ref_path", "left_path", "right_path")})
        return {path: noise(self.size, (self.seed, number)) for number, path in enumerate(paths)}

    def with_images(self, images: Mapping[str, bytes]) -> MiniNights:
        """The same table, with other images."""
        other = replace(self)
        vars(other)["images"] = dict(images)
        return other

    @property
    def kept(self) -> list[dict[str, str]]:
        """Rows with six votes or more."""
        return [row for row in self.rows if int(row["votes"]) >= 6]

    @cached_property
    def table(self) -> bytes:
        """data.csv."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, HEAD, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def write_zip(self, path: Path, more: Iterable[tuple[zipfile.ZipInfo, bytes]] = (), **replaced: bytes) -> Path:
        """The one archive, with members of other making at its end; `replaced`: table=..., to lie about it."""
        members = {"nights/README.md": b"# NIGHTS\n", "nights/data.csv": replaced.get("table", self.table)}
        return write_zip(path, members | {f"nights/{name}": image for name, image in self.images.items()}, more)

    def write_chunks(self, folder: Path) -> Path:
        """ref/NNN.zip and distort/NNN.zip, each to be unpacked in ref/ or distort/."""
        chunks: dict[str, dict[str, bytes]] = {}
        for path, image in self.images.items():
            part, below = path.split("/", 1)
            chunks.setdefault(f"{part}/{below.split('/')[0]}.zip", {})[below] = image
        for name, members in chunks.items():
            write_zip(folder / name, members)
        return folder


def noise(size: int, seed: tuple[int, ...]) -> bytes:
    """A PNG of random pixels, which no packing makes smaller."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes], more: Iterable[tuple[zipfile.ZipInfo, bytes]] = ()) -> Path:
    """A zip archive; `more` as given, after `members`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(member(name), content)
        for info, content in more:
            archive.writestr(info, content)
    return path


def member(name: str, mode: int = 0o100644, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    """A member with a fixed time; 0o120777 makes a link."""
    info = zipfile.ZipInfo(name, ZERO_TIME)
    info.external_attr = mode << 16
    info.compress_type = compression
    return info
