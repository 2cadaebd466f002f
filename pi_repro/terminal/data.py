"""Datasets as people see them: the list, a card, figures, what a check found. Computes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from pi_repro.launch import datacard
from pi_repro.plan import captions, data_bill
from pi_repro.plan.bill import human_bytes
from pi_repro.spec.card import Card

from .show import console, line

if TYPE_CHECKING:
    from pi_repro.launch.datasets import Dataset, Figures, Spread, Verdict

_MANY = 12


def listing(found: Sequence[Dataset]) -> None:
    """Every dataset, a line each: what it is, how much, whose, and whether it is here."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("dataset", "kind", "holds", "disk", "access", "here", "where"):
        table.add_column(name, justify="right" if name in ("holds", "disk") else "left", overflow="fold")
    for each in found:
        here, style = _state(each)
        table.add_row(
            each.name,
            each.card.kind,
            f"{each.card.count:,}",
            human_bytes(each.cost.disk_bytes),
            _access(each.card),
            Text(here, style=style),
            Text(_where(each), style="dim"),
        )
    console().print(table)
    line("licences, sources and warnings: pirepro data card NAME; to get one: pirepro data fetch NAME")


def fetched(found: Dataset) -> None:
    """What came, and where to look."""
    line(f"{found.name}: {datacard.amount(found)}")
    line(f"  index and card: {found.folder}")
    if found.card.location == "site":
        line(f"  shards:         {found.home}")
    cautions(found)
    if error := captions.undeclared(found.card):
        line(f"  kind of captions: {error.given}; a training waits until the card says one of: {error.allowed}")
    line(f"  look at it: pirepro data sample {found.name}, pirepro data stats {found.name}")


def cautions(found: Dataset) -> None:
    """What to beware of, and what could not be taken."""
    for text in datacard.warnings(found):
        line(f"  warning: {text}")
    if failures := datacard.failures(found):
        line(f"  failures: {failures:,}, listed in {found.folder}")


def card(found: Dataset) -> None:
    """A card with what the fetch found."""
    line(f"{found.name}: {found.card.title}")
    line(f"  {found.card.description}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    here, style = _state(found)
    about, why = (
        ("about ", " (a source's size is not known; the size on disk stands for it)")
        if found.cost.estimated
        else ("", "")
    )
    for what, value in (
        ("holds", datacard.amount(found)),
        ("licence", found.card.licence),
        ("download", f"{about}{human_bytes(found.cost.egress_bytes)}{why}"),
        ("disk", f"{human_bytes(found.cost.disk_bytes)}, {found.cost.files:,} files"),
        ("cite", found.card.citation),
    ):
        if value:
            table.add_row(Text(what, style="bold"), value)
    table.add_row(Text("here", style="bold"), Text.assemble((here, style), f"  {_where(found)}"))
    for what, value in datacard.found_rows(found)[: 3 * _MANY]:
        table.add_row(Text(f"found {what}", style="dim"), value)
    console().print(table)
    sources = Table(box=None, padding=(0, 2, 0, 2))
    for name in ("source", "from", "size", "licence", "access"):
        sources.add_column(name, overflow="fold")
    for row in datacard.source_rows(found):
        sources.add_row(*row)
    console().print(sources)
    for source in found.card.sources:
        if source.how_to:
            line(f"  about {source.name}: {source.how_to}")
    if found.card.sets:
        sets = Table(box=None, padding=(0, 2, 0, 2))
        for name in ("set", "family", "task", "classes", "images", "metric", "evidence"):
            sets.add_column(name, justify="right" if name in ("classes", "images") else "left")
        for each in found.card.sets:
            classes = f"{each.classes:,}" if each.classes else ""
            images = f"{each.n:,}" if each.n else "?"
            sets.add_row(each.id, each.family, each.task, classes, images, each.metric, each.grade)
        console().print(sets)
    cautions(found)


def as_json(found: Dataset) -> None:
    """A card for programs."""
    line(json.dumps(datacard.content(found), sort_keys=True, indent=1, ensure_ascii=False))


def stats(found: Mapping[str, Figures]) -> None:
    """Figures of a dataset, or of each set of a suite."""
    for name, each in found.items():
        table = Table(title=name, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 2))
        for what, value in _figures(each):
            table.add_row(Text(what, style="bold"), value)
        console().print(table)


def stats_json(found: Mapping[str, Figures]) -> None:
    """The same for programs."""
    from dataclasses import asdict

    line(json.dumps({name: asdict(each) for name, each in found.items()}, indent=1, ensure_ascii=False))


