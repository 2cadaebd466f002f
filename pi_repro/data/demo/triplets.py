"""Demo triplets: a reference and two distortions of it, labelled by how people ordered such distortions elsewhere.

RULE: a label is transferred, never seen: people scored the same two distortions (type and level) on KADID-10k's
81 photographs, and at least a stated share of the photographs were ordered alike. No human saw these stimuli.

    - The two sides are always of different types: within a type the order is a matter of strength alone.
    - In every split, half of the triplets are such that the side people prefer has the larger pixel error; so
      pixel error is right in exactly half of them, and so is either side.
    - A reference is one drawing of one concept and belongs to one split; held-out types occur in test only, and
      test has no other. (A split by cell pairs would leak: a > b and b > c tell a > c.)
    - Cells must pass the check of `cells`, whose table stands in card.json; and a pair of cells is used only
      where SSIMULACRA2's means over the check's references have the order that people gave.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from pi_repro.data.settings import read_settings
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources import Stage
from pi_repro.data.triplets import SPLITS
from pi_repro.errors import Interrupted, StateError
from pi_repro.files import canonical_json, write_json
from pi_repro.spec.base import Count, Fraction, Frozen, Name, Positive
from pi_repro.spec.card import Card

from .cells import JUDGED_AT, Cell, Thresholds, Verdict, check, shrink
from .corpus import Corpus, open_corpus
from .distortions import Pixels
from .emoji import keyed
from .kadid import PHOTOGRAPHS, Order, read_order
from .levels import LEVELS
from .pairing import Triplet, labelled, pair_up, sides_of
from .render import encode
from .settings import CorpusSettings

#: A pixel counts as coloured when its channels differ by this many grey levels.
_COLOURED = 40
#: Put into card.json and every report that shows these labels.
PROXY = (
    "The labels are a proxy: they are transferred from people's scores of the same distortions on KADID-10k's "
    "photographs. No human saw these stimuli. 2AFC on them is to be read beside pixel error (right in half of "
    "them by construction) and an untrained network."
)


class CheckSettings(Frozen):
    """The check of the cells; see `cells`."""

    references: Count = Field(description="references of the training split that each cell is judged on")
    change: Positive = Field(description="grey levels, root mean square, that a cell must change a picture by")
    agreement: Fraction = Field(description="share of comparisons that SSIMULACRA2 must order as people did")


class SplitSettings(Frozen):
    """How much one split holds."""

    references: Count
    cells: Count = Field(description="cells drawn for each reference")
    triplets: int = Field(ge=2, multiple_of=2, description="at most so many triplets of one reference")


class DistortionSettings(CorpusSettings):
    """Triplets of distortions; `size` is the stimulus's."""

    canvas: Count = Field(description="pixels a side at which drawings are distorted; a multiple of size")
    scores: Name = Field(description="the source with KADID-10k's scores")
    agreement: Fraction = Field(gt=0.5, description="share of the 81 photographs that must be ordered alike")
    types: tuple[str, ...] = Field(min_length=2, description="types in train and val")
    held_out_types: tuple[str, ...] = Field(min_length=2, description="types in test")
    colour: Fraction = Field(description="least share of coloured pixels that a reference has")
    check: CheckSettings
    splits: dict[str, SplitSettings]
    key: str = Field(min_length=1, description="of every draw")
    shard_size: Count

    @model_validator(mode="after")
    def _consistent(self) -> DistortionSettings:
        every = (*self.types, *self.held_out_types)
        if len(set(every)) != len(every) or not set(every) <= set(LEVELS):
            raise ValueError(f"types are named once, and are among: {', '.join(LEVELS)}")
        if self.canvas % self.size or JUDGED_AT % self.size:
            raise ValueError(f"canvas and {JUDGED_AT} must be multiples of size")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits are {', '.join(SPLITS)}")
        return self


@dataclass(frozen=True)
class Reference:
    """A drawing on the canvas, uint8 [C, C, 3]; its name is vendor and code, "openmoji-1F980"."""

    name: str
    pixels: Pixels = field(repr=False)


def coloured_share(pixels: Pixels) -> float:
    """Share of pixels with a visible hue; distortions of colour mean nothing where it is small."""
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    return float((spread >= _COLOURED).mean())


def references(corpus: Corpus, settings: DistortionSettings) -> dict[str, list[Reference]]:
    """References by split: one drawing a concept (variants of gender count as one), in a keyed order.

    Raises:
        StateError: there are not enough coloured drawings.
    """
    drawn: dict[str, list[tuple[str, str]]] = {}
    for vendor in settings.vendors:
        for concept in corpus.training(vendor):
            drawn.setdefault(concept.stem, []).append((concept.code, vendor))
    wanted = [split for split in SPLITS for _ in range(settings.splits[split].references)]
    found: dict[str, list[Reference]] = {split: [] for split in SPLITS}
    place = 0
    for stem in sorted(drawn, key=lambda stem: (keyed(settings.key, "reference", stem), stem)):
        if place == len(wanted):
            break
        for code, vendor in sorted(drawn[stem], key=lambda item: (keyed(settings.key, "drawing", *item), item)):
            with Image.open(io.BytesIO(corpus.drawings[vendor][code].png(settings.canvas))) as image:
                pixels = np.asarray(image)
            if coloured_share(pixels) >= settings.colour:
                found[wanted[place]].append(Reference(f"{vendor}-{code}", pixels))
                place += 1
                break
    if place < len(wanted):
        raise StateError(
            "too few drawings have colour", where="settings.splits", given=len(wanted), allowed=f"at most {place}"
        )
    return found


