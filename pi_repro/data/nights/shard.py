"""One shard of NIGHTS: so many triplets, streamed from the archives into a tar; nothing is unpacked on the way.

RULE: a task says everything that its shard depends on and how to come by it, so any process makes the same shard at any
time, and whoever finishes the last shard that needs an archive removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pi_repro.data.conversion import Task
from pi_repro.data.parts import PartWriter, finished
from pi_repro.data.sources.origin import RemoteFile, Watch
from pi_repro.data.triplets import SPLITS
from pi_repro.errors import Interrupted
from pi_repro.files import canonical_json

from .archive import check_png
from .images import Images, UnpackedImages, chunk_of
from .supply import Held, Supply
from .table import Row

PARTS = ("ref", "left", "right")


@dataclass(frozen=True)
class Job:
    """What one shard is made of, as the payload of a task.

    Attributes:
        rows: its triplets, in order.
        short_side: of the card.
        supply: where archives are had.
        archive: the one archive; None for archives by folder or an unpacked copy.
        unpacked: the folder of an unpacked copy, "nights/" or "", below the origin; None for archives.
        users: archive by folder -> parts that need it, for those to be removed after use; empty keeps all.
    """

    rows: tuple[Row, ...] = field(repr=False)
    short_side: int | None
    supply: Supply
    archive: RemoteFile | None
    unpacked: str | None
    users: Mapping[str, tuple[str, ...]] = field(repr=False)


def make(task: Task, watch: Watch) -> None:
    """Make the shard of a task whose payload is a `Job`; see `pi_repro.data.conversion.Work`.

    Raises:
        StateError: an archive cannot be had, is hostile or damaged, or holds something else than PNG files; names it.
        Interrupted: asked to stop.
    """
    job: Job = task.payload
    held = _hold(job, watch)
    with (
        images_of(job, held) as images,
        PartWriter(
            task.home, task.name, "triplets", job.short_side, identity=task.identity, shard_size=len(job.rows)
        ) as writer,
    ):
        for row in job.rows:
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop; whole parts are kept", where=task.name)
            members, reason = _members(row, images)
            if reason:
                writer.fail(row.key, reason)
            else:
                about = {"id": row.id, "prompt": row.prompt, "ref": row.ref, "left": row.left, "right": row.right}
                extra = {"label": row.label, "split": SPLITS[row.split], "votes": row.votes}
                writer.add(
                    row.key,
                    {**members, "json": canonical_json(about).encode()},
                    {**extra, "is_imagenet": int(row.is_imagenet), "id": row.id},
                )
        used = {name: {"bytes": archive.bytes, "sha256": archive.sha256} for name, archive in held.items()}
        writer.close({"archives": used})
    for chunk in chunks_of(job.rows) if job.users else ():
        if all(finished(task.home, name, task.identity) for name in job.users[chunk]):
            job.supply.drop(chunk)


def paths_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Every image of some triplets."""
    return tuple(path for row in rows for path in (row.ref, row.left, row.right))


def chunks_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Every archive by folder that some triplets need, sorted."""
    return tuple(sorted({chunk_of(path) for path in paths_of(rows)}))


def images_of(job: Job, held: Mapping[str, Held]) -> Images | UnpackedImages:
    """The images of a job, open, out of the archives that are held for it.

    Raises:
        StateError: an archive is hostile or damaged.
    """
    if job.unpacked is not None:
        return UnpackedImages(job.supply.origin, job.unpacked)
    archives = [(archive.path, name, "" if job.archive else name.partition("/")[0]) for name, archive in held.items()]
    return Images(archives, paths_of(job.rows))


def _hold(job: Job, watch: Watch) -> dict[str, Held]:
    if job.unpacked is not None:
        return {}
    if job.archive is not None:
        return {job.archive.name: job.supply.hold(job.archive, watch)}
    origin = job.supply.origin
    return {name: job.supply.hold(origin.file(name), watch) for name in chunks_of(job.rows)}


def _members(row: Row, images: Images | UnpackedImages) -> tuple[dict[str, bytes], str]:
    """The images of a triplet by extension; or why it cannot be used."""
    members = {}
    for part, path in zip(PARTS, (row.ref, row.left, row.right), strict=True):
        found = images.read(path)
        if found is None:
            return {}, f"{path} is missing"
        content, where = found
        if reason := check_png(content, where):
            return {}, f"{path} cannot be decoded: {reason}"
        members[f"{part}.png"] = content
    return members, ""
