"""YFCC100M's metadata: what people wrote about a photograph, who made it, and under which licence it stands.

Rule: only columns that public sources name are read. The text file has 25 columns by tabs, the first three being those
of OpenAI's list (photo identifier second); the database's table `yfcc100m_dataset` names its own 23, which are the same
without line number and hash. Text is URL-encoded in both, with + for a space. The file is read once, from start to end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_plus

from pi_repro.errors import StateError

from .listing import lines

_TABLE = "yfcc100m_dataset"
#: The table's names of what is read, in the order of `About`'s fields, each with its place in both text forms.
_COLUMNS = {
    "photoid": (1, 0),
    "uid": (3, 1),
    "unickname": (4, 2),
    "title": (8, 6),
    "description": (9, 7),
    "pageurl": (15, 13),
    "downloadurl": (16, 14),
    "licensename": (17, 15),
    "licenseurl": (18, 16),
}
#: Number of columns -> which of the two places counts: the published text, or the database's table written as text.
_FORMS = {25: 0, 23: 1}
_SQLITE = b"SQLite format 3\x00"
_BATCH = 20_000


@dataclass(frozen=True)
class About:
    """A photograph's metadata, decoded; empty where there is nothing."""

    photo_id: int
    user: str
    photographer: str
    title: str
    description: str
    page: str
    url: str
    licence: str
    licence_url: str


def batches(path: Path) -> Iterator[tuple[list[int], list[object]]]:
    """Photo identifiers and raw rows (for `about`), some ten thousand at a time, in the file's order.

    Raises:
        StateError: it is none of the known forms, or damaged.
    """
    with path.open("rb") as file:
        database = file.read(len(_SQLITE)) == _SQLITE
    return _of_table(path) if database else _of_text(path)


def _of_text(path: Path) -> Iterator[tuple[list[int], list[object]]]:
    ids: list[int] = []
    rows: list[object] = []
    place: int | None = None
    for number, line in enumerate(lines(path), 1):
        if place is None:
            place = _COLUMNS["photoid"][_form(line, path.name, number)]
        # The whole line is split later, and for one photograph in seven only.
        fields = line.split(b"\t", place + 1)
        if len(fields) <= place + 1 or not fields[place].isdigit():
            _form(line, path.name, number)
            raise _no_row(path.name, number, line)
        ids.append(int(fields[place]))
        rows.append(line)
        if len(ids) == _BATCH:
            yield ids, rows
            ids, rows = [], []
    if ids:
        yield ids, rows


def _form(line: bytes, name: str, number: int) -> int:
    columns = line.count(b"\t") + 1
    if columns not in _FORMS:
        raise StateError(
            "not YFCC100M's metadata",
            where=f"{name}, line {number}",
            given=f"{columns} columns",
            allowed=f"text of 25 columns by tabs (yfcc100m_dataset), or the database {_TABLE}.sql",
        )
    return _FORMS[columns]


def _no_row(name: str, number: int, line: bytes) -> StateError:
    return StateError("not a line of YFCC100M's metadata", where=f"{name}, line {number}", given=repr(line[:120]))


def _of_table(path: Path) -> Iterator[tuple[list[int], list[object]]]:
    # Never written to, and nobody else does: no lock, no journal, also on a file system without locks.
    place = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(place, uri=True)) as database:
            database.text_factory = lambda text: text.decode("utf-8", "replace")
            cursor = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM {_TABLE}")  # noqa: S608 - constants
            while rows := cursor.fetchmany(_BATCH):
                yield [int(row[0]) for row in rows], list(rows)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise StateError(
            "not YFCC100M's database, or a damaged one",
            where=path.name,
            given=str(error),
            allowed=f"table {_TABLE} with columns {', '.join(_COLUMNS)}",
        ) from None


def about(row: object) -> About:
    """Decode a raw row.

    Raises:
        StateError: it has another number of columns than the file's form.
    """
    if isinstance(row, bytes):
        form = _form(row, "metadata", 0)
        fields = row.rstrip(b"\r\n").decode("utf-8", "replace").split("\t")
        raw = [fields[places[form]] for places in _COLUMNS.values()]
    elif isinstance(row, tuple):
        raw = ["" if value is None else str(value) for value in row]
    else:
        raise TypeError(type(row).__name__)
    photo_id, user, nickname, title, description, page, url, licence, licence_url = raw
    return About(
        int(photo_id),
        unquote_plus(user),
        unquote_plus(nickname),
        unquote_plus(title),
        unquote_plus(description),
        page,
        url,
        unquote_plus(licence),
        licence_url,
    )