def fetch(card: Card, context: Stage) -> None:
    """Build the triplets of a card into `context.out`.

    Raises:
        StateError: a source is not as pinned, or the result is not as large as the card says.
        RequestError: the card's settings are wrong.
        Interrupted: the stage was asked to stop.
    """
    settings = read_settings(DistortionSettings, card)
    corpus = open_corpus(card, settings, context)
    order = read_order(corpus.downloads[settings.scores], settings.agreement)
    chosen = references(corpus, settings)

    def tick(unit: str) -> Callable[[int, int], None]:
        def told(done: int, total: int) -> None:
            context.progress(done, total, unit, card.name)
            if context.should_stop():
                raise Interrupted("the stage was asked to stop", where=card.name)

        return told

    judged = chosen["train"][: settings.check.references]
    thresholds = Thresholds(settings.check.change, settings.check.agreement)
    types = (*settings.types, *settings.held_out_types)
    table = check([item.pixels for item in judged], settings.size, order, thresholds, types, tick("judgements"))
    triplets = {split: sample(chosen[split], table, order, settings, split, tick("references")) for split in SPLITS}
    if len(triplets["train"]) != card.count:
        raise StateError(
            "the card promises another number of training triplets",
            where=f"card {card.name}",
            given=len(triplets["train"]),
            allowed=str(card.count),
        )
    with ShardWriter(
        context.out, card.name, "triplets", shard_size=settings.shard_size, short_side=card.short_side
    ) as writer:
        for split, rows in triplets.items():
            _write(writer, split, rows, {item.name: item for item in chosen[split]}, settings)
    write_json(context.out / "card.json", _card(card, corpus, settings, chosen, table, triplets))


def sample(
    chosen: Sequence[Reference],
    table: Sequence[Verdict],
    order: Order,
    settings: DistortionSettings,
    split: str,
    tick: Callable[[int, int], None],
) -> list[tuple[Triplet, int]]:
    """The triplets of a split with their labels, in their order in the shards."""
    types = settings.held_out_types if split == "test" else settings.types
    metric = {item.cell: item.ssimulacra2 for item in table if not item.reason and item.ssimulacra2 is not None}
    kept = [cell for cell in metric if cell.kind in types]

    def confirmed(better: Cell, worse: Cell) -> bool:
        return metric[better] > metric[worse]

    size, used, found = settings.splits[split], Counter[tuple[Cell, Cell]](), list[Triplet]()
    for number, reference in enumerate(chosen):
        tick(number, len(chosen))
        key = (settings.key, reference.name)
        sides = sides_of(reference.pixels, settings.size, kept, size.cells, key)
        found += pair_up(reference.name, sides, order, confirmed, settings.check.change, size.triplets, used, key)
    return labelled(found, (settings.key, split))


def _write(
    writer: ShardWriter,
    split: str,
    rows: Sequence[tuple[Triplet, int]],
    chosen: dict[str, Reference],
    settings: DistortionSettings,
) -> None:
    drawings: dict[str, bytes] = {}
    for number, (triplet, label) in enumerate(rows):
        if triplet.reference not in drawings:
            pixels = shrink(chosen[triplet.reference].pixels, settings.size)
            drawings[triplet.reference] = encode(Image.fromarray(pixels))
        left, right = (triplet.worse, triplet.better) if label else (triplet.better, triplet.worse)
        about = {
            "reference": triplet.reference,
            "against_pixel_error": triplet.against,
            "votes": triplet.votes,
            "photographs": PHOTOGRAPHS,
            "left": {"type": left.cell.kind, "level": left.cell.level, "error": round(left.error, 3)},
            "right": {"type": right.cell.kind, "level": right.cell.level, "error": round(right.error, 3)},
        }
        members = {
            "ref.png": drawings[triplet.reference],
            "left.png": encode(Image.fromarray(left.pixels)),
            "right.png": encode(Image.fromarray(right.pixels)),
            "json": canonical_json(about).encode(),
        }
        extra = {"label": label, "split": SPLITS[split], "votes": triplet.votes}
        writer.add(f"{split}-{number:05d}", members, extra)


def _card(
    card: Card,
    corpus: Corpus,
    settings: DistortionSettings,
    chosen: dict[str, list[Reference]],
    table: Sequence[Verdict],
    triplets: dict[str, list[tuple[Triplet, int]]],
) -> dict[str, object]:
    """What card.json says."""
    splits = {}
    for split, rows in triplets.items():
        pairs = {(triplet.better.cell, triplet.worse.cell) for triplet, _ in rows}
        splits[split] = {
            "triplets": len(rows),
            "references": len(chosen[split]),
            "references_used": len({triplet.reference for triplet, _ in rows}),
            "cell_pairs": len(pairs),
            "types": sorted({cell.kind for pair in pairs for cell in pair}),
            "right": sum(label for _, label in rows),
            "against_pixel_error": sum(triplet.against for triplet, _ in rows),
        }
    return {
        "card": card.model_dump(mode="json"),
        "notice": PROXY,
        "count": sum(len(rows) for rows in triplets.values()),
        "splits": splits,
        "check": {
            "references": [item.name for item in chosen["train"][: settings.check.references]],
            "kept": sum(not verdict.reason for verdict in table),
            "cells": [verdict.record() for verdict in table],
        },
        "sources": [download.record() for download in corpus.downloads.values()],
        "failures": [],
    }
