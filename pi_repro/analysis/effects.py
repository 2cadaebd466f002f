"""Paired comparisons: one arm minus another, by set, by seed and by item, at any checkpoint.

Rule: only what is paired is compared: the same seed (hence the same draw and the same order of data), the same items.
Everything here is a `Part`, which knows its seeds and its items, so that sets are averaged, checkpoints are combined
and intervals are made in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pi_repro.errors import StateError

from . import charts, emergence, gating, intervals
from .intervals import Part
from .results import MEASURES, Results
from .statistics import LEVEL, Floats
from .suite import Benchmark

#: Margins as evaluation records them: best right minus best wrong cosine of each query, not finite where all are right.
MARGINS = {"i2t_margin": "text_margin", "t2i_margin": "image_margin"}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: an arm of some results."""

    results: Results
    arm: str

    @property
    def epochs(self) -> tuple[int, ...]:
        """Kept epochs along pretraining; the end alone of an arm that only finetunes."""
        points = self.results.checkpoints[self.arm]
        return tuple(p.epoch for p in points) if self.results.arms[self.arm].pretrains else ()

    def at(self, epoch: int | None) -> int:
        """Position of a kept epoch; of the last for None."""
        return self.results.last(self.arm) if epoch is None else self.epochs.index(epoch)


@dataclass(frozen=True)
class Pair:
    """An arm and the one that it is compared with; the arm minus the other."""

    arm: Side
    other: Side

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that both have."""
        return tuple(seed for seed in self.arm.results.seeds if seed in self.other.results.seeds)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Epochs at which both were judged along pretraining, ascending."""
        return tuple(epoch for epoch in self.arm.epochs if epoch in self.other.epochs)

    def samples(self, epoch: int) -> int:
        """Pairs that the arm had seen at a kept epoch."""
        return self.arm.results.checkpoints[self.arm.arm][self.arm.at(epoch)].samples

    def scores(self, side: Side, benchmark: Benchmark, measure: str, epoch: int | None = None) -> Floats:
        """[S, n] scores of one side whose mean over items is the measure; seeds are those that both have."""
        position = side.at(epoch)
        rows = [side.results.seeds.index(seed) for seed in self.seeds]
        if measure in MARGINS:
            return self._margins(side, position, benchmark, measure)[rows]
        hits, unit = side.results.hits(side.arm, position, benchmark, measure)
        return np.asarray(hits[rows] * unit)

    def _margins(self, side: Side, position: int, benchmark: Benchmark, measure: str) -> Floats:
        """[S, n] margins, those of an image's captions together, as recalls count them."""
        margins = side.results.array(side.arm, position, benchmark.id, MARGINS[measure]).astype(np.float64)
        if measure == "i2t_margin":
            return margins
        owner = side.results.array(side.arm, position, benchmark.id, "caption_image")[0]
        images = int(owner.max()) + 1
        sums = np.stack([np.bincount(owner, weights=row, minlength=images) for row in margins])
        return np.asarray(sums * (images / len(owner)))

    def items(self, benchmark: Benchmark, measure: str, epoch: int | None = None) -> Floats:
        """[S, n] differences of the items.

        Raises:
            StateError: the two were not judged on the same items, or share no seed.
        """
        if not self.seeds:
            raise StateError("no seed in common", given=f"{self.arm.results.seeds} and {self.other.results.seeds}")
        shas = {
            side.results.record(side.arm, seed, side.at(epoch), benchmark.id)["dataset_sha256"]
            for side in (self.arm, self.other)
            for seed in self.seeds
        }
        if len(shas) > 1:
            raise StateError("not the same items on both sides", where=benchmark.id, todo="evaluate one side again")
        found = self.scores(self.arm, benchmark, measure, epoch) - self.scores(self.other, benchmark, measure, epoch)
        return np.asarray(found[:, np.isfinite(found).all(axis=0)])

    def part(self, benchmark: Benchmark, measure: str, epoch: int | None = None) -> Part:
        """The difference on one set."""
        return intervals.part(self.items(benchmark, measure, epoch))

    def mean(self, members: Sequence[Benchmark], measure: str, epoch: int | None = None) -> Part:
        """The unweighted mean difference over sets that have the measure."""
        return intervals.mean([self.part(b, measure, epoch) for b in members if measured(b, measure)])

    def accuracy(self, side: Side, members: Sequence[Benchmark], measure: str, epochs: Sequence[int | None]) -> Floats:
        """[S, C] mean accuracy of one side over sets, at some epochs (None: the last checkpoint)."""
        found = [
            np.mean([self.scores(side, b, measure, e).mean(axis=1) for b in members if measured(b, measure)], axis=0)
            for e in epochs
        ]
        return np.array(found).T

    def growth(self, members: Sequence[Benchmark], measure: str, epochs: Sequence[int]) -> Part:
        """Slope of the difference over log2 of pairs seen: how much it grows whenever the pairs double."""
        x = np.log2([self.samples(epoch) for epoch in epochs])
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        parts = []
        for benchmark in members:
            if measured(benchmark, measure):
                courses = zip(weights, epochs, strict=True)
                # One linear form of each item's course, so that its items' spread is exact.
                parts.append(intervals.part(sum(w * self.items(benchmark, measure, e) for w, e in courses)))
        return intervals.mean(parts)

    def bout(self, benchmark: Benchmark, epoch: int | None = None) -> gating.Bout:
        """Top-1 on one set, with the levels of chance."""
        difference = self.part(benchmark, "top1", epoch)
        chance = gating.chance(
            benchmark.id, self.other.results.chance(benchmark), self.other.results.labels(self.other.arm, benchmark)
        )
        runs = [self.scores(side, benchmark, "top1", epoch).mean(axis=1) for side in (self.arm, self.other)]
        return gating.Bout(
            name=benchmark.id,
            difference=difference.estimate(),
            seeds=tuple(float(value) for value in difference.seeds),
            chance=chance,
            above=(
                gating.above(runs[0], benchmark.n, chance.bar),
                gating.above(runs[1], benchmark.n, chance.bar),
            ),
            overlap=gating.overlap(benchmark.id),
        )


def pair(results: Results, arm: str, other: str | None = None) -> Pair:
    """An arm against another of the same results, the baseline by default."""
    return Pair(Side(results, arm), Side(results, other or results.baseline))


def measured(benchmark: Benchmark, measure: str) -> bool:
    """Whether a set has a measure: no top-5 under five classes, recalls and margins on retrieval alone."""
    if measure in MARGINS:
        return benchmark.task == "retrieval"
    return measure in MEASURES and measure in charts.measures(benchmark)


def since(pairing: Pair, benchmark: Benchmark, measure: str, level: float = LEVEL) -> emergence.Onset:
    """From which epoch on the arm is ahead on a set."""
    parts = [pairing.part(benchmark, measure, epoch) for epoch in pairing.epochs]
    joint = 1 - (1 - level) / max(1, len(parts))
    return emergence.onset(
        pairing.epochs, [one.estimate(level) for one in parts], [one.estimate(joint) for one in parts]
    )
