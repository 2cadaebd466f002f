"""Near-duplicates between what is trained on and what is judged on: found by perceptual hash, counted and listed.

Rule: every pair of images whose hashes differ in at most so many bits is counted, and the nearest are listed, so the
figures do not depend on how many fit on a list. A hash is a sign, no proof: whoever wants to know looks at the sheet.
Images without structure (blank pages) are like all others of their kind; they are counted apart and not compared.

A folder gets `pairs.tsv` (the nearest first within each evaluation image), `summary.json` and `pairs.png`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pi_repro.data import fingerprints
from pi_repro.data.conversion import processors
from pi_repro.data.hamming import MOST, Pairs, near
from pi_repro.data.overlap_sheet import Couple, sheet
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import write_atomic, write_json

#: The column in which a conversion stores what it computed while it had the image decoded anyway.
COLUMN = "phash"
#: Members that are images, in the order in which their rows are counted.
_IMAGES = ("image", "ref", "left", "right")
_WINDOW = 256


@dataclass(frozen=True)
class Options:
    """How to look.

    Attributes:
        within: bits that may differ; 4 finds other files of one picture and almost no strangers.
        listed: pairs on the list, at most; the nearest.
        pictures: pairs on the contact sheet; 0 for none.
        threads: that decode images which have no hash yet.
    """

    within: int = 4
    listed: int = 100_000
    pictures: int = 40
    threads: int = field(default_factory=processors)

    def __post_init__(self) -> None:
        if not 0 <= self.within <= MOST:
            raise RequestError("no such distance", given=self.within, allowed=f"0 to {MOST} bits of 64")


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is (done, total, of what), and who may stop it."""

    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Images:
    """The images of one set, or one member of its triplets, with their hashes (int64; `FLAT` where there is none)."""

    name: str
    shards: Shards
    member: str
    hashes: np.ndarray
    undecodable: int

    def read(self, row: int) -> bytes:
        """The file of a row."""
        return self.shards.read(self.member, row)


@dataclass(frozen=True)
class Side:
    """A dataset or all sets of a suite, its images numbered through."""

    name: str
    parts: tuple[Images, ...]

    @property
    def hashes(self) -> np.ndarray:
        """Of all images, int64."""
        return np.concatenate([part.hashes for part in self.parts])

    def at(self, number: int) -> tuple[Images, int]:
        """The set and row of an image."""
        for part in self.parts:
            if number < len(part.hashes):
                return part, number
            number -= len(part.hashes)
        raise IndexError(number)

    def record(self) -> dict[str, Any]:
        """Of what the hashes were compared: identities and counts."""
        sets = [
            {
                "set": part.name,
                "index_sha256": part.shards.sha256,
                "images": len(part.hashes),
                "without_structure": int((part.hashes == fingerprints.FLAT).sum()) - part.undecodable,
                "undecodable": part.undecodable,
            }
            for part in self.parts
        ]
        return {"name": self.name, "images": sum(len(part.hashes) for part in self.parts), "sets": sets}


def side(
    name: str, sets: Mapping[str, Path], data_root: Path | None, cache: Path, options: Options, watch: Watch
) -> Side:
    """Open a dataset or suite with the hashes of its images, which are computed where its index has none.

    Args:
        name: of the dataset or suite.
        sets: title -> folder with index.json.
        data_root: where shards lie that are not in the set's folder.
        cache: computed hashes are kept here, by the index's sha256.

    Raises:
        StateError: an index or shard is missing or damaged.
        Interrupted: asked to stop; sets that are done are kept.
    """
    parts = []
    for title, folder in sets.items():
        shards = Shards.open(folder, data_root)
        members = [member for member in _IMAGES if member in shards.members]
        for member in members:
            shown = title if len(members) == 1 else f"{title}, {member}"
            parts.append(_images(shown, shards, member, cache, options, watch))
    return Side(name, tuple(parts))


def _images(name: str, shards: Shards, member: str, cache: Path, options: Options, watch: Watch) -> Images:
    if member == "image" and COLUMN in shards.columns:
        return Images(name, shards, member, shards.column(COLUMN), 0)
    path = cache / f"{shards.sha256}-{member}-{fingerprints.NAME}.npy"
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape != (2, shards.count) or found.dtype != np.int64:
            raise ValueError
    except (OSError, ValueError, EOFError):
        found = _computed(name, shards, member, options.threads, watch)
        file = io.BytesIO()
        np.save(file, found, allow_pickle=False)
        write_atomic(path, file.getvalue())
    return Images(name, shards, member, found[0], int(found[1].sum()))


def _computed(name: str, shards: Shards, member: str, threads: int, watch: Watch) -> np.ndarray:
    """Hashes and, below them, 1 where an image cannot be decoded: int64 [2, count]."""
    found = np.zeros((2, shards.count), dtype=np.int64)
    waiting: deque[tuple[int, Future[int | None]]] = deque()

    def take() -> None:
        row, future = waiting.popleft()
        value = future.result()
        found[:, row] = (fingerprints.FLAT, 1) if value is None else (value, 0)

    with ThreadPoolExecutor(threads) as pool:
        for row in range(shards.count):
            if row % _WINDOW == 0:
                watch.progress(row, shards.count, name)
                if watch.should_stop():
                    pool.shutdown(cancel_futures=True)
                    raise Interrupted("asked to stop while images were hashed; sets that are done are kept", where=name)
            waiting.append((row, pool.submit(_hashed, shards.read(member, row))))
            if len(waiting) >= _WINDOW:
                take()
        while waiting:
            take()
    return found


