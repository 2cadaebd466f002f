"""What fetching a dataset costs: bytes over the network, bytes and files on disk, hours at stated rates.

Rule: arithmetic on what a card declares and on the figures below, each of which says where it comes from. Where a
card does not know what a source weighs, the size on disk stands for it, and the bill says so.

    egress     = sum of the sources, or the size on disk where one of them is unknown
    disk, peak = shards + what lies beside them meanwhile: of a set of many files those in work, an archive as a whole
    hours      = egress / DOWNLOAD and images / (rate x CORES); side by side where files are converted as they come
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pi_repro.spec.card import Card


@dataclass(frozen=True)
class Figure:
    """A rate with its source."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Way:
    """How a fetcher works.

    Attributes:
        images: of one sample that pass through a core.
        rate: images a second and core; None where files are kept as they come.
        streamed: whether shards are made while other files come, by one process a file.
        held: names of the sources that lie beside the shards as a whole meanwhile; None: all.
    """

    images: int
    rate: Figure | None
    streamed: bool = False
    held: tuple[str, ...] | None = ()


#: Processes that convert side by side, and with them the files that lie beside the shards.
CORES = 16
DOWNLOAD = Figure(100e6, "bytes a second", "planning assumption: four fifths of a 1 Gbit/s line")
#: By tests/benchmarks/sharding.py.
_PHOTOGRAPHS = Figure(
    528.7,
    "photographs a second and core",
    "measured: JPEG of 500 x 375 of a parquet file decoded once, hashed and put into a shard; one core of a Xeon, "
    "quiet",
)
_PNG = Figure(
    19.5,
    "images of NIGHTS a second and core",
    "measured: PNG of 768 x 768 and 1.2 MB, decoded to its end and put into a shard; processor time of a Xeon under "
    "load",
)
_WAYS = {
    "nights": Way(3, _PNG, held=None),
    "yfcc15m": Way(1, _PHOTOGRAPHS, streamed=True),
    "yfcc15m_openai": Way(1, _PHOTOGRAPHS, streamed=True, held=("list", "metadata")),
    "zeroshot": Way(1, None, streamed=True),
}
_ANY = Way(0, None, held=None)


@dataclass(frozen=True)
class Bill:
    """The cost of one dataset, or of several.

    Attributes:
        egress_bytes: that a source sends.
        estimated: whether a source's size is not known.
        peak_bytes: on disk while it is converted.
        disk_bytes, files: on disk afterwards; folders are not counted.
        core_hours: of conversion.
        download_hours: at DOWNLOAD.
        hours: from begin to end on CORES cores.
        rates: that the figures rest on.
    """

    name: str
    egress_bytes: int
    estimated: bool
    peak_bytes: int
    disk_bytes: int
    files: int
    core_hours: float
    download_hours: float
    hours: float
    rates: tuple[Figure, ...] = ()


def bill(card: Card) -> Bill:
    """What fetching a card costs where nothing of it is there yet."""
    way = _WAYS.get(card.fetcher, _ANY)
    estimated = any(source.bytes is None for source in card.sources)
    known = sum(source.bytes or 0 for source in card.sources)
    egress = max(known, card.disk_bytes) if estimated else known
    download = egress / DOWNLOAD.value / 3600
    work = _samples(card) * way.images / way.rate.value / 3600 if way.rate else 0.0
    return Bill(
        name=card.name,
        egress_bytes=egress,
        estimated=estimated,
        peak_bytes=card.disk_bytes + _beside(card, way, egress),
        disk_bytes=card.disk_bytes,
        files=card.files,
        core_hours=work,
        download_hours=download,
        hours=max(download, work / CORES) if way.streamed else download + work / CORES,
        rates=(DOWNLOAD, *([way.rate] if way.rate else [])),
    )


def owner(card: Card) -> str:
    """The dataset whose shards a card's rows lie in: itself, or another one (a view)."""
    return str(card.settings.get("shards_of") or card.name)


def bills(cards: Iterable[Card]) -> list[Bill]:
    """What fetching several cards costs. Shards that some of them share are made once, for the first."""
    found, paid = [], set[str]()
    for card in cards:
        free = Bill(card.name, 0, False, 0, 0, 0, 0.0, 0.0, 0.0)
        found.append(free if owner(card) in paid else bill(card))
        paid.add(owner(card))
    return found


def total(bills: Iterable[Bill]) -> Bill:
    """All of them, one after the other; at the peak the largest is in work and the others are done."""
    bills = list(bills)
    disk = sum(each.disk_bytes for each in bills)
    return Bill(
        name="all",
        egress_bytes=sum(each.egress_bytes for each in bills),
        estimated=any(each.estimated for each in bills),
        peak_bytes=disk + max((each.peak_bytes - each.disk_bytes for each in bills), default=0),
        disk_bytes=disk,
        files=sum(each.files for each in bills),
        core_hours=sum(each.core_hours for each in bills),
        download_hours=sum(each.download_hours for each in bills),
        hours=sum(each.hours for each in bills),
        rates=tuple(dict.fromkeys(rate for each in bills for rate in each.rates)),
    )


def _samples(card: Card) -> int:
    """Samples that are converted: of triplets, those of all splits; of a draw from others' shards, all of theirs."""
    splits, rows = card.settings.get("splits"), card.settings.get("rows")
    sizes = list(splits.values()) if isinstance(splits, Mapping) else []
    if sizes and all(isinstance(size, int) for size in sizes):
        return sum(sizes)
    return rows if isinstance(rows, int) else card.count


def _beside(card: Card, way: Way, egress: int) -> int:
    """Bytes of sources that lie beside the shards, at most."""
    if way.held is None:
        return egress
    files = card.settings.get("shards")
    in_work = CORES * egress // files if isinstance(files, int) and files > CORES else 0
    return in_work + sum(source.bytes or 0 for source in card.sources if source.name in way.held)
