"""Which distortion cells may stand in a triplet: those whose human order survives the move to small vector art.

RULE: people judged photographs, so a cell is used only where this art at this size gives no reason to doubt it:
    1. it changes the picture visibly (root mean square error of at least `change` grey levels, on average);
    2. strength is monotone: within its type the error rises from each kept level to the next;
    3. SSIMULACRA2, a metric tuned on human judgements, orders it against the cells of other types as people
       ordered them in KADID-10k, in at least `agreement` of the comparisons that people decided.
Where any of the three fails the cell is left out, and the card says which one.

SSIMULACRA2 looks at six scales and is defined for pictures of 256 pixels or more: a stimulus is enlarged by
whole factors (each pixel a square) before it is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ssimulacra2 import ssimulacra2 as metric

from .distortions import Pixels, distort
from .kadid import Order, cell_index
from .levels import NUMBERS, rising

#: Pixels a side at which SSIMULACRA2 is computed.
JUDGED_AT = 256


@dataclass(frozen=True, order=True)
class Cell:
    """A distortion type at a level from 1 to 5."""

    kind: str
    level: int

    @property
    def index(self) -> int:
        """Place in `kadid.Order`."""
        return cell_index(NUMBERS[self.kind], self.level)

    @property
    def name(self) -> str:
        """For example "jpeg-4"."""
        return f"{self.kind}-{self.level}"


@dataclass(frozen=True)
class Verdict:
    """What the check found out about a cell.

    Attributes:
        cell: the cell.
        human: mean score of people on KADID-10k's photographs, 1 to 5.
        error: root mean square error to the reference in grey levels, root of the mean over the sample.
        ssimulacra2: mean over the sample; 100 is identical; None where the first two rules already failed.
        agreement: share of comparisons in which SSIMULACRA2 orders it as people did; None if never compared.
        reason: why it is left out; empty for a cell that is kept.
    """

    cell: Cell
    human: float
    error: float
    ssimulacra2: float | None
    agreement: float | None
    reason: str

    def record(self) -> dict[str, object]:
        """The row of the card's table; digits that no CPU's rounding can alter."""
        return {
            "type": self.cell.kind,
            "level": self.cell.level,
            "human_score": round(self.human, 2),
            "error": round(self.error, 1),
            "ssimulacra2": None if self.ssimulacra2 is None else round(self.ssimulacra2, 1),
            "agreement": None if self.agreement is None else round(self.agreement, 2),
            "kept": not self.reason,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Thresholds:
    """Limits of the check: see the module's rule."""

    change: float
    agreement: float


