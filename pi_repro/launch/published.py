"""A published row of results, and whether a checkpoint gives the same.

Rule: only what the row holds is compared; a figure agrees when it is within TOLERANCE_PP percentage points, since
others round, batch and sometimes compute in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json

#: percentage points
TOLERANCE_PP = 0.1
#: What a sum of rounding errors of two decimals may be, in percentage points.
_ROUNDING_PP = 1e-6
_FIELDS = {"weights", "source", "note", "results"}


@dataclass(frozen=True)
class Row:
    """What somebody published of one checkpoint.

    Attributes:
        weights: the checkpoint, as `pirepro evaluate --weights` takes it.
        source: where it was read.
        note: what a reader should know.
        results: set -> metric -> value, 0 to 1.
    """

    weights: str
    source: str
    note: str
    results: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Line:
    """One figure: published and measured (None where it is undefined), 0 to 1."""

    set: str
    metric: str
    published: float
    measured: float | None

    @property
    def difference_pp(self) -> float | None:
        """Measured minus published, in percentage points."""
        return None if self.measured is None else 100 * (self.measured - self.published)

    @property
    def agrees(self) -> bool:
        """Within the tolerance."""
        found = self.difference_pp
        return found is not None and abs(found) <= TOLERANCE_PP + _ROUNDING_PP


@dataclass(frozen=True)
class Comparison:
    """A row held against results; `absent` are its sets that the suite does not hold."""

    row: Row
    lines: tuple[Line, ...]
    absent: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every figure does."""
        return all(line.agrees for line in self.lines)


def read_row(path: Path) -> Row:
    """Read a row's file.

    Raises:
        RequestError: there is none, or it is no such row.
    """
    if not path.is_file():
        raise RequestError("no such file", where="--against", given=path, allowed="a row, as in specs/published/")
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.keys() != _FIELDS:
            raise ValueError(f"fields {', '.join(sorted(content))}")
        results = {
            name: {metric: _share(value) for metric, value in metrics.items()}
            for name, metrics in content["results"].items()
        }
        if not results or not all(results.values()):
            raise ValueError("no results")
    except (StateError, ValueError, TypeError, AttributeError) as error:
        allowed = "weights, source, note, results: {set: {metric: 0 to 1}}"
        # The text of an error of ours has a given of its own.
        given = f"{error.problem}: {error.given}" if isinstance(error, StateError) else str(error)
        raise RequestError("no published row", where=str(path), given=given[:300], allowed=allowed) from None
    return Row(str(content["weights"]), str(content["source"]), str(content["note"]), results)


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share between 0 and 1")
    return float(value)


def sets_of(row: Row, offered: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The row's sets that a suite holds, in the suite's order.

    Raises:
        RequestError: it holds none of them.
    """
    found = tuple(name for name in offered if name in row.results)
    if not found:
        raise RequestError(
            "the suite holds no set of the published row",
            where=where,
            given=", ".join(offered[:40]),
            allowed=", ".join(row.results),
        )
    return found


def compare(row: Row, results: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Hold a row against results by set.

    Raises:
        RequestError: the row has a figure that is not measured here.
    """
    lines = []
    for name, metrics in row.results.items():
        for metric, value in metrics.items() if name in results else ():
            measured = results[name]["metrics"]
            if metric not in measured:
                raise RequestError("no such metric", where=name, given=metric, allowed=", ".join(measured))
            lines.append(Line(name, metric, value, measured[metric]))
    return Comparison(row, tuple(lines), tuple(name for name in row.results if name not in results))
