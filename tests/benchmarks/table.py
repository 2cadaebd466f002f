"""Rows as a table in README and as a file.

Rule: the table is written from rows that were measured, between two marks, and by nobody's hand. A benchmark
that did not run this time keeps its rows in benchmarks.json, with the day and machine that they are from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pi_repro.files import write_atomic, write_json
from pi_repro.provenance.capture import cpu_model

from .rows import Row

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
_HEAD = "| measured side by side | ours | theirs | ratio | target |\n|---|---:|---:|---:|---|"

_READ = (
    "A ratio above 1 says how many times as good ours is: the median of the ratios of turns taken side by side in one",
    "run. The figures beside it are medians of their own, so it is not their quotient.",
)

#: Name of a benchmark -> {"measured": when and where, "rows": its rows}.
Results = dict[str, dict[str, Any]]


def text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The block with its marks."""
    lines = [BEGIN, _HEAD]
    for each in results.values():
        lines += [_line(row) for row in each["rows"]]
    lines += ["", *_READ]
    for places, names in _grouped(results).items():
        lines.append(f"{', '.join(names).capitalize()}: {places}.")
    return "\n".join([*lines, END])


def _grouped(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, each in results.items():
        found.setdefault(each["measured"], []).append(name)
    return found


def _line(row: Row) -> str:
    ratio = "" if row["ratio"] is None else f"**{row['ratio']:.2f}x**"
    ours, theirs = (_figure(row[side], row["unit"]) for side in ("ours", "theirs"))
    return f"| {row['what']} | {ours} | {theirs} | {ratio} | {row['target']} |"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 1000 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def now(used: int) -> str:
    """When and where, for a reader: day, processor, number of cores used, device."""
    return f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {used} of {os.cpu_count()} cores{_gpu()}"


def _gpu() -> str:
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def update(file: Path, found: Results, order: Sequence[str]) -> Results:
    """Put new results among those of the file; gives all, in this order."""
    old: Results = json.loads(file.read_text()) if file.is_file() else {}
    new = old | found
    results = {name: new[name] for name in order if name in new}
    write_json(file, results)
    return results


def place(readme: Path, results: Results) -> None:
    """Write the block between README's marks.

    Raises:
        ValueError: it has no marks.
    """
    content = readme.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme.name} has no {BEGIN} ... {END}")
    write_atomic(readme, (before + text(results) + after).encode())
