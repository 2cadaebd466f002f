"""The list joined with the metadata: for each range of the list, its photographs and what is known of them.

Rule: both files are read once, as streams. In memory are the list's identifiers and their places alone (12 bytes a
photograph, twice that while they are sorted); matched rows go to some hundred files by their place and are put in
order one such file at a time. The result depends on the contents of the two files, not on the order of the metadata.

A folder holds `rows/00000.jsonl.gz` (one line a photograph, in the list's order), `urls/00000.parquet` for a crawler
where asked for, and `list.json`, which comes last: with it, the folder is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import read_json, write_atomic, write_json

from . import metadata
from .listing import Photo, photos
from .metadata import About

_DONE = "list.json"
#: Files that matched rows are spread over: each is put in order in memory.
_SPREAD = 200
#: Lines of the whole metadata, for the progress alone.
_LINES = 100_000_000


@dataclass(frozen=True)
class Entry:
    """A photograph of the list with its metadata; None where the metadata has none."""

    photo: Photo
    about: About | None


@dataclass(frozen=True)
class Range:
    """A fixed stretch of the list: its number as a name, its file of rows and their sha256, how many there are."""

    name: str
    path: Path
    sha256: str
    count: int

    def entries(self) -> list[Entry]:
        """Its photographs, in the list's order.

        Raises:
            StateError: the file is missing or damaged.
        """
        try:
            content = gzip.decompress(self.path.read_bytes())
        except (OSError, EOFError) as error:
            raise _damaged(self.path, error) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise _damaged(self.path, "its sha256 differs")
        return [_entry(json.loads(line)) for line in content.splitlines()]


@dataclass(frozen=True)
class Joined:
    """The list, joined: its ranges, and how many of its photographs the metadata knows."""

    ranges: tuple[Range, ...]
    listed: int
    known: int


def read(folder: Path) -> Joined | None:
    """What was joined into this folder; None where that is not finished."""
    path = folder / _DONE
    if not path.is_file():
        return None
    found = read_json(path)
    ranges = [Range(row["name"], _rows(folder, row["name"]), row["sha256"], row["count"]) for row in found["ranges"]]
    return Joined(tuple(ranges), found["listed"], found["known"])


def join(
    listing: Path,
    described: Path,
    folder: Path,
    size: int,
    *,
    urls: bool,
    should_stop: Callable[[], bool],
    progress: Callable[[int, int, str], None],
) -> Joined:
    """Join a list with the metadata.

    Args:
        listing: OpenAI's list.
        described: the metadata, as text or as database.
        folder: is filled; what a killed attempt left in it is removed.
        size: photographs of a range.
        urls: write lists for a crawler, too.
        should_stop: asked some times a second.
        progress: gets metadata lines read, lines in all (about), and what is done.

    Raises:
        StateError: a file is damaged or no such file, a photograph is listed twice, or nothing matches.
        Interrupted: asked to stop; it starts again from the beginning.
    """
    spread = folder / ".spread"
    shutil.rmtree(spread, ignore_errors=True)
    spread.mkdir(parents=True)
    ids, places = _identifiers(listing)
    count = -(-len(ids) // size)
    width = -(-count // _SPREAD) * size
    known = _match(described, ids, places, spread, width, should_stop, progress)
    total = len(ids)
    del ids, places
    if not known:
        raise StateError("the metadata knows no photograph of the list", where=described.name)
    ranges = []
    stream = photos(listing)
    for number in range(count):
        if number * size % width == 0:
            matched = _in_order(spread / str(number * size // width))
        if should_stop():
            raise _stopped()
        entries = [
            Entry(photo, matched.pop(place, None)) for place, photo in enumerate(islice(stream, size), number * size)
        ]
        ranges.append(_write(folder, f"{number:05d}", entries, urls))
        progress(_LINES, _LINES, f"range {number + 1} of {count}")
    rows = [{"name": row.name, "sha256": row.sha256, "count": row.count} for row in ranges]
    shutil.rmtree(spread)
    write_json(folder / _DONE, {"ranges": rows, "listed": total, "known": known})
    return Joined(tuple(ranges), total, known)


def _identifiers(listing: Path) -> tuple[np.ndarray, np.ndarray]:
    """The list's identifiers, sorted, and the place in the list of each."""
    found = np.frombuffer(array("q", (photo.photo_id for photo in photos(listing))), dtype=np.int64)
    if not len(found):
        raise StateError("the list is empty", where=listing.name)
    places = np.argsort(found, kind="stable").astype(np.int32)
    ids = found[places]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise StateError("a photograph is on the list twice", where=listing.name, given=int(ids[twice[0]]))
    return ids, places


