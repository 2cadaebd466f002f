"""The fetcher of NIGHTS: its archives come under the site's data root, its triplets go to shards, the card tells all.

RULE: a shard that is whole is never made again, and an archive is only fetched for a shard that is not. The order of
triplets and the bytes of shards follow from the table and the images alone, not from the form they came in.

On disk at once: with `form: zip` the archive and the shards, about 116 GB for the whole set; with `form: chunked` the
shards and, for each process, the archives by folder that one shard needs, about 58 GB and 4 GB a process. Archives are
removed when all shards that need them are whole, unless they are kept. Room is asked for before anything is begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pi_repro.data import home
from pi_repro.data.assembly import assemble
from pi_repro.data.conversion import Task, convert, processors
from pi_repro.data.parts import Part, finished
from pi_repro.data.settings import read_settings
from pi_repro.data.sources.meter import Meter
from pi_repro.data.sources.origin import Origin, RemoteFile, Watch, origin_of
from pi_repro.data.sources.partial import begun
from pi_repro.data.sources.space import require
from pi_repro.errors import RequestError, StateError
from pi_repro.files import digest_of, write_json
from pi_repro.spec.card import AT_FIRST_FETCH, Card, Source
from pi_repro.stages.context import StageContext

from .archive import Archive
from .disclosure import categories, record
from .settings import NightsSettings
from .shard import Job, chunks_of, images_of, make, paths_of
from .supply import Held, Supply, content_of, keep_table, kept_table, table_in, table_of
from .table import Row, kept, read_table


@dataclass(frozen=True)
class Plan:
    """What the shards will be, known from the table alone.

    Attributes:
        rows: the whole table; used: those with enough votes, in the order of the shards.
        folder: where archives are held while they are needed.
        names: of the parts.
    """

    card: Card
    settings: NightsSettings
    rows: tuple[Row, ...] = field(repr=False)
    used: tuple[Row, ...] = field(repr=False)
    table_sha256: str
    identity: str
    home: Path
    folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts."""
        return tuple(f"{number:05d}" for number in range(-(-len(self.used) // self.settings.shard_size)))

    def triplets(self, name: str) -> tuple[Row, ...]:
        """Those of a part."""
        begin = int(name) * self.settings.shard_size
        return self.used[begin : begin + self.settings.shard_size]

    def part(self, name: str) -> Part | None:
        """A part, where it is whole."""
        return finished(self.home, name, self.identity)

    def parts(self) -> list[Part]:
        """All parts, in order.

        Raises:
            StateError: one is not whole.
        """
        found = [(name, self.part(name)) for name in self.names]
        if missing := [name for name, part in found if part is None]:
            raise StateError("a shard vanished", where=str(self.home / missing[0]), todo="fetch the dataset again")
        return [part for _, part in found if part is not None]


def fetch(card: Card, context: StageContext) -> None:
    """Make what is not made yet, then the index, card.json and categories.json in `context.out`.

    Raises:
        RequestError: the card's settings are wrong.
        StateError: a source cannot be had, changed, is hostile or damaged, or lacks more images than may be missing;
            no room on disk; no data root.
        Interrupted: asked to stop; what is whole stays.
    """
    plan = _plan(card, context)
    _convert(plan, context, None)
    parts = plan.parts()
    failures = [failure for part in parts for failure in part.failures]
    _bound([f"{key}: {reason}" for key, reason in failures], plan)
    assemble(parts, context.out, card.name, "triplets", home_name=home.home_name(card, plan.identity))
    left_out = {key for key, _ in failures}
    used = [row for row in plan.used if row.key not in left_out]
    archives = {name: archive for part in parts for name, archive in part.about["archives"].items()}
    sources = [origin_of(source, context).record for source in _sources(card, plan.settings).values()]
    about = record(card, plan.settings, plan.rows, used, failures, archives, sources, plan.table_sha256)
    if any(not part.about["archives"] for part in parts):
        about["warnings"].append("Made from a copy that somebody unpacked: no digest vouches for its images.")
    write_json(context.out / "categories.json", categories(used))
    write_json(context.out / "card.json", about)
    for line in about["differences"]:
        context.log.warning("%s: %s", card.name, line)
    if not plan.settings.keep_archive:
        for name in archives:
            (plan.folder / name).unlink(missing_ok=True)


def share(card: Card, context: StageContext, i: int, n: int) -> None:
    """Make every n-th shard from the i-th on and nothing else: what one task of an array does. Raises as `fetch`."""
    _convert(_plan(card, context), context, (i, n))


def _plan(card: Card, context: StageContext) -> Plan:
    settings = read_settings(NightsSettings, card)
    sources = _sources(card, settings)
    said = digest_of([[source.locator, source.revision, source.digest] for source in sources.values()])
    folder = home.home(card, context, said, dataset=f"{card.name}/archives")
    content = kept_table(folder, settings.table)
    if content is None:
        content = _table(card, settings, origin_of(sources[settings.archive], context), folder, context)
        keep_table(folder, settings.table, content)
    rows, sha256 = read_table(content, settings.table), hashlib.sha256(content).hexdigest()
    archive = sources[settings.archive]
    identity = home.identity_of(
        {
            "fetcher": "nights",
            "table": sha256,
            # Of the images, what the card pins of the one archive: the archives by folder hold the same ones.
            "images": [text for text in (archive.revision, archive.digest) if text != AT_FIRST_FETCH],
            "min_votes": settings.min_votes,
            "shard_size": settings.shard_size,
            "short_side": card.short_side,
        }
    )
    used = kept(rows, settings.min_votes)
    if not used:
        raise StateError("no triplet has enough votes", where=settings.table, given=f"at least {settings.min_votes}")
    return Plan(card, settings, rows, used, sha256, identity, home.home(card, context, identity), folder)


def _sources(card: Card, settings: NightsSettings) -> dict[str, Source]:
    """The sources that this form needs, by name: the archive (for its table at least), then the archives by folder."""
    known = {source.name: source for source in card.sources}
    wanted = [settings.archive] + ([settings.chunks] if settings.form == "chunked" else [])
    if missing := [name for name in wanted if name not in known]:
        raise RequestError(
            "no such source", where=f"card {card.name}, settings", given=", ".join(missing), allowed=", ".join(known)
        )
    return {name: known[name] for name in wanted}


def _table(card: Card, settings: NightsSettings, origin: Origin, folder: Path, context: StageContext) -> bytes:
    found = content_of(origin, settings.table, settings.archive)
    if settings.form == "chunked" or found.archive is None:
        return table_of(origin, found, settings.table)
    held = _hold_archive(card, Supply(origin, folder), found.archive, card.disk_bytes, context)
    with Archive(held.path, found.archive.name) as archive:
        return table_in(archive, settings.table)


def _hold_archive(card: Card, supply: Supply, archive: RemoteFile, shards: int, context: StageContext) -> Held:
    """The one archive; asked for only where the disk has room for it and for the shards."""
    path, size = supply.folder / archive.name, archive.bytes or 0
    missing = 0 if path.is_file() else max(size - begun(path), 0)
    require(supply.folder, shards + missing, f"{card.name}: {archive.name} and the shards")
    meter = Meter(context.progress, size, archive.name)
    return supply.hold(archive, Watch(meter.advance, context.should_stop, context.log))


def _convert(plan: Plan, context: StageContext, share: tuple[int, int] | None) -> None:
    unfinished = [name for name in plan.names if plan.part(name) is None]
    if not unfinished:
        return
    job = _source_of_images(plan, unfinished, context)
    users: dict[str, tuple[str, ...]] = {}
    if job.archive is None and job.unpacked is None and not plan.settings.keep_archive:
        for name in plan.names:
            for chunk in chunks_of(plan.triplets(name)):
                users[chunk] = (*users.get(chunk, ()), name)
    tasks = [
        Task(plan.home, name, plan.identity, replace(job, rows=plan.triplets(name), users=users)) for name in plan.names
    ]

    def progress(done: int, total: int, note: str) -> None:
        context.progress(done, total, "shards", note)

    convert(
        tasks,
        make,
        processes=context.resources.workers or None,
        should_stop=context.should_stop,
        progress=progress,
        share=share,
        log=context.log,
    )


def _source_of_images(plan: Plan, unfinished: Sequence[str], context: StageContext) -> Job:
    """A job for all unfinished shards; what can be refused is refused here, before any of them is begun."""
    rows = tuple(row for name in unfinished for row in plan.triplets(name))
    shards = plan.card.disk_bytes * len(rows) // len(plan.used)
    settings, sources = plan.settings, _sources(plan.card, plan.settings)
    if settings.form == "chunked":
        supply = Supply(origin_of(sources[settings.chunks], context), plan.folder)
        held = _bytes_held(plan, unfinished, context)
        require(plan.folder, shards + held, f"{plan.card.name}: the shards, and {held / 1e9:.1f} GB for archives")
        return Job(rows, plan.card.short_side, supply, None, None, {})
    return _whole(plan, rows, shards, Supply(origin_of(sources[settings.archive], context), plan.folder), context)


def _bytes_held(plan: Plan, unfinished: Sequence[str], context: StageContext) -> int:
    """Estimated bytes of the archives by folder that are on disk at once: those of one shard for each process."""
    if plan.settings.keep_archive:
        return plan.card.disk_bytes
    processes = min(context.resources.workers or processors(), len(unfinished))
    most = max(len(chunks_of(plan.triplets(name))) for name in unfinished)
    return plan.card.disk_bytes * most // len(chunks_of(plan.used)) * processes


def _whole(plan: Plan, rows: tuple[Row, ...], shards: int, supply: Supply, context: StageContext) -> Job:
    """The job of the one archive or of an unpacked copy, whose images are all looked up."""
    table = plan.settings.table
    found = content_of(supply.origin, table, plan.settings.archive)
    held: dict[str, Held] = {}
    if found.archive:
        held[found.archive.name] = _hold_archive(plan.card, supply, found.archive, shards, context)
        with Archive(held[found.archive.name].path, found.archive.name) as archive:
            keep_table(plan.folder, table, table_in(archive, table))
    unpacked = found.top if found.table else None
    job = Job(rows, plan.card.short_side, supply, found.archive, unpacked, {})
    with images_of(job, held) as images:
        sizes = {path: images.size(path) for path in paths_of(rows)}
    _bound([f"{row.key}: an image is missing" for row in rows if None in map(sizes.get, paths_of([row]))], plan)
    require(plan.home, sum(size or 0 for size in sizes.values()), f"{plan.card.name}: the shards")
    return job


def _bound(failures: Sequence[str], plan: Plan) -> None:
    if len(failures) > plan.settings.max_failures:
        raise StateError(
            "more triplets cannot be used than the card allows",
            where=f"card {plan.card.name}, settings.max_failures",
            given=f"{len(failures)}: {'; '.join(failures[:5])}",
            allowed=str(plan.settings.max_failures),
            todo="fetch the archive again; or, where the source is like that, raise max_failures in the card",
        )
