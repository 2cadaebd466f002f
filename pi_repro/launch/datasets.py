"""The datasets and suites of a workspace: which cards there are, what of them is here, and work on what is.

Rule: a card says what should be there and the fetched folder what is; nothing here changes either. Whatever reads
samples is imported when it is asked for, so that a list costs no more than its cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, write_atomic
from pi_repro.plan import graph, params
from pi_repro.plan.data_bill import Bill, bill
from pi_repro.plan.graph import Plan
from pi_repro.provenance.determinism_env import hide_strangers
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Resources
from pi_repro.spec.loading import load_card
from pi_repro.spec.validation import nearest

from . import holdings, inspect, manifest, workspace
from .inspect import State
from .places import Places

if TYPE_CHECKING:
    from pi_repro.data.audit import Damage
    from pi_repro.data.stats import Figures as Figures
    from pi_repro.data.stats import Spread as Spread


#: Told how far a reading is: done, in all, and of what.
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Dataset:
    """A card and what is here of it.

    Attributes:
        path: the card's file.
        card: what it says.
        state: of its stage: published, running, stale (fetched under another card), missing, ...
        folder: in the workspace, with index and card.json once it is fetched.
        home: where its shards lie, or will; None without a data root.
        here: whether index and shards are there.
        found: card.json, what the fetch found; None before.
        enabled: whether `dvc repro` keeps it.
        cost: of fetching it.
    """

    path: Path
    card: Card
    state: State
    folder: Path
    home: Path | None
    here: bool
    found: Mapping[str, Any] | None
    enabled: bool
    cost: Bill

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name


def cards(places: Places) -> dict[str, Path]:
    """Name -> file of every card: those of specs/data, and those that enabled experiments bring."""
    folders = [places.workspace / params.CARDS, *(path.parent / "data" for path in params.enabled(places.workspace))]
    files = [*sorted(path for folder in folders for path in folder.glob("*.yaml")), *params.datasets(places.workspace)]
    return {path.stem: path for path in reversed(files)}


def every(places: Places) -> list[Dataset]:
    """All datasets and suites, by kind and name.

    Raises:
        RequestError: an error in a card.
    """
    found = _looked_at(cards(places).values(), places)
    return sorted(found, key=lambda each: (("triplets", "pairs", "suite").index(each.card.kind), each.name))


def named(name: str, places: Places) -> Dataset:
    """A dataset by its card's name.

    Raises:
        RequestError: there is no such card, with the nearest name; or an error in it.
    """
    known = cards(places)
    if name not in known:
        guess = nearest(name, list(known))
        raise RequestError(
            "no card of this name",
            given=name,
            allowed=", ".join(sorted(known)),
            todo=f"did you mean {guess!r}?" if guess else f"write {params.CARDS / name}.yaml",
        )
    return _looked_at([known[name]], places)[0]


def fetched(name: str, places: Places) -> Dataset:
    """A dataset that is here.

    Raises:
        RequestError: there is no such card.
        StateError: it is not fetched, or its shards are elsewhere.
    """
    found = named(name, places)
    if not found.here:
        where = f"shards are looked for in {found.home}" if found.home else "no data root is configured"
        away = found.folder.is_dir() and found.card.location == "site"
        raise StateError(
            "it is not here" if away else "it is not fetched yet",
            where=f"dataset {name}",
            given=where if away else None,
            todo="export PIREPRO_DATA_ROOT=/where/the/shards/are" if away else f"pirepro data fetch {name}",
        )
    return found


def plan_of(card: Card, resources: Resources = graph.FETCHING) -> Plan:
    """The plan that fetches a card and does nothing else."""
    stage = graph.fetch_of(card, resources)
    return Plan((stage,), {stage.name: {}})


def _looked_at(paths: Iterable[Path], places: Places) -> list[Dataset]:
    """The datasets of some cards; store, dvc.lock and experiments are read once for all."""
    files = {path: load_card(path) for path in paths}
    stages = tuple(graph.fetch_of(card, graph.FETCHING) for card in files.values())
    states = inspect.states(Plan(stages, {stage.name: {} for stage in stages}), places)
    kept = {each.stem for each in params.datasets(places.workspace)}
    kept |= {name for loaded in params.load_enabled(places.workspace) for name in loaded.cards}
    return [
        _dataset(path, card, state, card.name in kept, places)
        for (path, card), state in zip(files.items(), states, strict=True)
    ]


def _dataset(path: Path, card: Card, state: State, enabled: bool, places: Places) -> Dataset:
    folder = places.workspace / "data" / card.name
    about = folder / "card.json"
    return Dataset(
        path=path,
        card=card,
        state=state,
        folder=folder,
        home=holdings.home(card, places.workspace, places.data_root),
        here=holdings.is_here(card, places.workspace, places.data_root),
        found=read_json(about) if about.is_file() else None,
        enabled=enabled,
        cost=bill(card),
    )


def sets_of(dataset: Dataset) -> dict[str, Path]:
    """Title -> folder of each sharded set: the sets of a suite in its order, else the dataset itself."""
    if dataset.card.kind != "suite":
        return {dataset.name: dataset.folder}
    return {str(row["id"]): dataset.folder / str(row["id"]) for row in read_json(dataset.folder / "suite.json")["sets"]}


@dataclass(frozen=True)
class Verdict:
    """What was read of a dataset, and what was wrong with it.

    Attributes:
        shards, samples, bytes: that the index names.
        damaged: one line a file that is not what it should be; empty when all is well.
    """

    shards: int
    samples: int
    bytes: int
    damaged: tuple[Damage, ...]


def verify(dataset: Dataset, places: Places, watch: Tell) -> Verdict:
    """Read every shard and compare it with the index, and the index with what was published.

    Args:
        watch: told of bytes as they are read.
    """
    from pi_repro.data import audit

    verdict = audit.audit(sets_of(dataset), places.data_root, watch)
    record = workspace.provenance_path(places, graph.fetch_of(dataset.card, graph.FETCHING))
    damaged = list(verdict.damaged)
    if dataset.state.kind in ("published", "in workspace") and record.is_file():
        published, here = read_json(record).get("outputs"), manifest.of_folder(dataset.folder).digest
        if published != here:
            problem = "its files are not those that were published; pirepro run puts them back from the store"
            damaged.append(audit.Damage(str(dataset.folder), problem))
    return Verdict(verdict.shards, verdict.samples, verdict.bytes, tuple(damaged))


def overlap(left: Dataset, right: Dataset, places: Places, within: int, out: Path, watch: Tell) -> dict[str, Any]:
    """Find the images that two datasets share or nearly share, and list them in a folder; returns the summary.

    Args:
        left: what is trained on, usually the larger.
        right: what is judged on.
        within: bits of 64 in which two images' hashes may differ.
        out: folder to write.
        watch: told of images as they are hashed.

    Raises:
        RequestError: no such distance.
        StateError: a shard is missing or damaged.
    """
    from pi_repro.data import overlap as overlaps

    options, telling = overlaps.Options(within=within), overlaps.Watch(progress=watch)
    cache = places.state / "hashes"

    def side(each: Dataset) -> overlaps.Side:
        return overlaps.side(each.name, sets_of(each), places.data_root, cache, options, telling)

    return overlaps.compare(side(left), side(right), out, options, telling)


def sample(dataset: Dataset, places: Places, seed: int, count: int | None, out: Path) -> Path:
    """Draw samples and write them as one PNG; returns the file.

    Args:
        seed: of the draw; the same seed shows the same samples.
        count: samples, of a suite those of each set; None for what fits on a page.

    Raises:
        RequestError: the file's folder does not exist.
        StateError: a shard is missing or damaged.
    """
    if not out.parent.is_dir():
        raise RequestError("no such folder", where=str(out.parent), todo="create it first")
    from pi_repro.data import contact

    page = contact.sheet(
        contact.Sheet(dataset.name, dataset.card.title, dataset.card.licence, seed),
        sets_of(dataset),
        places.data_root,
        count,
    )
    write_atomic(out, page)
    return out


def stats(dataset: Dataset, places: Places, limit: int | None) -> dict[str, Figures]:
    """Figures of each set of a suite, or of the dataset.

    Args:
        limit: samples whose images and captions are read, drawn by a fixed rule; None for all.

    Raises:
        StateError: a shard is missing or damaged.
    """
    hide_strangers()  # open_clip, which has the tokenizer, would load them
    from pi_repro.data import stats as figures

    every = sets_of(dataset).items()
    return {name: figures.figures(folder, places.data_root, limit) for name, folder in every}
