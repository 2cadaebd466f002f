"""Figures of a dataset: how many of what, how large, how long.

Rule: counts come from the index and are of all samples; what needs a look into a sample (format, size, caption) is of
the samples that were read, drawn by a fixed rule, and says how many they were.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pi_repro.data.randomness import some
from pi_repro.data.shards import Shards
from pi_repro.data.triplets import IMAGES, SPLITS

#: Captions are cut where CLIP's text tower ends.
CONTEXT = 77
_HEADER = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Spread:
    """Least, 5 %, median, 95 %, largest and mean of some numbers."""

    least: float
    low: float
    median: float
    high: float
    largest: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of numbers; None where there are none."""
        if not len(values):
            return None
        low, median, high = np.percentile(values, [5, 50, 95])
        return cls(
            float(min(values)), float(low), float(median), float(high), float(max(values)), float(np.mean(values))
        )


@dataclass(frozen=True)
class Figures:
    """What is known of one sharded set.

    Attributes:
        kind, count, shards, bytes: of all samples.
        splits: split -> triplets.
        classes: class -> images, by name where the set has names.
        votes: number of votes -> triplets.
        read: samples looked into.
        formats: image format -> images looked into.
        widths, heights, sizes: of these images; pixels and bytes.
        captions: captions looked into; distinct, empty and cut: of these, cut by the text tower's context.
        words, tokens: a caption; tokens by CLIP's tokenizer with begin and end.
        undecodable: images looked into whose head cannot be read.
    """

    kind: str
    count: int
    shards: int
    bytes: int
    splits: Mapping[str, int]
    classes: Mapping[str, int]
    votes: Mapping[int, int]
    read: int
    formats: Mapping[str, int]
    widths: Spread | None
    heights: Spread | None
    sizes: Spread | None
    captions: int
    distinct: int
    empty: int
    cut: int
    words: Spread | None
    tokens: Spread | None
    undecodable: int


@dataclass
class _Seen:
    """What was looked into so far."""

    formats: Counter[str] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    undecodable: int = 0

    def image(self, content: bytes) -> None:
        """Its head alone is read."""
        self.sizes.append(len(content))
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                self.formats[image.format or "unknown"] += 1
        except _HEADER:
            self.undecodable += 1
            return
        self.widths.append(width)
        self.heights.append(height)


def figures(folder: Path, data_root: Path | None, limit: int | None) -> Figures:
    """The figures of a sharded set.

    Args:
        folder: with index.json.
        data_root: where its shards lie if they are not there.
        limit: samples to look into; None for all.

    Raises:
        StateError: an index or shard is missing or damaged, by name.
    """
    shards = Shards.open(folder, data_root)
    most = shards.count if limit is None else min(limit, shards.count)
    # In rising order a disk reads forwards.
    rows = np.arange(shards.count) if most == shards.count else np.sort(some(shards.count, most, "figures"))
    images = [member for member in ("image", *IMAGES) if member in shards.members]
    seen = _Seen()
    for row in map(int, rows):
        for member in images:
            seen.image(shards.read(member, row))
        if "text" in shards.members:
            text = shards.read("text", row).decode("utf-8", "replace")
            seen.captions += text.split("\n") if shards.kind == "retrieval" else [text]
    tokens = _tokens(seen.captions)
    found = Figures(
        kind=shards.kind,
        count=shards.count,
        shards=len(shards.shards),
        bytes=sum(shard.bytes for shard in shards.shards),
        splits=_splits(shards),
        classes=_classes(shards, folder),
        votes=_votes(shards),
        read=most,
        formats=dict(seen.formats.most_common()),
        widths=Spread.of(seen.widths),
        heights=Spread.of(seen.heights),
        sizes=Spread.of(seen.sizes),
        captions=len(seen.captions),
        distinct=len(set(seen.captions)),
        empty=sum(not caption.strip() for caption in seen.captions),
        cut=sum(length > CONTEXT for length in tokens),
        words=Spread.of([len(caption.split()) for caption in seen.captions]),
        tokens=Spread.of(tokens),
        undecodable=seen.undecodable,
    )
    shards.close()
    return found


def _tokens(captions: Sequence[str]) -> list[int]:
    """Tokens of each caption with begin and end, before anything is cut."""
    if not captions:
        return []
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return [len(tokenizer.encode(caption)) + 2 for caption in captions]


def _splits(shards: Shards) -> dict[str, int]:
    if "split" not in shards.columns:
        return {}
    found = _counted(shards.column("split"))
    names = {number: split for split, number in SPLITS.items()}
    return {names.get(number, str(number)): count for number, count in found}


def _classes(shards: Shards, folder: Path) -> dict[str, int]:
    if shards.kind != "classification":
        return {}
    file = folder / "classnames.txt"
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    counts = dict(_counted(shards.column("label")))
    known = range(max(len(names), *(number + 1 for number in counts)))
    # Two classes may have one name.
    label = {number: names[number] if number < len(names) else str(number) for number in known}
    twice = {name for name, times in Counter(label.values()).items() if times > 1}
    return {f"{name} ({n})" if (name := label[n]) in twice else name: counts.get(n, 0) for n in known}


def _votes(shards: Shards) -> dict[int, int]:
    return dict(_counted(shards.column("votes"))) if "votes" in shards.columns else {}


def _counted(column: np.ndarray) -> Iterable[tuple[int, int]]:
    values, counts = np.unique(column, return_counts=True)
    return [(int(value), int(count)) for value, count in zip(values, counts, strict=True)]
