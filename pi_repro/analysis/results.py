"""The results folder of an experiment, opened for reading.

Rule: exactly the arms and seeds that the settings list are there; scores of one set cover the same items
in the same order in every run; and the metrics in each JSON are what its per-item arrays give. Whatever
breaks this is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from pi_repro.errors import StateError
from pi_repro.files import read_json

from . import estimators
from .suite import Benchmark, Suite

#: Largest difference allowed between a metric in a JSON and the one that its items give.
TOLERANCE = 1e-6
#: Where the probes of all runs lie, where the experiment has some.
PROBES = "probes"
#: Sets of one checkpoint and arm whose items stay in memory, all seeds together.
KEPT_SETS = 64

#: Reported measure -> (metric in the JSON, array of ranks, k).
MEASURES = {
    "top1": ("acc1", "rank", 1),
    "top5": ("acc5", "rank", 5),
    "i2t_r1": ("text_retrieval_recall@1", "text_rank", 1),
    "i2t_r5": ("text_retrieval_recall@5", "text_rank", 5),
    "t2i_r1": ("image_retrieval_recall@1", "image_rank", 1),
    "t2i_r5": ("image_retrieval_recall@5", "image_rank", 5),
}
#: Arrays that the items of each task hold.
ITEMS = {
    "classification": ("rank", "label"),
    "retrieval": ("text_rank", "image_rank", "caption_image"),
    "2afc": ("score", "pixel"),
}
MEASURE_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "i2t_r1": "image→text R@1",
    "i2t_r5": "image→text R@5",
    "t2i_r1": "text→image R@1",
    "t2i_r5": "text→image R@5",
}

Scores = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Arm:
    """One arm as the spec describes it.

    Attributes:
        start: "draw", or the arm whose last pretrained weights it takes.
        stages: of initialize, pretrain, joint, finetune.
        triplets: name of the triplets it is aligned on; None where the settings don't say.
        votes: False of a control, whose stage 1 learns without the triplets' votes or from altered ones.
    """

    name: str
    description: str
    start: str
    stages: tuple[str, ...]
    triplets: str | None
    votes: bool = True

    @property
    def pretrains(self) -> bool:
        """True when its checkpoints run along pretraining rather than along a finetune."""
        return self.stages[-1] in ("pretrain", "joint")


@dataclass(frozen=True)
class Checkpoint:
    """Published weights that were judged; `samples` counts those seen by the arm's last stage."""

    epoch: int
    update: int
    samples: int
    folder: str
    sha256: str


@dataclass(frozen=True)
class Held:
    """A 2AFC set: triplets of one card and split."""

    data: str
    split: str

    @property
    def id(self) -> str:
        return f"2afc-{self.data}-{self.split}"


