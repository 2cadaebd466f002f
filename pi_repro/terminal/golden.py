"""A published row beside what was measured: one line a figure, then what it amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .show import console, line

if TYPE_CHECKING:
    from pi_repro.launch.published import Comparison


def show(found: Comparison, weights: str) -> bool:
    """Print it; True when every figure agrees.

    Args:
        weights: what was judged, as the user named it.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("set", "metric", "published", "measured", "points", ""):
        table.add_column(name, justify="right" if name in ("published", "measured", "points") else "left")
    for one in found.lines:
        measured = "undefined" if one.measured is None else f"{one.measured:.4f}"
        points = "" if one.difference_pp is None else f"{one.difference_pp:+.2f}"
        table.add_row(
            one.set, one.metric, f"{one.published:.4f}", measured, points, "agrees" if one.agrees else "DIFFERS"
        )
    line(f"against {found.row.weights}, {found.row.source}")
    if weights != found.row.weights:
        line(f"  judged was {weights}")
    console().print(table)
    if found.row.note:
        line(f"  {found.row.note}")
    if found.absent:
        line(f"  not in this suite: {', '.join(found.absent)}")
    differing = sum(not one.agrees for one in found.lines)
    verdict = "agree" if not differing else f"agree, {differing} DIFFER"
    line(f"{len(found.lines) - differing} of {len(found.lines)} figures {verdict} (within 0.1 points)")
    return found.agrees
