"""Results on disk: one JSON and one items file a set.

Rule: a result is a function of weights, data and settings alone, and counts as finished only while both
its files have the checksums that its seal records.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from pi_repro.errors import StateError
from pi_repro.files import read_json, sha256_file, write_atomic, write_json


@dataclass(frozen=True)
class Result:
    """What judging a model on one set gave.

    Attributes:
        id: the set's id, and the files' name.
        record: metrics and all that they depend on; JSON values only.
        items: per-item arrays from which the metrics follow.
    """

    id: str
    record: Mapping[str, Any]
    items: Mapping[str, NDArray[Any]]

    def noting(self, **more: object) -> Result:
        """The same result with more in its record."""
        return replace(self, record={**self.record, **more})


def write(result: Result, folder: Path) -> None:
    """Write a result and, last, its seal."""
    items = {name: np.ascontiguousarray(array) for name, array in result.items.items()}
    write_atomic(_items(folder, result.id), save(items))
    write_json(_record(folder, result.id), result.record)
    write_json(_seal(folder, result.id), _sums(folder, result.id))


def is_sealed(folder: Path, name: str) -> bool:
    """Whether both files are there and as they were written."""
    try:
        return bool(read_json(_seal(folder, name)) == _sums(folder, name))
    except (StateError, OSError):
        return False


def publish(name: str, source: Path, target: Path) -> None:
    """Copy a finished result, without its seal."""
    for place in (_items, _record):
        copy = place(target, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place(source, name), copy)


def _record(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _items(folder: Path, name: str) -> Path:
    return folder / f"{name}.items.safetensors"


def _seal(folder: Path, name: str) -> Path:
    return folder / f"{name}.seal"


def _sums(folder: Path, name: str) -> dict[str, str]:
    return {place.name: sha256_file(place) for place in (_items(folder, name), _record(folder, name))}