def _hashed(content: bytes) -> int | None:
    try:
        return fingerprints.phash_of(content)
    except StateError:
        return None


@dataclass
class _Tally:
    """What was found so far: exact counts, and the nearest pairs."""

    listed: int
    by_bits: np.ndarray
    left: np.ndarray
    right: np.ndarray
    kept: np.ndarray

    def add(self, pairs: Pairs, left: np.ndarray, right: np.ndarray) -> None:
        """Count pairs (of rows among those compared, whose numbers are given) and keep the nearest."""
        rows = np.stack([pairs.bits.astype(np.int64), right[pairs.right], left[pairs.left]], axis=1)
        self.by_bits += np.bincount(rows[:, 0], minlength=len(self.by_bits))
        self.left[rows[:, 2]] = self.right[rows[:, 1]] = True
        self.kept = np.concatenate([self.kept, rows])
        if len(self.kept) > 2 * self.listed + 100_000:
            self.prune()

    def prune(self) -> None:
        """Keep as many as are listed, by (bits, right, left): no order in which they came matters."""
        order = np.lexsort(self.kept.T[::-1])[: self.listed]
        self.kept = self.kept[order]


def compare(left: Side, right: Side, out: Path, options: Options, watch: Watch = Watch()) -> dict[str, Any]:
    """Find the near-duplicates between two sides and write them; returns the summary.

    Args:
        left: what is trained on, usually the larger.
        right: what is judged on.
        out: folder for `pairs.tsv`, `summary.json`, `pairs.png`.

    Raises:
        StateError: a shard is missing or damaged.
        Interrupted: asked to stop; nothing was written.
    """
    ours, theirs = left.hashes, right.hashes
    rows, columns = (np.flatnonzero(hashes != fingerprints.FLAT) for hashes in (ours, theirs))
    tally = _Tally(
        options.listed,
        np.zeros(options.within + 1, dtype=np.int64),
        np.zeros(len(ours), dtype=bool),
        np.zeros(len(theirs), dtype=bool),
        np.zeros((0, 3), dtype=np.int64),
    )
    for pairs in near(ours[rows], theirs[columns], options.within):
        if watch.should_stop():
            raise Interrupted("asked to stop while hashes were compared")
        tally.add(pairs, rows, columns)
    tally.prune()
    summary = _summary(left, right, tally, options)
    write_atomic(out / "pairs.tsv", "".join(_lines(left, right, tally.kept)).encode())
    if options.pictures and len(tally.kept):
        write_atomic(out / "pairs.png", _pictures(left, right, tally.kept, options.pictures, summary))
    write_json(out / "summary.json", summary)
    return summary


def _summary(left: Side, right: Side, tally: _Tally, options: Options) -> dict[str, Any]:
    starts = np.cumsum([0, *(len(part.hashes) for part in right.parts)])
    near_of = [int(tally.right[begin:end].sum()) for begin, end in pairwise(starts)]
    judged = right.record()
    judged["sets"] = [{**row, "near_duplicates": count} for row, count in zip(judged["sets"], near_of, strict=True)]
    return {
        "hash": fingerprints.NAME,
        "within_bits": options.within,
        "left": {**left.record(), "near_duplicates": int(tally.left.sum())},
        "right": {**judged, "near_duplicates": int(tally.right.sum())},
        "pairs": int(tally.by_bits.sum()),
        "pairs_by_bits": [int(count) for count in tally.by_bits],
        "listed": len(tally.kept),
    }


def _lines(left: Side, right: Side, kept: np.ndarray) -> Iterator[str]:
    """The list: by evaluation image, the nearest first."""
    yield "bits\tevaluation_set\tevaluation_row\tevaluation_key\ttraining_set\ttraining_row\ttraining_key\tphoto_id\n"
    for bits, theirs, ours in kept[np.lexsort((kept[:, 2], kept[:, 0], kept[:, 1]))].tolist():
        (judged, row), (trained, place) = right.at(theirs), left.at(ours)
        photo = int(trained.shards.column("photo_id")[place]) if "photo_id" in trained.shards.columns else ""
        named = (judged.name, row, judged.shards.key(row), trained.name, place, trained.shards.key(place), photo)
        yield "\t".join(str(value) for value in (bits, *named)) + "\n"


def _pictures(left: Side, right: Side, kept: np.ndarray, many: int, summary: Mapping[str, Any]) -> bytes:
    """The sheet: the nearest pair of each of the first evaluation images, set by set in turn."""
    first = kept[np.sort(np.unique(kept[:, 1], return_index=True)[1])]
    turns: dict[str, list[tuple[int, int, int]]] = {}
    for bits, theirs, ours in first.tolist():
        turns.setdefault(right.at(theirs)[0].name, []).append((bits, theirs, ours))
    queues, chosen = deque(turns.values()), list[tuple[int, int, int]]()
    while queues and len(chosen) < many:
        queue = queues.popleft()
        chosen.append(queue.pop(0))
        if queue:
            queues.append(queue)
    couples = []
    for bits, theirs, ours in chosen:
        (judged, row), (trained, place) = right.at(theirs), left.at(ours)
        said = f"{bits} bits: {trained.name} {trained.shards.key(place)}", f"{judged.name} {judged.shards.key(row)}"
        couples.append(Couple(partial(trained.read, place), partial(judged.read, row), said))
    head = (
        f"{left.name} (left) and {right.name} (right): {summary['pairs']:,} pairs within {summary['within_bits']} bits"
    )
    return sheet(head, couples)