class Results:
    """Scores of every arm, seed and checkpoint, each stacked over seeds when asked for."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], suite: Suite, *, whole: bool = True) -> None:
        """Open a folder `results/<exp>/`.

        Args:
            settings: of the report stage (arms, baseline, seeds, evaluate).
            whole: False when the settings list some of the folder's runs alone; the others are not looked at.

        Raises:
            StateError: on a missing, strange or inconsistent run, by name.
        """
        self.folder = folder
        self.suite = suite
        self.estimator = estimators.chosen(settings)
        self.seeds: tuple[int, ...] = tuple(settings["seeds"])
        self.baseline: str = settings["baseline"]
        self.arms = _arms(settings)
        self.probed: bool = "probes" in settings
        self.held: tuple[Held, ...] = tuple(
            Held(entry["data"], split) for entry in settings["evaluate"]["two_afc"] for split in entry["splits"]
        )
        self._refuse_strangers(whole)
        self.checkpoints: dict[str, tuple[Checkpoint, ...]] = {}
        self.weights: dict[str, tuple[str, ...]] = {}
        for name in self.arms:
            self._read_runs(name)
        self._expected: dict[str, tuple[str, str]] = {}
        self._items = lru_cache(maxsize=KEPT_SETS)(self._read_items)

    @property
    def others(self) -> tuple[Arm, ...]:
        """All arms but the baseline."""
        return tuple(arm for name, arm in self.arms.items() if name != self.baseline)

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / f"{arm}-s{seed}"

    def last(self, arm: str) -> int:
        """Position of the arm's last checkpoint."""
        return len(self.checkpoints[arm]) - 1

    def record(self, arm: str, seed: int, position: int, name: str) -> dict[str, Any]:
        """The JSON of one set at one checkpoint."""
        return dict(read_json(self._place(arm, seed, position) / f"{name}.json"))

    def hits(self, arm: str, position: int, benchmark: Benchmark, measure: str) -> tuple[Scores, float]:
        """Right answers under a measure.

        Returns:
            [S, n] whole numbers, one an image, and what 1 is worth, so that the mean of their product is the
            accuracy. Captions of one image stand and fall together: they are counted as one item.
        """
        _, array, k = MEASURES[measure]
        items = self._items(arm, position, benchmark.id)
        right = (items[array] < k).astype(np.int64)
        if array != "image_rank":
            return right, 1.0
        owner = items["caption_image"][0]
        images = items["text_rank"].shape[1]
        counts = np.stack([np.bincount(owner, weights=row, minlength=images) for row in right])
        return counts.astype(np.int64), images / len(owner)

    def two_afc(self, arm: str, position: int, held: Held, by: str = "score") -> Scores:
        """[S, n] of 0, 1, 2: wrong, tied or right; `by` is "score" (the network) or "pixel"."""
        return self._items(arm, position, held.id)[by]

    def array(self, arm: str, position: int, name: str, array: str) -> npt.NDArray[Any]:
        """[S, ...] an array of the items of one set, stacked over seeds.

        Raises:
            StateError: the evaluation did not record it.
        """
        items = self._items(arm, position, name)
        if array not in items:
            raise StateError(f"evaluation recorded no {array}", where=str(self._place(arm, self.seeds[0], position)))
        return items[array]

    def has_array(self, arm: str, position: int, name: str, array: str) -> bool:
        """Whether the items of one set hold an array."""
        return array in self._items(arm, position, name)

    def labels(self, arm: str, benchmark: Benchmark) -> Scores | None:
        """[n] class of each image; None for retrieval."""
        items = self._items(arm, self.last(arm), benchmark.id)
        return items["label"][0] if "label" in items else None

    def chance(self, benchmark: Benchmark) -> float:
        """Top-1 chance: as the evaluation recorded it, or one in the number of classes."""
        recorded = self.record(self.baseline, self.seeds[0], self.last(self.baseline), benchmark.id).get("chance")
        return float(recorded) if isinstance(recorded, int | float) else 1 / (benchmark.classes or benchmark.n)

    def _place(self, arm: str, seed: int, position: int) -> Path:
        return self.run(arm, seed) / self.checkpoints[arm][position].folder

    def _refuse_strangers(self, whole: bool) -> None:
        if not self.folder.is_dir():
            raise StateError("results are missing", where=str(self.folder))
        expected = {f"{arm}-s{seed}" for arm in self.arms for seed in self.seeds}
        found = {entry.name for entry in self.folder.iterdir()}
        if missing := sorted(expected - found):
            raise StateError(
                "results lack runs that the experiment lists",
                where=str(self.folder),
                given=", ".join(missing),
                todo="run the missing evaluate stages",
            )
        known = expected | ({PROBES} if self.probed else set())
        if strangers := sorted(found - known if whole else ()):
            raise StateError(
                "results hold what the experiment does not list",
                where=str(self.folder),
                given=", ".join(strangers),
                allowed=", ".join(sorted(known)),
                todo="move it away; a report reads the arms and seeds of its spec alone",
            )

    def _read_runs(self, arm: str) -> None:
        wanted = [b.id for b in self.suite.benchmarks]
        for seed in self.seeds:
            path = self.run(arm, seed) / "evaluation.json"
            content = read_json(path)
            try:
                points = tuple(
                    Checkpoint(p["epoch"], p["update"], p["samples"], p["folder"], p["sha256"])
                    for p in content["checkpoints"]
                )
                names = list(content["sets"])
            except (KeyError, TypeError) as error:
                raise StateError("evaluation lacks a field", where=str(path), given=str(error)) from None
            if not points:
                raise StateError("evaluation holds no checkpoint", where=str(path))
            if lacking := [name for name in wanted if name not in names]:
                raise StateError("evaluation lacks sets of the suite", where=str(path), given=", ".join(lacking))
            first = self.checkpoints.setdefault(arm, points)
            if [(p.epoch, p.samples) for p in first] != [(p.epoch, p.samples) for p in points]:
                raise StateError(
                    f"checkpoints differ from those of seed {self.seeds[0]}",
                    where=str(path),
                    given=", ".join(str(p.epoch) for p in points),
                    allowed=", ".join(str(p.epoch) for p in first),
                )
            self.weights[arm] = (*self.weights.get(arm, ()), points[-1].sha256)

    def _read_items(self, arm: str, position: int, name: str) -> dict[str, Scores]:
        rows = []
        for seed in self.seeds:
            path = self._place(arm, seed, position) / f"{name}.items.safetensors"
            items = _load(path)
            record = self.record(arm, seed, position, name)
            if lacking := [array for array in ITEMS[record["task"]] if array not in items]:
                raise StateError("items lack arrays", where=str(path), given=", ".join(lacking))
            self._same_items(name, str(record["dataset_sha256"]), items, path)
            _check_metrics(record, items, path)
            rows.append(items)
        return {array: np.stack([items[array] for items in rows]) for array in rows[0] if all(array in r for r in rows)}

    def _same_items(self, name: str, dataset: str, items: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
        fixed = next((items[array] for array in ("label", "caption_image", "pixel") if array in items), None)
        seen = (dataset, "" if fixed is None else hashlib.sha256(fixed.tobytes()).hexdigest())
        if self._expected.setdefault(name, seen) != seen:
            raise StateError("items are not those of the other runs", where=str(path), todo="evaluate them again")


def _arms(settings: Mapping[str, Any]) -> dict[str, Arm]:
    """The baseline first, arms that only finetune last, otherwise as in the settings."""
    arms = [
        Arm(name, arm["description"], arm["start"], tuple(arm["stages"]), arm.get("triplets"), arm.get("votes", True))
        for name, arm in settings["arms"].items()
    ]
    ordered = sorted(arms, key=lambda arm: (arm.name != settings["baseline"], not arm.pretrains))
    return {arm.name: arm for arm in ordered}


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise StateError("file is missing", where=str(path)) from None
    except SafetensorError as error:
        raise StateError("file is damaged: no valid safetensors", where=str(path), given=str(error)) from None


def _check_metrics(record: Mapping[str, Any], items: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    found = {metric: float((items[array] < k).mean()) for metric, array, k in MEASURES.values() if array in items}
    if "score" in items:
        found["two_afc"] = float(items["score"].mean()) / 2
    for metric, value in found.items():
        stated = record.get("metrics", {}).get(metric)
        if stated is not None and abs(stated - value) > TOLERANCE:
            raise StateError(
                f"{metric} is not what its items give", where=str(path), given=f"{stated}", allowed=f"{value}"
            )
