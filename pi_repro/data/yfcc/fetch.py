"""The fetcher yfcc15m: a hub's parquet files to shards, and a dataset's rows of them.

Rule: each parquet file becomes one part, by whoever comes first (this stage, or the tasks of a job array through
`share`); the index is put together when all are whole. Cards that read the same ids of the same revision share the
shards, and differ in which rows they have. Disk: the shards, and one parquet file for each process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pi_repro.data import assembly, conversion, home, parts
from pi_repro.data.conversion import Task
from pi_repro.data.parts import Part
from pi_repro.data.settings import read_settings
from pi_repro.data.sources import space
from pi_repro.data.sources.origin import Origin, RemoteFile, origin_of
from pi_repro.data.view import Chosen, choose
from pi_repro.errors import RequestError, StateError
from pi_repro.files import write_json
from pi_repro.spec.card import Card
from pi_repro.stages.context import StageContext

from . import report
from .pairs import Job, convert_file, part_name
from .settings import YfccSettings

#: Raised when the bytes of a shard change for the same source and settings.
FORM = 1
#: Size of a shard by that of its parquet file, at most: headers and padding of three members a pair, ids as text.
GROWTH = 1.1


@dataclass(frozen=True)
class Plan:
    """What a card asks for.

    Attributes:
        settings: the card's.
        origin: where the files come from.
        identity: of the shards.
        home: the shards' folder.
        tasks: one a parquet file.
    """

    settings: YfccSettings
    origin: Origin
    identity: str
    home: Path
    tasks: tuple[Task, ...]

    def parts(self) -> list[Part]:
        """All parts, in order.

        Raises:
            StateError: one is not whole, or was made from another file than the origin has now.
        """
        found = []
        for task in self.tasks:
            part = parts.finished(task.home, task.name, task.identity)
            if part is None:
                raise StateError("a part vanished", where=str(task.home / task.name), todo="fetch again")
            expected = task.payload.file.sha256
            if expected not in (None, part.about["source"]["sha256"]):
                raise StateError(
                    "a part was made from another file than the source has",
                    where=str(task.home / task.name),
                    given=part.about["source"]["sha256"],
                    allowed=expected,
                    todo="find out what changed the source; then remove this part and fetch again",
                )
            found.append(part)
        return found


def fetch(card: Card, context: StageContext) -> None:
    """Make every part that is not whole, then the card's dataset in `context.out`.

    Raises:
        RequestError: the card's settings are wrong.
        StateError: the source or the room for it is missing, or too many rows are unusable.
        Interrupted: asked to stop; whole parts are kept.
    """
    plan = _plan(card, context)
    _convert(plan, card, context, None)
    made = plan.parts()
    found = report.counts(made, plan.settings)
    _check_failures(found["failures"], found["rows"], plan.settings, card)
    chosen = choose(made, plan.settings.view(Path.cwd()))
    owner = plan.settings.shards_of
    home_name = home.home_name(card, plan.identity, dataset=owner)
    assembly.assemble(made, context.out, card.name, "pairs", home_name=home_name, keep=chosen.keep)
    report.write_lists(made, context.out)
    report.write_samples(made, chosen, plan.settings, context.out)
    warnings = _warnings(card, plan, chosen, found["rows"])
    for warning in warnings:
        context.log.warning("%s: %s", card.name, warning)
    record = {key: value for key, value in plan.origin.record.items() if key != "from"}
    files = [part.about["source"] for part in made]
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "count": chosen.count,
            "expected": card.count,
            **found,
            "excluded": chosen.excluded,
            "shards": {"home": home_name, "identity": plan.identity, "files": len(made)},
            "sources": [{**record, "files": len(files), "bytes": sum(file["bytes"] for file in files)}],
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
    settings = read_settings(YfccSettings, card)
    if len(card.sources) != 1:
        raise RequestError("this fetcher reads one source", where=f"card {card.name}", given=len(card.sources))
    origin = origin_of(card.sources[0], context)
    files = [file for file in origin.files() if file.name.endswith(".parquet")]
    if not files:
        raise StateError("the source has no parquet file", where=f"source {card.sources[0].name}")
    source = card.sources[0]
    identity = home.identity_of(
        {
            "form": FORM,
            "source": [source.kind, source.locator, str(origin.record["revision"]), source.digest],
            "settings": settings.decides(),
            "short_side": card.short_side,
        }
    )
    folder = home.home(card, context, identity, dataset=settings.shards_of)
    return Plan(settings, origin, identity, folder, _tasks(folder, files, origin, identity, card, settings))


def _tasks(
    folder: Path, files: list[RemoteFile], origin: Origin, identity: str, card: Card, settings: YfccSettings
) -> tuple[Task, ...]:
    tasks = {}
    for file in files:
        job = Job(origin, file, settings.columns, settings.context, settings.segment, card.short_side)
        name = part_name(file.name)
        if name in tasks:
            raise StateError("two files of the source would have one name", where=f"card {card.name}", given=file.name)
        tasks[name] = Task(folder, name, home.identity_of({"home": identity, "file": file.name}), job)
    return tuple(tasks.values())


def _convert(plan: Plan, card: Card, context: StageContext, share: tuple[int, int] | None) -> None:
    tasks = conversion.shared(plan.tasks, share)
    missing = [task.payload.file.bytes or 0 for task in tasks if not task.is_done()]
    processes = conversion.processors()
    at_once = sum(sorted(missing, reverse=True)[:processes])
    space.require(plan.home, int(GROWTH * sum(missing)) + at_once, f"shards of {card.name}", 4 * len(missing))
    conversion.convert(
        tasks,
        convert_file,
        processes=processes,
        should_stop=context.should_stop,
        progress=lambda done, total, note: context.progress(done, total, "shards", note),
        log=context.log,
    )


def _check_failures(failures: dict[str, int], rows: int, settings: YfccSettings, card: Card) -> None:
    if failures["count"] > settings.failures_allowed * rows:
        raise StateError(
            "too many rows cannot be used",
            where=f"card {card.name}",
            given=f"{failures['count']} of {rows}: {failures['reasons']}",
            allowed=f"{settings.failures_allowed:.2%}",
            todo="look at them in the parts' sidecars; a card may allow more as settings.failures_allowed",
        )


def _warnings(card: Card, plan: Plan, chosen: Chosen, rows: int) -> list[str]:
    warnings = []
    if chosen.count != card.count:
        warnings.append(f"the card promises {card.count} pairs, {chosen.count} are there")
    if len(plan.tasks) != plan.settings.shards:
        warnings.append(f"the card promises {plan.settings.shards} parquet files, {len(plan.tasks)} are there")
    if plan.settings.rows not in (None, rows):
        warnings.append(f"the card promises {plan.settings.rows} rows in them, {rows} are there")
    if chosen.unknown:
        shown = ", ".join(chosen.unknown[:5])
        warnings.append(f"{len(chosen.unknown)} entries of the exclude list are no key or photo id here: {shown}")
    if plan.settings.captions == "undeclared":
        warnings.append("nobody has said what kind of captions these are: read samples.json, then say it in the card")
    return warnings
