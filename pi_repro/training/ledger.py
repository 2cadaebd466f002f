"""One line an update: enough to prove a rerun equal, and to say where it stopped being so.

Rule: lines are appended as updates are done and cut back to a checkpoint on resume, so that the
finished file is the same whatever happened on the way. Bits are hex of float64, big-endian.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import canonical_json

CURVES = ("update", "epoch", "samples", "loss", "lr", "grad_norm", "logit_scale")


def bits(value: float) -> str:
    """Hex of a float64, big-endian."""
    return struct.pack(">d", value).hex()


def value(text: str) -> float:
    """The float64 of its `bits`."""
    return float(struct.unpack(">d", bytes.fromhex(text))[0])


class Ledger:
    """A ledger being written.

    Args:
        file: where; made where absent, else cut back to the mark.
        mark: the place to go on from, as `mark` gave it; the beginning when None.

    Raises:
        StateError: the file does not hold what was marked.
    """

    def __init__(self, file: Path, mark: Mapping[str, Any] | None = None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = b"" if mark is None else marked(file, mark)
        self._digest = hashlib.sha256(kept)
        self._size = len(kept)
        self._file = file.open("ab")
        self._file.truncate(self._size)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it survives this process once written, and a power cut once marked."""
        content = (canonical_json(line) + "\n").encode()
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def mark(self) -> dict[str, Any]:
        """Make all lines durable and name the place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def marked(file: Path, mark: Mapping[str, Any]) -> bytes:
    """The content of a ledger up to a mark.

    Raises:
        StateError: it is not what was marked.
    """
    content = file.read_bytes()[: int(mark["bytes"])] if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != mark["sha256"]:
        raise StateError("ledger is damaged: it differs from the one that was checkpointed", where=str(file))
    return content


def curves(ledger: Path, updates_per_epoch: int, samples_per_update: int, extra: int = 0) -> bytes:
    """A ledger as CSV for plots: floats by repr, an empty cell where the ledger has no such field.

    Args:
        ledger: the finished file.
        updates_per_epoch: so that the epoch of an update is a fraction, whole where an epoch ends.
        samples_per_update: to count samples seen.
        extra: updates before the first epoch begins to count; in them the epoch is below zero.
    """
    rows = [",".join(CURVES)]
    with ledger.open(encoding="utf-8") as file:
        for line in file:
            one = json.loads(line)
            update = one["update"]
            cells = (
                update,
                (update - extra) / updates_per_epoch,
                update * samples_per_update,
                one["loss"],
                one["lr"],
                value(one["grad_norm_bits"]),
                one.get("logit_scale", ""),
            )
            rows.append(",".join(cell if isinstance(cell, str) else repr(cell) for cell in cells))
    return ("\n".join(rows) + "\n").encode()