def _match(
    described: Path,
    ids: np.ndarray,
    places: np.ndarray,
    spread: Path,
    width: int,
    should_stop: Callable[[], bool],
    progress: Callable[[int, int, str], None],
) -> int:
    """Write the rows of listed photographs, with their places, to the files of `spread`; how many there are."""
    read_so_far = 0
    seen = np.zeros(len(ids), dtype=bool)
    with ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for found, rows in metadata.batches(described):
            if should_stop():
                raise _stopped()
            asked = np.array(found, dtype=np.int64)
            at = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
            for row in np.flatnonzero(ids[at] == asked).tolist():
                if seen[at[row]]:  # the first of a photograph's rows counts
                    continue
                seen[at[row]] = True
                place = int(places[at[row]])
                number = place // width
                if number not in files:
                    files[number] = stack.enter_context((spread / str(number)).open("wb"))
                about = metadata.about(rows[row])
                files[number].write(json.dumps([place, *asdict(about).values()]).encode() + b"\n")
            read_so_far += len(found)
            progress(read_so_far, max(_LINES, read_so_far), "metadata")
    return int(seen.sum())


def _in_order(path: Path) -> dict[int, About]:
    """Place -> metadata of one of the files; it is removed."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        found = {row[0]: About(*row[1:]) for row in map(json.loads, file)}
    path.unlink()
    return found


def _write(folder: Path, name: str, entries: Sequence[Entry], urls: bool) -> Range:
    content = b"".join(json.dumps(_plain(entry), ensure_ascii=False).encode() + b"\n" for entry in entries)
    path = _rows(folder, name)
    write_atomic(path, gzip.compress(content, 6, mtime=0))
    if urls:
        write_atomic(folder / "urls" / f"{name}.parquet", _urls(entries))
    return Range(name, path, hashlib.sha256(content).hexdigest(), len(entries))


def _urls(entries: Sequence[Entry]) -> bytes:
    """What a crawler is given: the address and identifier of each photograph."""
    import pyarrow as pa
    from pyarrow import parquet

    # Only the web's addresses: a crawler would read file:// from its own disk.
    found = ((entry.photo.photo_id, entry.about.url if entry.about else "") for entry in entries)
    rows = [(photo, url if url.startswith(("http://", "https://")) else "") for photo, url in found]
    table = pa.table({"photo_id": pa.array([row[0] for row in rows], pa.int64()), "url": [row[1] for row in rows]})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def _plain(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry.photo), "about": None if entry.about is None else list(asdict(entry.about).values())}


def _entry(row: dict[str, Any]) -> Entry:
    photo = Photo(row["line"], row["photo_id"], row["hash"])
    return Entry(photo, None if row["about"] is None else About(*row["about"]))


def _rows(folder: Path, name: str) -> Path:
    return folder / "rows" / f"{name}.jsonl.gz"


def _damaged(path: Path, why: object) -> StateError:
    folder = path.parents[1]
    return StateError(
        "the joined list is damaged", where=str(path), given=str(why), todo=f"remove {folder}; fetch again"
    )


def _stopped() -> Interrupted:
    return Interrupted("asked to stop while the list was joined with the metadata; that starts again")
