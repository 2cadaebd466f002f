"""How far a running job is: a small file that the job rewrites and whoever waits reads."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

FILE = "progress.json"


@dataclass(frozen=True)
class State:
    """One reading: `done` of `total` units, units a second since the job's first call."""

    done: int
    total: int
    unit: str
    note: str
    rate: float

    @property
    def eta_s(self) -> float | None:
        """Seconds left, or None before a rate is known."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


class Writer:
    """The job's side. Writes at most twice a second; never fsyncs, since losing it costs nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._written = 0.0
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, unit: str, note: str = "") -> None:
        now = time.monotonic()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        if now - self._written < 0.5 and done < total:
            return
        self._written = now
        spent = now - self._start[0]
        rate = (done - self._start[1]) / spent if spent > 0 else 0.0
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"done": done, "total": total, "unit": unit, "note": note, "rate": rate}))
        os.replace(temporary, self._path)


def read(folder: Path) -> State | None:
    """The last reading of a job, or None before its first."""
    try:
        return State(**json.loads((folder / FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
