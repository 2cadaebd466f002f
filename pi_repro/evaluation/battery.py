"""The benchmarks that a model is put through, in their order.

Rule: a benchmark is opened (its shards checked, its prompts tokenized) when it is first needed, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pi_repro.data.shards import Shards
from pi_repro.errors import StateError

from .benchmark import Benchmark, Conditions
from .retrieval import Retrieval
from .suite import SetEntry, read_suite
from .two_afc import TwoAFC
from .zeroshot import ZeroShot

#: (card name, its folder, splits)
TripletTask = tuple[str, Path, tuple[str, ...]]


class Battery:
    """All sets of a suite, then all 2AFC splits.

    Args:
        suite: the suite's folder.
        triplets: triplet sets to judge by 2AFC.
        conditions: what holds for all of them.
        data_root: where shards of site data live.

    Attributes:
        ids: all benchmarks in order.
        conditions: as given.
    """

    def __init__(
        self,
        suite: Path,
        triplets: tuple[TripletTask, ...],
        conditions: Conditions,
        data_root: Path | None = None,
    ) -> None:
        self.conditions = conditions
        self._data_root = data_root
        self._entries: Mapping[str, SetEntry] = {entry.id: entry for entry in read_suite(suite)}
        self._splits = {
            f"2afc-{name}-{split}": (name, folder, split) for name, folder, splits in triplets for split in splits
        }
        self._shards: dict[Path, Shards] = {}
        self._open: dict[str, Benchmark] = {}
        self.ids = (*self._entries, *self._splits)

    def open(self, name: str) -> Benchmark:
        """A benchmark by its id.

        Raises:
            StateError: naming what is missing or damaged.
        """
        if name not in self._open:
            self._open[name] = self._opened(name)
        return self._open[name]

    def _opened(self, name: str) -> Benchmark:
        if name in self._splits:
            card, folder, split = self._splits[name]
            return TwoAFC(card, split, self._triplets(folder), self.conditions)
        entry = self._entries[name]
        shards = entry.open(self._data_root)
        kind = ZeroShot if shards.kind == "classification" else Retrieval
        return kind(entry, shards, self.conditions)

    def _triplets(self, folder: Path) -> Shards:
        if folder not in self._shards:
            shards = Shards.open(folder, self._data_root)
            if shards.kind != "triplets":
                raise StateError("2AFC needs triplets", where=str(folder), given=shards.kind)
            shards.verify()
            self._shards[folder] = shards
        return self._shards[folder]
