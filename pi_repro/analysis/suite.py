"""The suite as the report needs it: which sets there are, in which order, and what they share.

Rule: titles, families, notes and disjointness are read from suite.json and never inferred from an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pi_repro.errors import StateError
from pi_repro.files import read_json

HEADLINE_FAMILY = "ImageNet"


@dataclass(frozen=True)
class Benchmark:
    """One set of a suite.

    Attributes:
        classes: number of classes; None for retrieval.
        n: test images.
        disjoint: counted in the win count, as it shares no item with another counted set.
        note: what it shares with training or with another set.
    """

    id: str
    title: str
    task: Literal["classification", "retrieval"]
    family: str
    classes: int | None
    n: int
    metric: str
    disjoint: bool
    note: str

    @property
    def has_top5(self) -> bool:
        """Top-5 is undefined under five classes, as in clip_benchmark."""
        return self.classes is not None and self.classes >= 5


@dataclass(frozen=True)
class Suite:
    """All sets, in the suite's own order; `skipped` are titles of those that its card leaves out."""

    benchmarks: tuple[Benchmark, ...]
    skipped: tuple[str, ...] = ()

    @property
    def classification(self) -> tuple[Benchmark, ...]:
        return tuple(b for b in self.benchmarks if b.task == "classification")

    @property
    def retrieval(self) -> tuple[Benchmark, ...]:
        return tuple(b for b in self.benchmarks if b.task == "retrieval")

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the classification sets, in order of first mention."""
        return tuple(dict.fromkeys(b.family for b in self.classification))

    def members(self, family: str) -> tuple[Benchmark, ...]:
        return tuple(b for b in self.classification if b.family == family)

    @property
    def headline(self) -> Benchmark:
        """The set that the headline is about: the first of family ImageNet, or the first of all."""
        return next((b for b in self.classification if b.family == HEADLINE_FAMILY), self.classification[0])


def _benchmark(entry: Mapping[str, Any]) -> Benchmark:
    return Benchmark(
        id=entry["id"],
        title=entry["title"],
        task=entry["task"],
        family=entry["family"],
        classes=entry.get("classes"),
        n=int(entry["n"]),
        metric=entry["metric"],
        disjoint=bool(entry["disjoint"]),
        note=entry.get("note", ""),
    )


def read_suite(folder: Path) -> Suite:
    """Read `suite.json` of a suite folder.

    Raises:
        StateError: when it is missing, damaged, lacks a field or holds no classification set.
    """
    path = folder / "suite.json"
    try:
        content = read_json(path)
        benchmarks = tuple(_benchmark(entry) for entry in content["sets"])
        suite = Suite(benchmarks, tuple(entry["title"] for entry in content.get("skipped", ())))
    except (KeyError, TypeError) as error:
        raise StateError("a set of the suite lacks a field", where=str(path), given=str(error)) from None
    if not suite.classification:
        raise StateError("the suite holds no classification set", where=str(path))
    return suite
