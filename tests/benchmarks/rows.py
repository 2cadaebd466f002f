"""What a benchmark says: one row a comparison."""

from __future__ import annotations

from typing import Literal, TypedDict


class Row(TypedDict):
    """One comparison.

    Attributes:
        what: what was measured, in words.
        ours: our figure; None where not measured.
        theirs: the other's figure; None where not measured.
        ratio: how many times as good we are, from one run side by side; above 1 is better than they.
        unit: of the figures.
        target: what was promised for the ratio, or ours; empty where nothing was.
    """

    what: str
    ours: float | None
    theirs: float | None
    ratio: float | None
    unit: str
    target: str


def row(
    what: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    target: str = "",
    *,
    better: Literal["less", "more"] = "less",
    ratio: float | None = None,
) -> Row:
    """A row; its ratio is computed from the figures where it is not given."""
    if ratio is None and ours and theirs:
        ratio = theirs / ours if better == "less" else ours / theirs
    return Row(what=what, ours=ours, theirs=theirs, ratio=ratio, unit=unit, target=target)
