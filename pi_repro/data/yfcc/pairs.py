"""One parquet file to one part: every row is a pair, or a failure with its reason.

Rule: image bytes are kept as they are and decoded once, strictly: what cannot be decoded to its end is no image. The
ids of the whole row are kept beside the caption that was read from them.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pi_repro.data import fingerprints
from pi_repro.data.conversion import Task
from pi_repro.data.parts import SIDECARS, PartWriter
from pi_repro.data.sources.origin import Origin, RemoteFile, Watch
from pi_repro.data.tars import Undecodable
from pi_repro.data.view import PHOTO_ID
from pi_repro.errors import Interrupted, StateError
from pi_repro.files import digest_of

from . import tokens
from .parquet import Row, batches
from .settings import ColumnNames
from .tokens import Caption, Reader

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
#: A file of which more rows than this are unusable is not what the card thinks it is.
_HOPELESS = 0.5
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Job:
    """What the conversion of a file needs.

    Attributes:
        origin: where the file comes from.
        file: it.
        columns: its columns' names.
        context: ids of a caption.
        segment: which run of ids is read.
        short_side: images longer than this are made smaller; None: kept.
    """

    origin: Origin
    file: RemoteFile
    columns: ColumnNames
    context: int
    segment: int
    short_side: int | None


@dataclass
class Tally:
    """What was found in a file, kept with its part."""

    rows: int = 0
    widths: Counter[int] = field(default_factory=Counter)
    empty: int = 0
    completed: int = 0
    inexact: list[str] = field(default_factory=list)

    def note(self, key: str, caption: Caption, width: int) -> None:
        """Count a caption."""
        self.widths[width] += 1
        self.empty += not caption.text
        self.completed += caption.completed
        if not caption.exact:
            self.inexact.append(key)


def part_name(file: str) -> str:
    """A part's name from its file's: "data/train-00000-of-01507.parquet" -> "data-train-00000-of-01507"."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", file.removesuffix(".parquet"))
    return plain if len(plain) <= 48 else f"{plain[:39]}-{digest_of(file)[:8]}"


def convert_file(task: Task, watch: Watch) -> None:
    """Fetch a file, make its part, let go of the file.

    Raises:
        StateError: the file is damaged, or most of it cannot be used.
        Interrupted: asked to stop.
    """
    job: Job = task.payload
    place = task.home / SIDECARS / f"{task.name}.parquet"
    obtained = job.origin.obtain(job.file, place, watch)
    tally, reader = Tally(), tokens.reader(job.context, job.segment)
    with PartWriter(task.home, task.name, "pairs", job.short_side, identity=task.identity) as writer:
        for rows in batches(obtained.path, job.columns, job.file.name):
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop; whole parts are kept", where=job.file.name)
            _add(rows, reader, writer, tally, job)
        if len(writer.failures) > _HOPELESS * tally.rows:
            raise _hopeless(job.file.name, writer.failures, tally.rows)
        writer.close(
            {
                "source": {"name": job.file.name, "bytes": obtained.bytes, "sha256": obtained.sha256},
                "rows": tally.rows,
                "ids_per_row": {str(width): count for width, count in sorted(tally.widths.items())},
                "empty": tally.empty,
                "completed": tally.completed,
                "inexact": tally.inexact,
            }
        )
    # A link to a local copy goes, the copy stays.
    place.unlink(missing_ok=True)


def _add(rows: list[Row], reader: Reader, writer: PartWriter, tally: Tally, job: Job) -> None:
    """The pairs of some rows. Each step is taken for all rows before the next, which a processor's caches reward."""
    looks = [_tried(row.image) for row in rows]
    hashes = [None if isinstance(look, str) else fingerprints.phash(look[1]) for look in looks]
    captions = reader.read([row.ids for row in rows])
    beside = [_beside(row, job.file.name) for row in rows]
    for row, look, fingerprint, caption, about in zip(rows, looks, hashes, captions, beside, strict=True):
        key = f"{writer.name}-{row.number:06d}"
        tally.rows += 1
        photo = row.other[job.columns.photo_id] if job.columns.photo_id else 0
        if isinstance(caption, str) or row.ids is None:
            writer.fail(key, str(caption))
        elif isinstance(look, str) or fingerprint is None or row.image is None:
            writer.fail(key, str(look))
        elif photo is None or photo > _LARGEST_ID:
            writer.fail(key, "no photo id")
        else:
            extra = {"phash": fingerprint, **({PHOTO_ID: photo} if job.columns.photo_id else {})}
            try:
                writer.add(key, {look[0]: row.image, "txt": caption.text.encode(), "json": about}, extra)
            except Undecodable as error:  # making it smaller takes another decoder, which is stricter
                writer.fail(key, f"{error.problem}: {error.given}")
            else:
                tally.note(key, caption, len(row.ids))


class Unusable(Exception):
    """Why a row is no pair."""


def examine(image: bytes | None) -> tuple[str, int]:
    """An image file's extension and perceptual hash, decoded to its end by the way that training decodes it.

    Raises:
        Unusable: it cannot be decoded, or is of a kind that shards do not hold.
    """
    extension, samples = look_at(image)
    return extension, fingerprints.phash(samples)


def look_at(image: bytes | None) -> tuple[str, np.ndarray]:
    """An image file's extension and the pixels that its hash is made of; see `examine`."""
    # Slow to import, and whoever only plans or submits a conversion decodes nothing.
    from pi_repro.data import jpeg, transforms

    if not image:
        raise Unusable("no image")
    pixels = jpeg.decode(image)
    if pixels is not None:
        return "jpg", fingerprints.samples(pixels.permute(1, 2, 0).numpy()).copy()
    try:
        with warnings.catch_warnings():
            # A file of some kilobytes may say that it has more pixels than a process has room for.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            decoded = transforms.decode(image)
        extension = _EXTENSIONS.get(decoded.format or "")
        if extension is None:
            raise Unusable(f"image is a {decoded.format}, and shards hold {', '.join(sorted(_EXTENSIONS))}")
        return extension, fingerprints.samples(fingerprints.on_white(decoded)).copy()
    except StateError as error:
        raise Unusable(f"{error.problem}: {error.given}") from None
    except Image.DecompressionBombWarning as error:
        raise Unusable(f"image cannot be decoded: {error}") from None


def _tried(image: bytes | None) -> tuple[str, np.ndarray] | str:
    try:
        return look_at(image)
    except Unusable as error:
        return str(error)


def _beside(row: Row, file: str) -> bytes:
    """The json member: the row's ids without trailing zeros, how many there were, and what else the source says."""
    ids = [] if row.ids is None else row.ids.tolist()
    width = len(ids)
    while ids and ids[-1] == 0:
        ids.pop()
    about = {"file": file, "row": row.number, "ids": ids, "width": width}
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.other.items()
    }
    if plain:
        about["source"] = plain
    return json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _hopeless(name: str, failures: list[tuple[str, str]], rows: int) -> StateError:
    reasons = Counter(reason for _, reason in failures).most_common(3)
    return StateError(
        "most of a file cannot be used: it is not what the card thinks it is",
        where=name,
        given=f"{len(failures)} of {rows} rows; " + "; ".join(f"{count} times {reason}" for reason, count in reasons),
        todo="see the card's columns, context and segment",
    )
