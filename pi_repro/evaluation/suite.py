"""A suite: a folder of zero-shot sets and the list that names them.

Rule: the list decides which sets there are and in which order; each set's folder is in clip_benchmark's
webdataset form, with our index beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.data.shards import Shards
from pi_repro.errors import StateError
from pi_repro.files import read_json

LIST = "suite.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class SetEntry:
    """One line of the list.

    Attributes:
        id: names the folder and the result files.
        folder: the set's folder.
        fields: all that the list says about it (title, task, family, classes, n, metric, disjoint, note).
    """

    id: str
    folder: Path
    fields: Mapping[str, Any]

    def open(self, data_root: Path | None = None) -> Shards:
        """Open the set and check every shard against the index.

        Raises:
            StateError: naming the index or shard that is missing or damaged, or when the set has no task here.
        """
        shards = Shards.open(self.folder, data_root)
        if shards.kind not in ("classification", "retrieval") or shards.count == 0:
            raise StateError(
                "set can't be judged",
                where=str(self.folder),
                given=f"{shards.kind}, {shards.count} samples",
                allowed="a classification or retrieval set with samples",
            )
        shards.verify()
        return shards


def read_suite(folder: Path) -> tuple[SetEntry, ...]:
    """The sets of a suite, in the list's order.

    Raises:
        StateError: when the list is missing, damaged or names a set twice or by an unusable id.
    """
    where = str(folder / LIST)
    content = read_json(folder / LIST)
    sets = content.get("sets") if isinstance(content, dict) else None
    if not isinstance(sets, list) or not sets or not all(isinstance(one, dict) for one in sets):
        raise StateError("a suite lists its sets", where=where, allowed='{"sets": [{"id": ...}, ...]}')
    ids = [str(one.get("id")) for one in sets]
    for name in ids:
        if not _ID.fullmatch(name) or name.startswith("2afc-"):
            raise StateError(
                "set id is unusable",
                where=where,
                given=name,
                allowed="letters, digits, . _ -, parts joined by /, not starting with 2afc-",
            )
    if len(set(ids)) != len(ids):
        raise StateError("a set is listed twice", where=where, given=sorted({i for i in ids if ids.count(i) > 1}))
    return tuple(SetEntry(id=name, folder=folder / name, fields=one) for name, one in zip(ids, sets, strict=True))
