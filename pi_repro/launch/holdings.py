"""What of a dataset this machine has: its index in the workspace, its shards in the data root, copies a person brought.

Rule: looks at names and sizes only; whether the bytes are right is for the reader of the shards to say.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pi_repro.spec import supplied
from pi_repro.spec.card import Card, Source


def index_of(card: Card, workspace: Path) -> Path:
    """The file that a fetched dataset or suite has in the workspace."""
    return workspace / "data" / card.name / ("suite.json" if card.kind == "suite" else "index.json")


def is_here(card: Card, workspace: Path, data_root: Path | None) -> bool:
    """Fetched: the workspace has its index, and the data root its shards where they belong there."""
    if not index_of(card, workspace).is_file():
        return False
    return card.location == "workspace" or ((found := home(card, workspace, data_root)) is not None and found.is_dir())


def home(card: Card, workspace: Path, data_root: Path | None) -> Path | None:
    """Where the shards of a card lie, or will: two datasets may share them. None without a data root."""
    if card.location == "workspace":
        return workspace / "data" / card.name
    if data_root is None:
        return None
    try:
        name = json.loads(index_of(card, workspace).read_text(encoding="utf-8")).get("home", card.name)
    except (OSError, ValueError, AttributeError):
        name = card.name
    return data_root / str(name)


def is_brought(card: Card, source: Source, data_root: Path | None) -> bool:
    """A gated source can be had once a person put its folder into the data root, says where a copy is, or says that
    its terms are accepted."""
    sets = [entry.id for entry in card.sets if entry.source == source.name]
    names = {source.name, *sets}
    if source.name in supplied.accepted() or {source.name, card.name} & supplied.copies().keys():
        return True
    return data_root is not None and any((data_root / card.name / n).is_dir() for n in names)


def is_wanted(card: Card, source: Source) -> bool:
    """Whether a fetch would ask for a source: not where all of its sets are left out."""
    sets = {entry.id for entry in card.sets if entry.source == source.name}
    return not sets or not sets <= set(card.settings.get("skip") or ())


def used(folder: Path) -> int:
    """Bytes of the files below a folder."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(root, name)).st_size
    return size
