"""What the card of NIGHTS says of what was found: counts against those expected, categories, what was left out.

RULE: a difference from what was expected is recorded and warned of, never smoothed over; counts are of the triplets
that are in the shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pi_repro.spec.card import Card

from .settings import NightsSettings
from .table import Row, count

#: So many failures and categories stand in the card itself; all are in the files beside it.
_SHOWN = 20


def differences(rows: Sequence[Row], used: Sequence[Row], settings: NightsSettings) -> list[str]:
    """Where the counts differ from those that the card expects, in words."""
    found: dict[str, int] = {"rows": len(rows), **count(used)}
    expected = _expected(settings)
    names = {"rows": "rows of the table"}
    return [
        f"{names.get(what, f'triplets in {what}')}: {found[what]}, expected {number}"
        for what, number in expected.items()
        if found[what] != number
    ]


def categories(rows: Sequence[Row]) -> dict[str, dict[str, int | bool]]:
    """Category -> whether it comes from ImageNet, its triplets by split, and those of them that come from there.

    A name may be lent by several data sets ("orange" is a class of ImageNet and of CIFAR-100).
    """
    found: dict[str, dict[str, int | bool]] = {}
    for row in rows:
        entry = found.setdefault(row.category, {"is_imagenet": False, "imagenet": 0, "train": 0, "val": 0, "test": 0})
        entry["is_imagenet"] |= row.is_imagenet
        entry["imagenet"] += row.is_imagenet
        entry[row.split] += 1
    return dict(sorted(found.items()))


def record(
    card: Card,
    settings: NightsSettings,
    rows: Sequence[Row],
    used: Sequence[Row],
    failures: Sequence[tuple[str, str]],
    archives: Mapping[str, Mapping[str, Any]],
    sources: Sequence[Mapping[str, Any]],
    table_sha256: str,
) -> dict[str, Any]:
    """What card.json says.

    Args:
        card: the dataset's card.
        settings: its settings.
        rows: the whole table.
        used: the triplets in the shards.
        failures: (key, reason) of those left out although they have enough votes.
        archives: size and sha256 of every archive that the shards were made from.
        sources: records of their origins.
        table_sha256: of the table.
    """
    names = categories(used)
    imagenet = [name for name, entry in names.items() if entry["is_imagenet"]]
    warnings = [*card.warnings, *differences(rows, used, settings)]
    if failures:
        warnings.append(f"{len(failures)} triplets were left out: an image is missing or cannot be decoded")
    return {
        "card": card.model_dump(mode="json"),
        "count": len(used),
        "splits": count(used),
        "right": {split: sum(row.label for row in used if row.split == split) for split in ("train", "val", "test")},
        "table": {"sha256": table_sha256, "rows": len(rows), "below_min_votes": _below(rows, settings.min_votes)},
        "votes": {str(votes): number for votes, number in sorted(Counter(row.votes for row in rows).items())},
        "expected": _expected(settings),
        "differences": differences(rows, used, settings),
        "categories": {
            "notice": "Images were generated from these names, which are names of classes of benchmarks too. The "
            "images are synthetic; the categories are shared. All names and counts are in categories.json.",
            "sources": {name: list(sets) for name, sets in settings.category_sources.items()},
            "names": len(names),
            "names_of_imagenet": len(imagenet),
            "triplets_of_imagenet": sum(row.is_imagenet for row in used),
            "most": dict(Counter(row.category for row in used).most_common(_SHOWN)),
        },
        "sources": [dict(source) for source in sources],
        "archives": {name: dict(archive) for name, archive in sorted(archives.items())},
        "failures": [f"{key}: {reason}" for key, reason in failures[:_SHOWN]],
        "failures_count": len(failures),
        "warnings": warnings,
    }


def _expected(settings: NightsSettings) -> dict[str, int]:
    return {"rows": settings.rows, **{str(split): number for split, number in settings.splits.items()}}


def _below(rows: Sequence[Row], min_votes: int) -> int:
    return sum(row.votes < min_votes for row in rows)