def shrink(pixels: Pixels, size: int) -> Pixels:
    """Box filter from the canvas to the stimulus, uint8 [size, size, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))


def error(first: Pixels, second: Pixels) -> float:
    """Root mean square difference in grey levels, 0 to 255; exact integers until the root."""
    difference = first.astype(np.int64) - second.astype(np.int64)
    return math.sqrt(int((difference * difference).sum()) / difference.size)


class Judge:
    """SSIMULACRA2 of many pictures against one reference, whose part is computed once.

    Gives the numbers of the package's own function, which reads two files anew for each comparison.
    """

    def __init__(self, reference: Pixels) -> None:
        self._scales = [
            (planes, metric.blur_image(planes), metric.blur_image(planes * planes)) for planes in _planes(reference)
        ]

    def score(self, distorted: Pixels) -> float:
        """100 for an identical picture, lower for worse, below zero for very bad."""
        result = metric.Msssim()
        for (left, mean_left, square_left), right in zip(self._scales, _planes(distorted), strict=True):
            scale = metric.MsssimScale()
            mean_right = metric.blur_image(right)
            square_right, product = metric.blur_image(right * right), metric.blur_image(left * right)
            scale.avg_ssim = metric.ssim_map(mean_left, mean_right, square_left, square_right, product)
            scale.avg_edgediff = metric.edge_diff_map(left, mean_left, right, mean_right)
            result.scales.append(scale)
        return float(result.score())


def _planes(pixels: Pixels) -> list[NDArray[np.float64]]:
    factor = JUDGED_AT // pixels.shape[0]
    linear = metric.srgb_to_linear(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    found = []
    for _ in range(metric.kNumScales):
        found.append(metric.make_positive_xyb(metric.linear_rgb_to_xyb(linear)))
        linear = metric.downsample(linear, 2, 2)
    return found


def check(
    references: Sequence[Pixels],
    size: int,
    order: Order,
    thresholds: Thresholds,
    kinds: Sequence[str],
    tick: Callable[[int, int], None],
) -> list[Verdict]:
    """Judge every cell of some types on a few references.

    Args:
        references: pictures on the canvas, uint8 [C, C, 3].
        size: pixels a side of the stimulus.
        order: what people said.
        thresholds: the limits.
        kinds: types to judge.
        tick: told (done, total) once a cell and reference.
    """
    cells = [Cell(kind, level) for kind in kinds for level in range(1, 6)]
    stimuli = [
        [shrink(distort(reference, cell.kind, cell.level, "check", number), size) for cell in cells]
        for number, reference in enumerate(references)
    ]
    small = [shrink(reference, size) for reference in references]
    errors = np.array([[error(a, b) for b in row] for a, row in zip(small, stimuli, strict=True)])
    scores = np.full(errors.shape, np.nan)
    # a cell that changes nothing needs no metric to be left out
    judged = [column for column, reason in enumerate(_reasons(cells, _mean(errors), thresholds.change)) if not reason]
    for number, row in enumerate(stimuli):
        judge = Judge(small[number])
        for done, column in enumerate(judged):
            tick(number * len(judged) + done, len(stimuli) * len(judged))
            scores[number, column] = judge.score(row[column])
    return verdicts(cells, errors, scores, order, thresholds)


def _mean(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the mean square over references, float64 [cells]."""
    mean: NDArray[np.float64] = np.sqrt((errors**2).mean(axis=0))
    return mean


def verdicts(
    cells: Sequence[Cell],
    errors: NDArray[np.float64],
    scores: NDArray[np.float64],
    order: Order,
    thresholds: Thresholds,
) -> list[Verdict]:
    """The verdict on each cell from errors and scores, both float64 [references, cells]; NaN where not scored."""
    mean_error = _mean(errors)
    reasons = _reasons(cells, mean_error, thresholds.change)
    found = []
    for column, cell in enumerate(cells):
        hits = trials = 0
        for other, rival in enumerate(cells):
            # cells that fail the first two rules are no yardstick for the third
            if rival.kind == cell.kind or reasons[other] or reasons[column]:
                continue
            sign = int(order.prefers(cell.index, rival.index)) - int(order.prefers(rival.index, cell.index))
            if sign:
                hits += int((sign * (scores[:, column] - scores[:, other]) > 0).sum())
                trials += len(scores)
        share = hits / trials if trials else None
        reason = reasons[column]
        if not reason and (share is None or share < thresholds.agreement):
            reason = "SSIMULACRA2 does not order it as people did"
        mean = None if reasons[column] else float(scores[:, column].mean())
        found.append(Verdict(cell, float(order.mean[cell.index]), float(mean_error[column]), mean, share, reason))
    return found


def _reasons(cells: Sequence[Cell], mean_error: NDArray[np.float64], change: float) -> list[str]:
    """Rules 1 and 2: why each cell is left out, or an empty string."""
    errors = {cell: float(value) for cell, value in zip(cells, mean_error, strict=True)}
    reasons = {cell: "" if errors[cell] >= change else "it does not change the picture visibly" for cell in cells}
    for kind in dict.fromkeys(cell.kind for cell in cells):
        for run in rising(kind):
            strongest = 0.0
            for level in run:
                cell = Cell(kind, level)
                if not reasons[cell] and errors[cell] <= strongest:
                    reasons[cell] = "it is no stronger than a lower level"
                if not reasons[cell]:
                    strongest = errors[cell]
    return [reasons[cell] for cell in cells]
