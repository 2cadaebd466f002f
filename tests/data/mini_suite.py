"""All 31 sets of the suite in miniature, in the layout of the hub's repositories, made from fixed seeds.

Every set has fewer images and classes than the real one, but its true name, task, files and image format; the class
of an image shows in it, a little, so that metrics are neither 0 nor 1.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CARD = Path(__file__).parents[2] / "specs" / "data" / "zeroshot-29-2.yaml"
#: Classes in miniature; sets under five keep theirs, so top-5 is missing where it is missing in truth.
CLASSES = 7
_FORMATS = ("webp", "png", "jpg", "jpeg")
_COLOURS = ("red", "green", "blue", "yellow", "white", "black", "purple", "orange")
_TEMPLATES = ("a photo of a {c}.", "{c}", "an image of a {c}, small")


def picture(random: np.random.Generator, kind: str, shade: int) -> bytes:
    """An image file of smooth noise with a tint."""
    height, width = random.integers(24, 48, 2).tolist()
    coarse = random.integers(0, 200, (4, 4, 3)) + np.array([shade * 7 % 56, shade * 17 % 56, shade * 29 % 56])
    image = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    image.save(file, {"jpg": "jpeg"}.get(kind, kind), **options)
    return file.getvalue()


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]], mtime: float = 1_674_000_000.25) -> None:
    """A tar as webdataset's writer leaves it: a pax header for the fractional time before every member."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size, entry.mtime = len(content), mtime
                tar.addfile(entry, io.BytesIO(content))


def write_set(folder: Path, number: int, task: str, classes: int | None, n: int, shards: int = 2) -> None:
    """One repository: tars of the test split, their number, and the texts."""
    random = np.random.default_rng(number)
    samples: list[tuple[str, Mapping[str, bytes]]] = []
    for at in range(n):
        kind = _FORMATS[(number + at) % 4] if number % 5 == 0 else _FORMATS[number % 4]
        if task == "retrieval":
            lines = [f"{_COLOURS[(at + line) % 8]} thing number {at} of {line}" for line in range(5)]
            members = {kind: picture(random, kind, at), "txt": "\n".join(lines).encode()}
        else:
            label = int(random.integers(classes or 1))
            members = {"cls": str(label).encode(), kind: picture(random, kind, label)}
        samples.append((f"s{at:07d}", members))
    size = -(-n // shards)
    for shard in range(shards):
        write_tar(folder / "test" / f"{shard}.tar", samples[shard * size : (shard + 1) * size])
    (folder / "test" / "nshards.txt").write_text(f"{shards}")
    (folder / "README.md").write_text("not fetched\n")
    (folder / "train").mkdir()
    (folder / "train" / "nshards.txt").write_text("0")
    if task == "retrieval":
        (folder / "dataset_type.txt").write_text("retrieval\n")
        return
    names = [f"{_COLOURS[label % 8]} thing {number} {label}" for label in range(classes or 0)]
    (folder / "classnames.txt").write_text("\n".join(names))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(_TEMPLATES) + "\n")


def write_suite(root: Path, card: Path = CARD, only: tuple[str, ...] = ()) -> tuple[dict[str, Path], dict[str, Any]]:
    """All repositories of a suite's card, and the card for them.

    Args:
        root: where the repositories go.
        card: the real card.
        only: ids of the sets that are made; all by default.

    Returns:
        repository -> its folder; and the card as a mapping: miniature counts, all sources open.
    """
    content = yaml.safe_load(card.read_text(encoding="utf-8"))
    repositories = {}
    sources = {source["name"]: source for source in content["sources"]}
    content["sets"] = [entry for entry in content["sets"] if not only or entry["id"] in only]
    content["sources"] = [sources[entry["source"]] for entry in content["sets"]]
    content["settings"].pop("real_labels", None)
    for number, entry in enumerate(content["sets"]):
        source = sources[entry["source"]]
        source.update(access="open", how_to="")
        folder = root / source["locator"].replace("/", "--")
        if entry["classes"]:
            entry["classes"] = min(CLASSES, entry["classes"])
        entry["n"] = 11 + number % 4
        write_set(folder, number, entry["task"], entry["classes"], entry["n"])
        repositories[source["locator"]] = folder
    content["count"] = sum(entry["n"] for entry in content["sets"])
    content.update(disk_bytes=4_000_000, files=300)
    return repositories, content
