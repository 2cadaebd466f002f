"""One range of the list to one part: every photograph is a pair, or a failure with its reason.

Rule: photographs arrive over several connections and are written in the list's order, so the bytes do not depend on how
many there are. A range that lacks more photographs than allowed is no part at all: an outage is not kept as link rot.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pi_repro.data.conversion import Task
from pi_repro.data.parts import PartWriter
from pi_repro.data.sources.origin import Watch
from pi_repro.data.tars import Undecodable
from pi_repro.data.view import PHOTO_ID
from pi_repro.data.yfcc.pairs import Unusable, examine
from pi_repro.errors import Interrupted, StateError
from pi_repro.files import canonical_json

from .caption import caption
from .crawl import of_range
from .images import Images, Missing
from .joining import Entry, Range
from .settings import TextSettings

#: Photographs that are waited for or held at once, for each connection.
_AHEAD = 2


@dataclass(frozen=True)
class Job:
    """What a part is made from.

    Attributes:
        range: of the list.
        images: where photographs come from; a folder: what a crawler brought.
        text: how captions are made.
        short_side: images longer than this are made smaller; None: kept.
        missing_allowed: share of the range that may be missing.
        connections: at once.
    """

    range: Range
    images: Images | Path
    text: TextSettings
    short_side: int | None
    missing_allowed: float
    connections: int


def make(task: Task, watch: Watch) -> None:
    """Make a range's part.

    Raises:
        StateError: the source of photographs cannot be used, or too many are missing.
        Interrupted: asked to stop.
    """
    job: Job = task.payload
    entries = job.range.entries()
    images = job.images
    if isinstance(images, Path):
        images = of_range(images, job.range, frozenset(entry.photo.photo_id for entry in entries))
    with PartWriter(task.home, task.name, "pairs", job.short_side, identity=task.identity) as writer:
        for entry, image in _in_turn(entries, images, job.connections, watch):
            key = str(entry.photo.photo_id)
            try:
                if isinstance(image, Missing):
                    raise Unusable(image.problem)
                watch.advance(len(image))
                _add(writer, key, entry, image, job)
            except Unusable as error:
                writer.fail(key, str(error))
        check_missing(job.range.name, writer.failures, len(entries), job.missing_allowed)
        writer.close({"listed": len(entries), "known": sum(entry.about is not None for entry in entries)})


def _in_turn(
    entries: Sequence[Entry], images: Images, connections: int, watch: Watch
) -> Iterator[tuple[Entry, bytes | Missing]]:
    """Every photograph with its file or why there is none, in order, several under way at once."""
    # Only this thread tells how far it is.
    quiet = replace(watch, advance=lambda _count: None)

    def one(entry: Entry) -> bytes | Missing:
        if entry.about is None:
            return Missing("no metadata")
        try:
            return images.image(entry.photo, quiet)
        except Missing as missing:
            return missing

    waiting: deque[tuple[Entry, Future[bytes | Missing]]] = deque()
    with ThreadPoolExecutor(connections) as pool:
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(one, entry)))
                if len(waiting) >= _AHEAD * connections:
                    first, future = waiting.popleft()
                    yield first, future.result()
                if watch.should_stop():
                    raise Interrupted("the stage was asked to stop; whole parts are kept")
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _add(writer: PartWriter, key: str, entry: Entry, image: bytes, job: Job) -> None:
    about = entry.about
    assert about is not None, "without metadata there is no file"
    words = {"title": about.title, "description": about.description}
    text = caption([words[name] for name in job.text.fields], job.text.joined_by, job.text.longest)
    if not text:
        raise Unusable("no caption")
    extension, fingerprint = examine(image)
    beside = {
        "photo_id": entry.photo.photo_id,
        "photographer": about.photographer,
        "user": about.user,
        "page": about.page,
        "licence": about.licence,
        "licence_url": about.licence_url,
    }
    members = {extension: image, "txt": text.encode(), "json": canonical_json(beside).encode()}
    try:
        writer.add(key, members, {PHOTO_ID: entry.photo.photo_id, "phash": fingerprint})
    except Undecodable as error:  # making it smaller takes another decoder, which is stricter
        raise Unusable(f"{error.problem}: {error.given}") from None


def check_missing(name: str, failures: Sequence[tuple[str, str]], listed: int, allowed: float) -> None:
    """Refuse a range that lacks too many photographs.

    Raises:
        StateError: it does.
    """
    if len(failures) <= allowed * listed:
        return
    reasons = Counter(reason.partition(":")[0] for _, reason in failures).most_common(4)
    raise StateError(
        "too many photographs of a range are missing",
        where=f"range {name}",
        given=f"{len(failures)} of {listed}: " + ", ".join(f"{count} {reason}" for reason, count in reasons),
        allowed=f"{allowed:.2%}",
        todo="find out whether the source works; a card may allow more as settings.missing_allowed",
    )
