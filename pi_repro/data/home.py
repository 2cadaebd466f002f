"""Where a dataset's shards lie while they are made and when they are used.

Rule: the folder's name tells what decides the shards' bytes, so shards made in another way lie elsewhere and
nothing is overwritten. Large sets stay in the site's data root; the others become outputs of the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pi_repro.errors import StateError
from pi_repro.files import digest_of
from pi_repro.spec.card import Card

_DIGITS = 12


class Place(Protocol):
    """What is asked of a stage; `pi_repro.stages.context.StageContext` is one."""

    @property
    def scratch(self) -> Path: ...
    @property
    def data_root(self) -> Path | None: ...


def identity_of(decides: Mapping[str, Any]) -> str:
    """Hex sha256 of what decides the bytes of the shards, as canonical JSON."""
    return digest_of(decides)


def home_name(card: Card, identity: str, *, dataset: str | None = None) -> str | None:
    """Folder of the shards below the data root, "yfcc15m/0123456789ab", for an index's `home`.

    Args:
        card: the dataset's card.
        identity: see `identity_of`.
        dataset: the dataset whose shards they are, where it is another one (a view); None: the card's own name.

    Returns:
        None where the shards are outputs of the stage (location workspace).
    """
    return None if card.location == "workspace" else f"{dataset or card.name}/{identity[:_DIGITS]}"


def home(card: Card, context: Place, identity: str, *, dataset: str | None = None) -> Path:
    """Folder in which the shards are made, arguments as for `home_name`.

    For a workspace it lies in the stage's scratch, which survives a kill; `assembly` links the shards to the outputs.

    Raises:
        StateError: the shards belong in the data root and there is none.
    """
    name = home_name(card, identity, dataset=dataset)
    if name is None:
        return context.scratch / "shards" / identity[:_DIGITS]
    if context.data_root is None:
        raise StateError(
            "no data root is configured, and this dataset's shards belong there",
            where=f"card {card.name}",
            given=f"about {card.disk_bytes / 1e9:,.0f} GB",
            todo="export PIREPRO_DATA_ROOT=/large/disk, or name data_root in a site file",
        )
    return Path(context.data_root) / name
