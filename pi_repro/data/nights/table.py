"""The table of NIGHTS, data.csv: which images make a triplet, which side people chose, how sure they were.

RULE: columns are found by name and everything is taken as the table says it. Paths are never rebuilt from the id:
which file is left and which right was drawn for each triplet. `votes` counts judgements and is no label.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pi_repro.data.triplets import SPLITS
from pi_repro.errors import StateError

COLUMNS = ("id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split",
           "is_imagenet", "prompt")  # fmt: skip
#: Made from "An image of a <category>".
_PROMPT = re.compile(r"an image of an? (.+)", re.IGNORECASE | re.DOTALL)
#: Plain relative paths of PNG files; whatever the archive holds under another name is never asked for.
_PATH = re.compile(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9_. -]+(/[A-Za-z0-9_. -]+)+\.png", re.ASCII)
_VOTES_LIMIT = 255


@dataclass(frozen=True)
class Row:
    """One triplet.

    Attributes:
        id: as the table numbers it; not every number exists.
        label: 1 where people chose the right image, else 0.
        votes: unanimous judgements.
        ref, left, right: paths below the data set's folder.
        split: train, val or test.
        is_imagenet: the category comes from ImageNet.
        prompt: what the images were generated from.
    """

    id: int
    label: int
    votes: int
    ref: str
    left: str
    right: str
    split: str
    is_imagenet: bool
    prompt: str

    @property
    def key(self) -> str:
        """Its key in a shard."""
        return f"{self.id:06d}"

    @property
    def category(self) -> str:
        """The prompt without "An image of a"."""
        found = _PROMPT.fullmatch(self.prompt.strip())
        return found[1].strip() if found else self.prompt.strip()


def read_table(content: bytes, where: str) -> tuple[Row, ...]:
    """All rows of a table, in its order.

    Args:
        content: data.csv.
        where: its name, for messages.

    Raises:
        StateError: a column is missing or there twice, or a row says what it cannot mean; names line and column.
    """
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        head = next(reader, [])
        place = {name: head.index(name) for name in COLUMNS if head.count(name) == 1}
        if missing := [name for name in COLUMNS if name not in place]:
            raise StateError(
                "the table lacks columns, or has one twice",
                where=where,
                given=", ".join(head)[:300],
                allowed=f"each of these once: {', '.join(COLUMNS)}",
                todo=f"look for {', '.join(missing)}",
            )
        rows = []
        for cells in reader:
            line = f"{where}, line {reader.line_num}"
            if len(cells) != len(head):
                raise StateError("the row has another number of cells than the head", where=line, given=len(cells))
            rows.append(_row({name: cells[number].strip() for name, number in place.items()}, line))
    except (UnicodeDecodeError, csv.Error) as error:
        raise StateError("the table is damaged", where=where, given=str(error)) from None
    repeated = [number for number, times in Counter(row.id for row in rows).items() if times > 1]
    if repeated or not rows:
        problem = "ids are there twice" if repeated else "the table has no rows"
        raise StateError(problem, where=where, given=sorted(repeated)[:10] or None)
    return tuple(rows)


def kept(rows: Iterable[Row], min_votes: int) -> tuple[Row, ...]:
    """Rows with enough votes, in the order of the shards: by path of the reference, whatever their split.

    So images of one shard lie near each other in the archives, and no split decides where a triplet is stored.
    """
    return tuple(sorted((row for row in rows if row.votes >= min_votes), key=lambda row: (row.ref, row.id)))


def count(rows: Sequence[Row]) -> dict[str, int]:
    """Triplets by split: train, val, test, and the two halves of test."""
    found = dict.fromkeys((*SPLITS, "test_imagenet", "test_no_imagenet"), 0)
    for row in rows:
        found[row.split] += 1
        if row.split == "test":
            found["test_imagenet" if row.is_imagenet else "test_no_imagenet"] += 1
    return found


def _row(cells: dict[str, str], line: str) -> Row:
    left, right = (_number(cells, name, line, 1) for name in ("left_vote", "right_vote"))
    if left + right != 1:
        raise StateError(
            "the votes are not complementary",
            where=line,
            given=f"left_vote {left}, right_vote {right}",
            allowed="one 1",
        )
    paths = {name: _path(cells, f"{name}_path", line) for name in ("ref", "left", "right")}
    if len(set(paths.values())) != len(paths):
        raise StateError("two images of the triplet are one file", where=line, given=", ".join(paths.values()))
    if cells["split"] not in SPLITS:
        raise StateError("no such split", where=f"{line}, split", given=cells["split"], allowed=", ".join(SPLITS))
    imagenet = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        cells["is_imagenet"].lower()
    )
    if imagenet is None:
        raise StateError("not a truth value", where=f"{line}, is_imagenet", given=cells["is_imagenet"])
    return Row(
        id=_number(cells, "id", line, 999_999),
        label=right,
        votes=_number(cells, "votes", line, _VOTES_LIMIT),
        split=cells["split"],
        is_imagenet=imagenet,
        prompt=cells["prompt"],
        **paths,
    )


def _number(cells: dict[str, str], name: str, line: str, limit: int) -> int:
    # A column that once held a gap is written with ".0" by pandas.
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not (0 <= value <= limit and value == int(value)):
        allowed = f"a whole number, 0 to {limit}"
        raise StateError("not such a number", where=f"{line}, {name}", given=cells[name][:100], allowed=allowed)
    return int(value)


def _path(cells: dict[str, str], name: str, line: str) -> str:
    path = cells[name]
    if not _PATH.fullmatch(path):
        allowed = "a relative path of a PNG file without '..', such as ref/000/006.png"
        raise StateError("path is refused", where=f"{line}, {name}", given=ascii(path)[:200], allowed=allowed)
    return path
