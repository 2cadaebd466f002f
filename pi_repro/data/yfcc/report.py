"""What a fetch says of the pairs: counts, kinds of rows, and decoded samples for whoever must name the captions' kind.

Rule: samples are drawn by a hash of their keys, so they are the same whoever looks; lists that may be long stand in
files of their own beside card.json.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi_repro.data.parts import Part
from pi_repro.data.view import Chosen, keyed, lowest
from pi_repro.files import write_atomic, write_json

from . import tokens
from .settings import YfccSettings

SAMPLES = 100
#: Failures listed in card.json itself; all are in failures.tsv.
_SHOWN = 20


def counts(parts: Sequence[Part], settings: YfccSettings) -> dict[str, Any]:
    """What the parts were found to hold, before any view: rows, failures, ids a row, captions."""
    rows = sum(part.about["rows"] for part in parts)
    failures = [(part.about["source"]["name"], *failure) for part in parts for failure in part.failures]
    widths: Counter[str] = Counter()
    for part in parts:
        widths.update(part.about["ids_per_row"])
    return {
        "rows": rows,
        "failures": {
            "count": len(failures),
            "share": round(len(failures) / rows, 6) if rows else 0.0,
            "reasons": dict(Counter(reason.partition(":")[0] for _, _, reason in failures)),
            "first": [{"file": file, "key": key, "reason": reason} for file, key, reason in failures[:_SHOWN]],
        },
        "captions": {
            "kind": settings.captions,
            "tokenizer": tokens.NAME,
            "context": settings.context,
            "segment": settings.segment,
            "ids_per_row": dict(widths),
            "empty": sum(part.about["empty"] for part in parts),
            "completed_by_a_sign": sum(part.about["completed"] for part in parts),
            "not_the_same_ids_again": sum(len(part.about["inexact"]) for part in parts),
        },
    }


def write_lists(parts: Sequence[Part], folder: Path) -> None:
    """failures.tsv (file, key, reason) and captions_inexact.txt (keys), each where there is one."""
    failures = [f"{part.about['source']['name']}\t{key}\t{reason}\n" for part in parts for key, reason in part.failures]
    inexact = [f"{key}\n" for part in parts for key in part.about["inexact"]]
    for name, lines in (("failures.tsv", failures), ("captions_inexact.txt", inexact)):
        if lines:
            write_atomic(folder / name, "".join(lines).encode())


def write_samples(parts: Sequence[Part], chosen: Chosen, settings: YfccSettings, folder: Path) -> None:
    """samples.json: a hundred rows of the dataset with their caption, and all that their ids say."""

    def draws() -> Any:
        return (keyed(part.keys(), "caption sample", 0) for part in parts)

    reader = tokens.reader(settings.context, settings.segment)
    samples = []
    for part, mask in zip(parts, lowest(draws, SAMPLES, chosen.keep), strict=True):
        if not mask.any():
            continue
        keys, rows = part.keys(), part.rows()
        for row in np.flatnonzero(mask):
            about = json.loads(_member(part, rows, "json", int(row)))
            ids = np.array(about["ids"] + [0] * (about["width"] - len(about["ids"])), np.int64)
            samples.append(
                {
                    "key": keys[row],
                    "caption": _member(part, rows, "text", int(row)).decode(),
                    "ids_in_row": about["width"],
                    "ids": about["ids"],
                    "segments": reader.segments(ids),
                }
            )
    write_json(folder / "samples.json", samples)


def _member(part: Part, rows: dict[str, np.ndarray], member: str, row: int) -> bytes:
    tar = part.tars[int(rows["shard"][row])]
    with (part.home / tar.name).open("rb") as file:
        return os.pread(file.fileno(), int(rows[f"{member}.size"][row]), int(rows[f"{member}.offset"][row]))
