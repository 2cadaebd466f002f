"""Arms a few at a time: a printed figure can't be switched, and more arms than colours can't be told apart.

Rule: every group has the baseline, so that all figures show what they are compared with; no number changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from .charts import Chart
from .findings import Findings, Row
from .results import Results

#: Arms of a figure, the baseline with them.
MOST = 6

_T = TypeVar("_T")


def groups(arms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The first arm with the next few, then with the next, until all had their turn; about as many in each."""
    baseline, *others = arms
    turns = max(1, -(-len(others) // (MOST - 1)))
    size = -(-len(others) // turns)
    for start in range(0, max(1, len(others)), max(1, size)):
        yield (baseline, *others[start : start + size])


def only(results: Results, findings: Findings, arms: Sequence[str]) -> tuple[Results, Findings]:
    """The same results and findings with some arms alone, the baseline among them."""
    fewer = copy.copy(results)
    fewer.arms = {name: arm for name, arm in results.arms.items() if name in arms}

    def kept(mapping: Mapping[str, _T]) -> dict[str, _T]:
        return {name: value for name, value in mapping.items() if name in arms}

    def row(one: Row) -> Row:
        return replace(
            one,
            arms=kept(one.arms),
            seeds=kept(one.seeds),
            differences=kept(one.differences),
            at_chance=tuple(name for name in one.at_chance if name in arms),
        )

    def chart(one: Chart) -> Chart:
        return replace(one, curves=kept(one.curves), fits=kept(one.fits))

    shown = replace(
        findings,
        rows=tuple(row(one) for one in findings.rows),
        families=tuple(row(one) for one in findings.families),
        wins=kept(findings.wins),
        charts=tuple(chart(one) for one in findings.charts),
        headline_chart=chart(findings.headline_chart),
        emergence=kept(findings.emergence),
        choices=tuple(
            replace(one, courses=kept(one.courses), raised=kept(one.raised), kept=kept(one.kept))
            for one in findings.choices
        ),
        headline=row(findings.headline),
        multiples=kept(findings.multiples),
    )
    return fewer, shown
