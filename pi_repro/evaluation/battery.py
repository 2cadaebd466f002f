"""The benchmarks that a model is put through, in their order.

Rule: a benchmark is opened (its shards checked, its prompts tokenized) when it is first needed, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pi_repro.data.shards import Shards
from pi_repro.data.triplets import TripletSet
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

    def share(self, rank: int, size: int) -> tuple[str, ...]:
        """The benchmarks that one of several processes judges, of every checkpoint: about equally many images each.

        A set is judged by one process, which keeps its decoded images from checkpoint to checkpoint.
        """
        loads = [0] * size
        mine = []
        images = {name: self._images(name) for name in self.ids} if size > 1 else dict.fromkeys(self.ids, 0)
        for name in sorted(self.ids, key=lambda name: (-images[name], name)):
            lightest = loads.index(min(loads))
            loads[lightest] += images[name]
            if lightest == rank:
                mine.append(name)
        return tuple(name for name in self.ids if name in mine)

    def _images(self, name: str) -> int:
        if name in self._splits:
            _, folder, split = self._splits[name]
            return 3 * len(TripletSet(Shards.open(folder, self._data_root)).rows(split))
        entry = self._entries[name]
        return int(entry.fields.get("n") or Shards.open(entry.folder, self._data_root).count)

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
