"""Retrieval both ways by clip_benchmark's protocol.

Rule: an image may have several captions; a query counts as right at k when any of its right answers is among
the first k. "Text retrieval" asks with an image for captions, "image retrieval" with a caption for images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pi_repro.data.shards import Shards
from pi_repro.errors import StateError

from .benchmark import Conditions
from .embed import Embedder, Pulse, Texts, chunks, no_pulse
from .metrics import Ranking, join, mean_margin, rank_first_right, retrieval_metrics
from .pictures import Pictures
from .results import Result
from .suite import SetEntry

#: Queries shown in each direction, evenly spaced over the set, and answers shown for each.
SHOWN_QUERIES = 6
SHOWN_ANSWERS = 5


class Retrieval:
    """A retrieval set, open.

    Args:
        entry: its line in the suite's list.
        shards: its samples, verified; the text of a sample is its captions, one a line.
        conditions: what holds for all sets.

    Raises:
        StateError: naming a sample without a caption.
    """

    def __init__(self, entry: SetEntry, shards: Shards, conditions: Conditions) -> None:
        self._entry = entry
        self._shards = shards
        self._conditions = conditions
        captions = [_captions(shards, row) for row in range(shards.count)]
        self._captions = [caption for group in captions for caption in group]
        #: The image of each caption, int64 [captions].
        self._owner = np.repeat(np.arange(shards.count), [len(group) for group in captions])
        self._pictures = Pictures(shards, [("image", row) for row in range(shards.count)], conditions)
        self._texts = Texts(self._captions, conditions.tokenizer)

    @property
    def id(self) -> str:
        """The set's id."""
        return self._entry.id

    def judge(self, embedder: Embedder, pulse: Pulse = no_pulse) -> Result:
        """Ranks of the first right answer of each query, metrics, margins and a few examples."""
        images = self._pictures.embed(embedder, pulse)
        texts = self._texts.embed(embedder, pulse)
        rows = np.arange(self._shards.count)
        text_answers, text_tops = search(images, texts, rows, self._owner, embedder.batch)
        image_answers, image_tops = search(texts, images, self._owner, rows, embedder.batch)
        items: dict[str, NDArray[Any]] = {
            "text_rank": text_answers.rank,
            "image_rank": image_answers.rank,
            "text_margin": text_answers.margin,
            "image_margin": image_answers.margin,
            "caption_image": self._owner.astype(np.int32),
        }
        metrics = retrieval_metrics(text_answers.rank, image_answers.rank, self._conditions.recall_k)
        metrics["text_margin"] = mean_margin(text_answers.margin)
        metrics["image_margin"] = mean_margin(image_answers.margin)
        examples = {
            "image_to_text": [
                {**self._image(row), **_standing(text_answers, row), "top": [self._text_answer(row, *a) for a in top]}
                for row, top in text_tops.items()
            ],
            "text_to_image": [
                {**self._text(at), **_standing(image_answers, at), "top": [self._image_answer(at, *a) for a in top]}
                for at, top in image_tops.items()
            ],
        }
        return Result(self.id, self._record(metrics, examples), items)

    def _record(self, metrics: dict[str, float | None], examples: dict[str, Any]) -> dict[str, object]:
        return {
            "dataset": self.id,
            "task": "retrieval",
            "family": self._entry.fields.get("family"),
            "metrics": metrics,
            "n": self._shards.count,
            "captions": len(self._captions),
            "recall_k": list(self._conditions.recall_k),
            "examples": examples,
            "preprocess": self._conditions.preprocess.record,
            "precision": self._conditions.precision,
            "batch": self._conditions.batch,
            "dataset_sha256": self._shards.sha256,
        }

    def _image(self, row: int) -> dict[str, Any]:
        first, last = np.searchsorted(self._owner, [row, row + 1])
        return {"row": row, "id": self._shards.key(row), "captions": self._captions[first:last]}

    def _text(self, at: int) -> dict[str, Any]:
        row = int(self._owner[at])
        return {"caption_row": at, "caption": self._captions[at], "row": row, "id": self._shards.key(row)}

    def _text_answer(self, row: int, at: int, cosine: float) -> dict[str, Any]:
        return {**self._text(at), "cosine": cosine, "right": int(self._owner[at]) == row}

    def _image_answer(self, at: int, row: int, cosine: float) -> dict[str, Any]:
        return {**self._image(row), "cosine": cosine, "right": int(self._owner[at]) == row}


def search(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    query_group: NDArray[np.int64],
    candidate_group: NDArray[np.int64],
    batch: int,
) -> tuple[Ranking, dict[int, list[tuple[int, float]]]]:
    """Rank candidates for each query by cosine; a candidate is right when its group is the query's.

    Args:
        queries: unit features [q, D].
        candidates: unit features [c, D].
        query_group: int64 [q].
        candidate_group: int64 [c].
        batch: queries a matrix product.

    Returns:
        The ranking, and for a few evenly spaced queries their best (candidate, cosine) pairs.
    """
    shown = np.linspace(0, len(queries) - 1, SHOWN_QUERIES).round().astype(int)
    wanted = torch.from_numpy(query_group).to(queries.device)
    offered = torch.from_numpy(candidate_group).to(queries.device)
    parts: list[Ranking] = []
    tops: dict[int, list[tuple[int, float]]] = {}
    for start, real, chunk in chunks(queries, batch):
        scores = (chunk @ candidates.T)[:real]
        parts.append(rank_first_right(scores, wanted[start : start + real, None] == offered[None, :]))
        for at in shown[(shown >= start) & (shown < start + real)].tolist():
            tops[at] = _best(scores[at - start])
    return join(parts), tops


def _best(scores: torch.Tensor) -> list[tuple[int, float]]:
    values, order = torch.sort(scores.cpu(), descending=True, stable=True)
    return [(int(at), _short(value)) for at, value in zip(order[:SHOWN_ANSWERS], values, strict=False)]


def _standing(ranking: Ranking, at: int) -> dict[str, Any]:
    margin = float(ranking.margin[at])
    return {"rank": int(ranking.rank[at]), "margin": _short(margin) if np.isfinite(margin) else None}


def _short(value: torch.Tensor | float) -> float:
    return round(float(value), 6)


def _captions(shards: Shards, row: int) -> list[str]:
    try:
        captions = shards.read("text", row).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StateError("captions are no UTF-8 text", where=shards.describe(row), given=str(error)) from None
    if not captions:
        raise StateError("image has no caption", where=shards.describe(row))
    return captions