def _figures(each: Figures) -> Iterable[tuple[str, str]]:
    yield each.kind, f"{each.count:,} in {each.shards:,} shards, {human_bytes(each.bytes)}"
    if each.splits:
        yield "splits", _counts(each.splits)
    if each.votes:
        yield "votes", _counts({str(number): count for number, count in each.votes.items()})
    if each.classes:
        counts = sorted(each.classes.values())
        yield "classes", f"{len(counts):,}, of {counts[0]:,} to {counts[-1]:,} images"
        if len(counts) <= _MANY:
            yield "", _counts(each.classes)
    images = sum(each.formats.values()) + each.undecodable
    yield "looked into", f"{each.read:,} samples: {images:,} images, {each.captions:,} captions"
    yield "formats", _counts(each.formats) + (f", {each.undecodable:,} undecodable" if each.undecodable else "")
    for what, spread, unit in (("width", each.widths, "px"), ("height", each.heights, "px"), ("file", each.sizes, "B")):
        if spread:
            yield what, _spread(spread, unit)
    if each.captions:
        yield "captions", f"{each.distinct:,} distinct, {each.empty:,} empty, {each.cut:,} longer than the text tower"
        for what, spread in (("words", each.words), ("tokens", each.tokens)):
            if spread:
                yield what, _spread(spread, "")


def _spread(spread: Spread, unit: str) -> str:
    numbers = (spread.least, spread.low, spread.median, spread.high, spread.largest)
    if spread.least == spread.largest:
        return f"{spread.least:,.0f} {unit}".rstrip() + " each"
    least, low, median, high, largest = (f"{number:,.0f}" for number in numbers)
    return f"median {median}, 5 to 95 %: {low} to {high}, all: {least} to {largest} {unit}".rstrip()


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.items())


def verdict(name: str, found: Verdict) -> bool:
    """What a check found; True when all is well."""
    for damage in found.damaged:
        line(f"damaged: {damage}")
    held = f"{found.samples:,} samples in {found.shards:,} shards, {human_bytes(found.bytes)}"
    if found.damaged:
        line(f"{name}: {len(found.damaged)} of its files are not what they should be ({held})")
        line(f"  to do: remove these files, then pirepro data fetch {name}")
        return False
    line(f"{name}: as its index says: {held}")
    return True


def bill(cards: Iterable[Card]) -> None:
    """What fetching all data of an experiment costs, where nothing of it is there."""
    bills = data_bill.bills(cards)
    everything = data_bill.total(bills)
    table = Table(title="data, fetched once", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("dataset", "egress", "disk at peak", "disk then", "inodes", "core-hours", "hours"):
        table.add_column(name, justify="left" if name == "dataset" else "right")
    for each in [*bills, *([everything] if len(bills) > 1 else [])]:
        table.add_row(
            each.name,
            ("about " if each.estimated else "") + human_bytes(each.egress_bytes),
            human_bytes(each.peak_bytes),
            human_bytes(each.disk_bytes),
            f"{each.files:,}",
            f"{each.core_hours:,.1f}",
            f"{each.hours:,.1f}",
        )
    console().print(table)
    line(f"assumes {data_bill.CORES} cores; 'about': a source's size is not known, the size on disk stands for it")
    for rate in everything.rates:
        line(f"  {rate.value:,.12g} {rate.unit} ({rate.source})")


def undeclared(cards: Iterable[Card]) -> None:
    """A warning for each card whose captions nobody has named."""
    for each in cards:
        if error := captions.undeclared(each):
            line(f"warning: a training on this is refused as it is\n{error}")


def overlap(found: Mapping[str, Any], out: Path) -> None:
    """How much two datasets share."""
    left, right = found["left"], found["right"]
    line(f"{found['pairs']:,} pairs of images within {found['within_bits']} of 64 bits ({found['hash']})")
    for side in (left, right):
        share = side["near_duplicates"] / side["images"] if side["images"] else 0.0
        line(f"  {side['name']}: {side['near_duplicates']:,} of {side['images']:,} images ({share:.3%}) have one")
    table = Table(box=None, padding=(0, 2, 0, 2))
    for name in ("set", "images", "near-duplicates", "share"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for row in right["sets"]:
        part = row["near_duplicates"] / row["images"] if row["images"] else 0.0
        table.add_row(row["set"], f"{row['images']:,}", f"{row['near_duplicates']:,}", f"{part:.3%}")
    console().print(table)
    line(f"listed and shown in {out}: a hash is a sign, no proof; look at pairs.png")


class Meter:
    """What is read, in bytes or by number, as a bar on a terminal and nothing elsewhere; use as a context."""

    def __init__(self, *, bytes_of: bool = True) -> None:
        figures = (DownloadColumn(), TransferSpeedColumn()) if bytes_of else (MofNCompleteColumn(),)
        columns = (TextColumn("{task.description}"), BarColumn(), *figures)
        self._bar = Progress(*columns, console=console(error=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("reads", total=None)

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total, description=what)


def _state(each: Dataset) -> tuple[str, str]:
    if each.here:
        return ("yes, by another card", "yellow") if each.state.kind == "stale" else ("yes", "green")
    if each.state.kind in ("running", "queued"):
        return each.state.kind, "cyan"
    return ("index only", "yellow") if each.found is not None else ("no", "dim")


def _where(each: Dataset) -> str:
    if each.home is None:
        return "set PIREPRO_DATA_ROOT"
    home = Path(each.home)
    return str(home.relative_to(Path.cwd())) if home.is_relative_to(Path.cwd()) else str(home)


def _access(card: Card) -> str:
    found = {source.access for source in card.sources}
    return "gated sets" if "gated" in found else "terms to read" if "accept_licence" in found else "open"
