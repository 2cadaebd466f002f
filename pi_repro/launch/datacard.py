"""A dataset's card for whoever reads it elsewhere: what it is, whose it is, what the fetch found, what to beware of.

Rule: only what the card declares and the fetch counted; what nobody knows is said to be unknown. Sizes are stated as
measured or as estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pi_repro.plan.bill import human_bytes
from pi_repro.spec.card import AT_FIRST_FETCH, Source

from .datasets import Dataset

_WHAT = {"pairs": "pairs of image and caption", "triplets": "training triplets", "suite": "test images"}
_ACCESS = {
    "open": "open",
    "accept_licence": "open, with terms to read first",
    "gated": "only after its terms were accepted",
}
#: Of card.json: what stands elsewhere on the page.
_SHOWN = ("card", "sources", "warnings", "failures", "failures_count", "differences")
_LONG = 160


def content(dataset: Dataset) -> dict[str, Any]:
    """The card and what the fetch found, as JSON."""
    return {
        "name": dataset.name,
        "card": dataset.card.model_dump(mode="json"),
        "state": dataset.state.kind,
        "found": dict(dataset.found) if dataset.found is not None else None,
    }


def warnings(dataset: Dataset) -> list[str]:
    """What to beware of: the card's words, then what the fetch added."""
    added = (dataset.found or {}).get("warnings") or ()
    return list(dict.fromkeys([*dataset.card.warnings, *(str(text) for text in added)]))


def source_rows(dataset: Dataset) -> list[tuple[str, str, str, str, str]]:
    """(name, where from and which revision, size, licence, access) of each source."""
    resolved = {str(row.get("name")): row for row in (dataset.found or {}).get("sources") or () if row.get("name")}
    return [
        (
            source.name,
            f"{source.kind}: {source.locator}{_revision(source, resolved.get(source.name, {}))}",
            human_bytes(size) if (size := _size(source, resolved.get(source.name, {}))) is not None else "unknown",
            source.licence,
            _ACCESS[source.access],
        )
        for source in dataset.card.sources
    ]


def found_rows(dataset: Dataset) -> list[tuple[str, str]]:
    """(what, how much) that the fetch found, in the order of card.json."""
    rows = []
    for key, value in (dataset.found or {}).items():
        if key not in _SHOWN:
            rows += _flat(key, value)
    return rows


def amount(dataset: Dataset) -> str:
    """How much there is, as counted or as expected."""
    counted = _counted(dataset)
    what = _WHAT[dataset.card.kind]
    if counted is not None:
        beside = "" if counted == dataset.card.count else f" (the card expects {dataset.card.count:,})"
        return f"{counted:,} {what}{beside}"
    return f"{dataset.card.count:,} {what}, as expected; not fetched yet"


def failures(dataset: Dataset) -> int:
    """How many samples the fetch could not take."""
    found = dataset.found or {}
    told = found.get("failures_count", found.get("failures", 0))
    if isinstance(told, Mapping):
        told = told.get("count", 0)
    return told if isinstance(told, int) else len(told)


def _counted(dataset: Dataset) -> int | None:
    """What the card's `count` promises, as the fetch counted it: of triplets those for training."""
    found = dataset.found or {}
    counted = found.get("count")
    if dataset.card.kind == "triplets" and isinstance(splits := found.get("splits"), Mapping):
        train = splits.get("train")
        counted = train.get("triplets") if isinstance(train, Mapping) else train
    return counted if isinstance(counted, int) else None


def markdown(dataset: Dataset) -> str:
    """The whole card as a page of Markdown."""
    card, cost = dataset.card, dataset.cost
    fetch = "sizes of some sources are not known" if cost.estimated else "all sizes known"
    lines = [f"# {card.name}", "", f"**{card.title}**", "", card.description, ""]
    lines += ["| | |", "|---|---|"]
    lines += [
        f"| {_cell(what)} | {_cell(value)} |"
        for what, value in (
            ("kind", card.kind),
            ("holds", amount(dataset)),
            ("on disk", f"{human_bytes(cost.disk_bytes)}, {cost.files:,} files (as the card states)"),
            ("download", f"{human_bytes(cost.egress_bytes)}; {fetch}"),
            ("licence", card.licence),
            ("where shards lie", "the workspace" if card.location == "workspace" else "the site's data root"),
            ("fetcher", card.fetcher),
        )
    ]
    if card.citation:
        lines += ["", "## To cite", "", card.citation]
    lines += ["", "## Sources and licences", "", "| source | from | size | licence | access |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in source_rows(dataset)]
    credited = {source.attribution: source.name for source in card.sources if source.attribution}
    lines += ["", "## Attribution", "", *(f"- {who}" for who in credited)] if credited else []
    told = {source.how_to: source.name for source in card.sources if source.how_to}
    lines += ["", "## To do first", "", *(f"- {name}: {text}" for text, name in told.items())] if told else []
    if card.sets:
        lines += ["", "## Sets", "", "| set | task | classes | images | metric | evidence | note |", "|" + "---|" * 7]
        lines += [
            f"| {each.id} | {each.task} | {each.classes or ''} | {f'{each.n:,}' if each.n else '?'} | {each.metric} "
            f"| {each.grade} | {_cell(each.note)} |"
            for each in card.sets
        ]
    if found := found_rows(dataset):
        lines += ["", "## What the fetch found", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(what)} | {_cell(value)} |" for what, value in found]
    if cautions := warnings(dataset):
        lines += ["", "## Warnings", "", *(f"- {text}" for text in cautions)]
    return "\n".join(lines) + "\n"


def _flat(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for name, inner in value.items() for row in _flat(f"{key}.{name}", inner)]
    if isinstance(value, list):
        plain = ", ".join(map(str, value)) if all(isinstance(each, str | int | float) for each in value) else ""
        if not plain or len(plain) > _LONG:
            return [(key, f"{len(value):,} entries")] if value else []
        return [(key, plain)]
    if value is None:
        return []
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return [(key, text)]


def _revision(source: Source, record: Mapping[str, Any]) -> str:
    """ " @ REVISION", as resolved where the card leaves that to the fetch; nothing before."""
    if source.revision != AT_FIRST_FETCH:
        return f" @ {source.revision}"
    found = record.get("revision")
    return f" @ {found}" if found else ""


def _size(source: Source, record: Mapping[str, Any]) -> int | None:
    found = record.get("bytes")
    return found if source.bytes is None and isinstance(found, int) else source.bytes


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
