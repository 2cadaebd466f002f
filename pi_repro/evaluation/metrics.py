"""Ranks, and the metrics that follow from them.

Rule: whatever is reported is a function of per-item ranks that are saved beside it. Equal scores are
ordered by index, the lower first, as argmax does. (torch.topk orders them by no rule: the order changes with k
and with the number of candidates. So clip_benchmark's figures are only defined up to exact ties.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pi_repro.errors import StateError

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Ranking:
    """Where the first right candidate of each query stands.

    Attributes:
        rank: int32 [n]; 0 when a right candidate is on top.
        margin: float32 [n]; best right score minus best wrong score, positive exactly when the top one is
            right (0 on a tie); infinite when there is no wrong candidate.
        first: int32 [n]; the candidate on top.
    """

    rank: NDArray[np.int32]
    margin: NDArray[np.float32]
    first: NDArray[np.int32]


def rank_first_right(scores: torch.Tensor, right: torch.Tensor) -> Ranking:
    """Rank the best right candidate of each query.

    Args:
        scores: float [queries, candidates], higher is better.
        right: bool [queries, candidates], at least one true in each row.

    Raises:
        StateError: when a score is not finite; counting would then rank anything first.
    """
    if not bool(torch.isfinite(scores).all()):
        raise StateError("scores are not finite", todo="the weights or an image are damaged, or training diverged")
    candidates = scores.shape[1]
    index = torch.arange(candidates, device=scores.device)[None, :]
    best_right = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    best_wrong = scores.masked_fill(right, -torch.inf).amax(1, keepdim=True)
    tied = scores == best_right
    position = torch.where(tied & right, index, candidates).amin(1, keepdim=True)
    rank = (scores > best_right).sum(1) + (tied & (index < position)).sum(1)
    top = torch.where(scores == scores.amax(1, keepdim=True), index, candidates).amin(1)
    return Ranking(
        rank=rank.to(torch.int32).cpu().numpy(),
        margin=(best_right - best_wrong)[:, 0].float().cpu().numpy(),
        first=top.to(torch.int32).cpu().numpy(),
    )


def join(parts: list[Ranking]) -> Ranking:
    """The ranking of all queries from those of consecutive stretches."""
    return Ranking(
        rank=np.concatenate([part.rank for part in parts]),
        margin=np.concatenate([part.margin for part in parts]),
        first=np.concatenate([part.first for part in parts]),
    )


def recall_at(rank: NDArray[np.int32], k: int, candidates: int) -> float | None:
    """Share of queries with a right candidate among the first k; None where k exceeds the candidates."""
    return float(np.count_nonzero(rank < k)) / len(rank) if k <= candidates else None


def classification_metrics(
    rank: NDArray[np.int32], label: NDArray[np.int32], predicted: NDArray[np.int32], classes: int
) -> Metrics:
    """acc1, acc5 (None under 5 classes) and the recall of each class that occurs, averaged over classes."""
    present = np.unique(label)
    recalls = [np.mean(predicted[label == one] == one) for one in present]
    return {
        "acc1": recall_at(rank, 1, classes),
        "acc5": recall_at(rank, 5, classes),
        "mean_per_class_recall": float(np.mean(recalls)),
    }


def retrieval_metrics(
    text_rank: NDArray[np.int32], image_rank: NDArray[np.int32], recall_k: tuple[int, ...]
) -> Metrics:
    """Recall@k both ways under clip_benchmark's names.

    Args:
        text_rank: of each image, the rank of its first right caption ("text retrieval").
        image_rank: of each caption, the rank of its image ("image retrieval").
    """
    metrics: Metrics = {}
    for k in recall_k:
        metrics[f"image_retrieval_recall@{k}"] = recall_at(image_rank, k, candidates=len(text_rank))
        metrics[f"text_retrieval_recall@{k}"] = recall_at(text_rank, k, candidates=len(image_rank))
    return metrics


def mean_margin(margin: NDArray[np.float32]) -> float | None:
    """Mean margin in float64; None where some query has no wrong candidate."""
    return float(np.mean(margin, dtype=np.float64)) if np.isfinite(margin).all() else None


def two_afc_metric(score: NDArray[np.uint8]) -> float:
    """Share of right choices, a tie counting half (`score`: 2 right, 1 tie, 0 wrong)."""
    return float(score.sum(dtype=np.int64)) / (2 * len(score))
