"""OpenAI's list: one photograph a line, as (line of YFCC100M's metadata, photo identifier, photo hash).

Rule: a line that is not that is refused by number; nothing is skipped.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError

#: The hash names the file in the bucket: hexadecimal, and shorter where a byte's leading zero was left out.
_HASH = re.compile(rb"[0-9a-f]{16,32}")
_BZIP2 = b"BZh"


@dataclass(frozen=True)
class Photo:
    """A line of the list."""

    line: int
    photo_id: int
    hash: str

    @property
    def file(self) -> str:
        """Its file in the bucket: abc/def/<hash>.jpg."""
        return f"{self.hash[:3]}/{self.hash[3:6]}/{self.hash}.jpg"


def photos(path: Path) -> Iterator[Photo]:
    """The list in its order, packed with bzip2 or not.

    Raises:
        StateError: a line is not of the list's form, or the file ends too early.
    """
    for number, line in enumerate(lines(path), 1):
        fields = line.rstrip(b"\r\n").split(b"\t")
        whole = len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit() and len(fields[1]) < 19
        if not whole or not _HASH.fullmatch(fields[2]):
            raise StateError(
                "not a line of OpenAI's list",
                where=f"{path.name}, line {number}",
                given=repr(line[:120]),
                allowed="line number, photo identifier and photo hash, by tabs",
            )
        yield Photo(int(fields[0]), int(fields[1]), fields[2].decode())


def lines(path: Path) -> Iterator[bytes]:
    """Lines of a text file, packed with bzip2 or not.

    Raises:
        StateError: a packed file is damaged or ends too early.
    """
    with path.open("rb") as raw:
        packed = raw.read(3) == _BZIP2
        raw.seek(0)
        if not packed:
            yield from raw
            return
        try:
            with bz2.open(raw) as file:
                yield from file
        except (EOFError, OSError) as error:
            raise StateError("a packed file is damaged or ends too early", where=path.name, given=str(error)) from None
