"""The fetcher yfcc15m_openai: list, metadata and photographs to shards, and a dataset's rows of them.

Rule: the list is joined with the metadata once, by whoever comes first, under a lock; each fixed range of the list then
becomes one part, by this stage or by the tasks of a job array (`share`). What is gone is counted by reason and listed
in failures.tsv. Disk: the shards, the joined list (about 3 GB), and the metadata (66 GB) while the list is joined.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.data import assembly, conversion, home, parts
from pi_repro.data.conversion import Task
from pi_repro.data.parts import Part
from pi_repro.data.settings import read_settings
from pi_repro.data.sources import Meter, space
from pi_repro.data.sources.downloads import locked
from pi_repro.data.sources.local import LocalOrigin
from pi_repro.data.sources.origin import Origin, Watch, origin_of
from pi_repro.data.view import Chosen, choose
from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, write_atomic, write_json
from pi_repro.spec.card import Card, Source
from pi_repro.stages.context import StageContext

from . import crawl, joining
from .images import Images, of_bucket
from .joining import Joined
from .part import Job, check_missing, make
from .settings import OpenaiListSettings

#: Raised when the bytes of a shard change for the same sources and settings.
FORM = 1
_SOURCES = ("list", "metadata", "images")
#: Connections of all processes together, and of each at least.
_CONNECTIONS, _LEAST = 128, 4
#: Failures listed in card.json itself.
_SHOWN = 20
_JOINED_BYTES = 4 << 30
_OBTAINED = "obtained.json"


@dataclass(frozen=True)
class Plan:
    """What a card asks for.

    Attributes:
        settings: the card's.
        origins: its sources, by name.
        joined: the list with the metadata.
        obtained: size and sha256 of the list's and the metadata's files.
        identity: of the shards.
        home: their folder.
        tasks: one a range of the list.
    """

    settings: OpenaiListSettings
    origins: dict[str, Origin]
    joined: Joined
    obtained: dict[str, Any]
    identity: str
    home: Path
    tasks: tuple[Task, ...]


def fetch(card: Card, context: StageContext) -> None:
    """Make every part that is not whole, then the card's dataset in `context.out`.

    Raises:
        RequestError: the card's settings are wrong.
        StateError: a source cannot be had or used, is damaged, or lacks more photographs than allowed; no room; no
            data root; a crawler must be run first (it says how).
        Interrupted: asked to stop; whole parts are kept.
    """
    plan = _plan(card, context)
    _convert(plan, card, context, None)
    made = [part for task in plan.tasks if (part := parts.finished(task.home, task.name, task.identity))]
    if len(made) < len(plan.tasks):
        raise StateError("a part vanished", where=str(plan.home), todo="fetch again")
    for part in made:  # another card, which allows more, may have made it
        check_missing(part.name, part.failures, part.about["listed"], plan.settings.missing_allowed)
    chosen = choose(made, plan.settings.view(Path.cwd()))
    home_name = home.home_name(card, plan.identity)
    assembly.assemble(made, context.out, card.name, "pairs", home_name=home_name, keep=chosen.keep)
    failures = [failure for part in made for failure in part.failures]
    if failures:
        write_atomic(context.out / "failures.tsv", "".join(f"{key}\t{why}\n" for key, why in failures).encode())
    warnings = _warnings(plan, made, chosen)
    for warning in warnings:
        context.log.warning("%s: %s", card.name, warning)
    reasons = Counter(reason for _, reason in failures)
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "count": chosen.count,
            "expected": card.count,
            "listed": plan.joined.listed,
            "with_metadata": plan.joined.known,
            "pairs": sum(part.count for part in made),
            "captions": {"kind": plan.settings.captions, **plan.settings.text.model_dump(mode="json")},
            "failures": {
                "count": len(failures),
                "share": round(len(failures) / plan.joined.listed, 6),
                "reasons": dict(sorted(reasons.items(), key=lambda row: (-row[1], row[0]))[:_SHOWN]),
                "first": [{"key": key, "reason": reason} for key, reason in failures[:_SHOWN]],
            },
            "excluded": chosen.excluded,
            "shards": {"home": home_name, "identity": plan.identity, "ranges": len(made)},
            "sources": [_record(name, plan) for name in _SOURCES],
            "warnings": warnings,
        },
    )


def share(card: Card, context: StageContext, i: int, n: int) -> None:
    """Make every n-th part from the i-th on, nothing else: what one task of a job array does.

    Raises what `fetch` does.
    """
    if card.location != "site":
        raise RequestError("only shards in the data root can be shared out", where=f"card {card.name}")
    _convert(_plan(card, context), card, context, (i, n))


def _plan(card: Card, context: StageContext) -> Plan:
    settings = read_settings(OpenaiListSettings, card)
    sources = {source.name: source for source in card.sources}
    if tuple(sources) != _SOURCES:
        raise RequestError(
            "this fetcher reads three sources", where=f"card {card.name}", given=list(sources), allowed=str(_SOURCES)
        )
    origins = {name: origin_of(source, context) for name, source in sources.items()}
    said = {name: _said(source) for name, source in sources.items()}
    of_list = home.identity_of(
        {"form": FORM, "list": said["list"], "metadata": said["metadata"], "part_size": settings.part_size}
    )
    folder = home.home(card, context, of_list, dataset=f"{card.name}/list")
    joined, obtained = _joined(card, settings, origins, folder, context)
    identity = home.identity_of(
        {"form": FORM, "sources": said, "settings": settings.decides(), "short_side": card.short_side}
    )
    images = _images(settings, origins["images"], folder)
    target = home.home(card, context, identity)
    each = max(_LEAST, _CONNECTIONS // conversion.processors())
    tasks = tuple(
        Task(
            target,
            part.name,
            home.identity_of({"home": identity, "rows": part.sha256}),
            Job(part, images, settings.text, card.short_side, settings.missing_allowed, each),
        )
        for part in joined.ranges
    )
    return Plan(settings, origins, joined, obtained, identity, target, tasks)


def _said(source: Source) -> list[str]:
    return [source.kind, source.locator, source.revision, source.digest]


def _images(settings: OpenaiListSettings, origin: Origin, folder: Path) -> Images | Path:
    """Where photographs come from; a folder: what a crawler brought.

    Raises:
        StateError: a crawler must be run first.
    """
    if settings.images == "bucket":
        return of_bucket(origin)
    if isinstance(origin, LocalOrigin) and origin.root.is_dir():
        return origin.root
    raise StateError(
        "the photographs must be crawled first; their addresses are written",
        where=str(folder / "urls"),
        todo=f"{crawl.command(folder / 'urls', settings.part_size)}\n"
        "           then: pirepro data fetch NAME --from images=OUT",
    )


def _joined(
    card: Card, settings: OpenaiListSettings, origins: dict[str, Origin], folder: Path, context: StageContext
) -> tuple[Joined, dict[str, Any]]:
    """The joined list, made where nobody has, and what it was made from."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", context.should_stop):
        urls = settings.images == "img2dataset"
        found = joining.read(folder)
        if found is None or (urls and not (folder / "urls").is_dir()):
            found = _join(card, settings, origins, folder, context, urls)
        for name in ("list", "metadata"):
            # Also after a kill between the join and this. A link to a local copy goes, the copy stays.
            (folder / name).unlink(missing_ok=True)
    return found, read_json(folder / _OBTAINED)


