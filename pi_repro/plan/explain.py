"""Why a stage would run: the fields that differ from what was recorded, old and new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MISSING = "(absent)"


@dataclass(frozen=True)
class Change:
    """One field that differs."""

    field: str
    old: Any
    new: Any


def changes(old: Any, new: Any, field: str = "") -> list[Change]:
    """Every leaf that differs between two plain values, by its dotted path, sorted."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            path = f"{field}.{key}" if field else key
            found += changes(old.get(key, _MISSING), new.get(key, _MISSING), path)
        return found
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        if len(old) != len(new) or not any(isinstance(item, Mapping) for item in [*old, *new]):
            return [] if list(old) == list(new) else [Change(field, list(old), list(new))]
        return [
            change
            for number, (one, two) in enumerate(zip(old, new, strict=True))
            for change in changes(one, two, f"{field}[{number}]")
        ]
    return [] if old == new and type(old) is type(new) else [Change(field, old, new)]
