"""Retrieval queries to look at: what each arm answered, with cosines.

Rule: the queries are the ones that the evaluation fixed beforehand (evenly spaced over the set), shown for
the first seed; none is picked for its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pi_repro.errors import StateError

from .results import Results
from .suite import Benchmark

Direction = Literal["text_to_image", "image_to_text"]
SHOWN = 2


@dataclass(frozen=True)
class Answer:
    """One retrieved candidate: an image's row or a caption, its cosine, and whether it is right."""

    row: int
    caption: str
    cosine: float
    right: bool


@dataclass(frozen=True)
class Query:
    """One query and the best answers of every arm.

    Attributes:
        row: the query's image (asked with, or asked for).
        captions: the query's caption, or the right captions of its image.
        answers: arm -> best first.
        margins: arm -> best right minus best wrong cosine; None where all are right.
    """

    direction: Direction
    row: int
    captions: tuple[str, ...]
    answers: dict[str, tuple[Answer, ...]]
    margins: dict[str, float | None]


def queries(results: Results, benchmark: Benchmark, direction: Direction) -> tuple[Query, ...]:
    """The first queries of a retrieval set at each arm's last checkpoint.

    Raises:
        StateError: when arms were asked different queries.
    """
    seed = results.seeds[0]
    asked = {
        arm: results.record(arm, seed, results.last(arm), benchmark.id)["examples"][direction] for arm in results.arms
    }
    found = []
    # The first and the last query stand at the set's ends: start with those between them.
    chosen = range(1, 1 + SHOWN) if len(asked[results.baseline]) > SHOWN + 1 else range(len(asked[results.baseline]))
    for number in chosen:
        entries = {arm: entry[number] for arm, entry in asked.items()}
        if len({(e["row"], e.get("caption_row")) for e in entries.values()}) != 1:
            raise StateError("arms were asked different queries", where=str(results.folder), given=benchmark.id)
        first = entries[results.baseline]
        found.append(
            Query(
                direction=direction,
                row=int(first["row"]),
                captions=tuple(first["captions"]) if direction == "image_to_text" else (first["caption"],),
                answers={arm: tuple(_answer(a) for a in entry["top"]) for arm, entry in entries.items()},
                margins={arm: entry["margin"] for arm, entry in entries.items()},
            )
        )
    return tuple(found)


def _answer(entry: dict[str, Any]) -> Answer:
    caption = entry["caption"] if "caption" in entry else entry["captions"][0]
    return Answer(int(entry["row"]), caption, float(entry["cosine"]), bool(entry["right"]))