def _join(
    card: Card,
    settings: OpenaiListSettings,
    origins: dict[str, Origin],
    folder: Path,
    context: StageContext,
    urls: bool,
) -> Joined:
    files = {name: origins[name].files()[0] for name in ("list", "metadata")}
    here = {name: folder / name for name in files}
    missing = [file.bytes or 0 for name, file in files.items() if not here[name].exists()]
    space.require(folder, sum(missing) + _JOINED_BYTES, f"the list and metadata of {card.name}")
    meter = Meter(context.progress, sum(file.bytes or 0 for file in files.values()), "list and metadata")
    watch = Watch(meter.advance, context.should_stop, context.log)
    obtained = {name: origins[name].obtain(file, here[name], watch) for name, file in files.items()}
    record = {name: {"bytes": row.bytes, "sha256": row.sha256} for name, row in obtained.items()}
    write_json(folder / _OBTAINED, record)
    return joining.join(
        here["list"],
        here["metadata"],
        folder,
        settings.part_size,
        urls=urls,
        should_stop=context.should_stop,
        progress=lambda done, total, note: context.progress(done, total, "lines", note),
    )


def _convert(plan: Plan, card: Card, context: StageContext, share: tuple[int, int] | None) -> None:
    tasks = conversion.shared(plan.tasks, share)
    missing = [task for task in tasks if not task.is_done()]
    needed = card.disk_bytes * len(missing) // max(1, len(plan.tasks))
    space.require(plan.home, needed, f"shards of {card.name}", 4 * len(missing))
    conversion.convert(
        tasks,
        make,
        should_stop=context.should_stop,
        progress=lambda done, total, note: context.progress(done, total, "shards", note),
        log=context.log,
    )


def _record(name: str, plan: Plan) -> dict[str, Any]:
    """What card.json says of a source; not whether a copy stood for it, which alters nothing."""
    record = {key: value for key, value in plan.origins[name].record.items() if key != "from"}
    return {**record, **plan.obtained.get(name, {})}


def _warnings(plan: Plan, made: list[Part], chosen: Chosen) -> list[str]:
    warnings = []
    if plan.joined.listed != plan.settings.photographs:
        warnings.append(f"the list is said to hold {plan.settings.photographs}, {plan.joined.listed} are there")
    if plan.joined.known != plan.joined.listed:
        warnings.append(f"the metadata knows {plan.joined.known} of {plan.joined.listed} photographs")
    lost = plan.joined.listed - sum(part.count for part in made)
    if lost:
        warnings.append(f"{lost} of {plan.joined.listed} photographs are gone or cannot be used: see failures.tsv")
    if chosen.unknown:
        shown = ", ".join(chosen.unknown[:5])
        warnings.append(f"{len(chosen.unknown)} entries of the exclude list are no photo id here: {shown}")
    return warnings
