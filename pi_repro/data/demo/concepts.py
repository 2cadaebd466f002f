"""Concept triplets: a drawing, the same concept by another vendor, and another concept by that same vendor.

RULE: the label says which side shows the reference's concept. It is true by construction and no judgement of
similarity by anyone, so it serves as a positive control that is not human. Both sides are one vendor's, so style
tells nothing; only training vendors and training concepts occur; a concept, with its variants, is in one split,
be it as reference or as the other concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from pydantic import Field, model_validator

from pi_repro.data.randomness import permutation
from pi_repro.data.settings import read_settings
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources import Stage
from pi_repro.data.triplets import SPLITS
from pi_repro.errors import StateError
from pi_repro.files import canonical_json, write_json
from pi_repro.spec.base import Count, Frozen
from pi_repro.spec.card import Card

from .corpus import Corpus, open_corpus, rendered
from .emoji import Concept, keyed
from .settings import CorpusSettings

NOTICE = (
    "The label says which side shows the reference's concept, drawn by another vendor. It is true by construction; "
    "no human judged these stimuli."
)


class ConceptSplit(Frozen):
    """How much one split holds."""

    concepts: Count
    triplets: Count = Field(description="triplets with one concept as the reference")


class ConceptSettings(CorpusSettings):
    """Triplets of drawings; `size` is the stimulus's."""

    splits: dict[str, ConceptSplit]
    key: str = Field(min_length=1, description="of every draw")
    shard_size: Count

    @model_validator(mode="after")
    def _consistent(self) -> ConceptSettings:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits are {', '.join(SPLITS)}")
        if len(self.vendors) < 2:
            raise ValueError("two vendors at least")
        return self


@dataclass(frozen=True)
class Triplet:
    """Who draws what: the reference by `vendor`, both sides by `other_vendor`; label 1 means same concept right."""

    concept: Concept
    other: Concept
    vendor: str
    other_vendor: str
    label: int


def split_concepts(corpus: Corpus, settings: ConceptSettings) -> dict[str, list[Concept]]:
    """Training concepts that two vendors at least draw, one of each stem, by split, in a keyed order.

    Raises:
        StateError: there are not enough of them.
    """
    vendors: dict[str, set[str]] = {}
    for vendor in settings.vendors:
        for concept in corpus.training(vendor):
            vendors.setdefault(concept.code, set()).add(vendor)
    stems: dict[str, Concept] = {}
    for concept in corpus.concepts:
        if len(vendors.get(concept.code, ())) > 1:
            stems.setdefault(concept.stem, concept)
    order = sorted(stems, key=lambda stem: (keyed(settings.key, "concept", stem), stem))
    wanted = sum(split.concepts for split in settings.splits.values())
    if wanted > len(order):
        raise StateError("too few concepts", where="settings.splits", given=wanted, allowed=f"at most {len(order)}")
    found, start = {}, 0
    for split in SPLITS:
        end = start + settings.splits[split].concepts
        found[split] = [stems[stem] for stem in order[start:end]]
        start = end
    return found


def triplet_list(corpus: Corpus, settings: ConceptSettings, split: str, concepts: list[Concept]) -> list[Triplet]:
    """The triplets of a split, half of them with the same concept on the right (up to one), in a keyed order."""
    found = []
    for concept in concepts:
        # both vendors draw the concept; the second also has to draw the other one, which it is asked for below
        by = [vendor for vendor in settings.vendors if concept.code in corpus.drawings[vendor]]
        pairs = sorted(permutations(by, 2), key=lambda pair: keyed(settings.key, "vendors", concept.code, *pair))
        for number in range(settings.splits[split].triplets):
            vendor, other_vendor = pairs[number % len(pairs)]
            others = [
                item for item in concepts if item.code != concept.code and item.code in corpus.drawings[other_vendor]
            ]
            if not others:
                raise StateError("no other concept is drawn", where=f"split {split}", given=other_vendor)
            other = others[keyed(settings.key, "other", concept.code, number) % len(others)]
            found.append((concept, other, vendor, other_vendor))
    labels = permutation(len(found), "labels", settings.key, split) % 2
    order = permutation(len(found), "order", settings.key, split)
    return [Triplet(*found[int(place)], int(labels[int(place)])) for place in order]


def fetch(card: Card, context: Stage) -> None:
    """Build the concept triplets of a card into `context.out`.

    Raises:
        StateError: a source is not as pinned, or the result is not as large as the card says.
        RequestError: the card's settings are wrong.
        Interrupted: the stage was asked to stop.
    """
    settings = read_settings(ConceptSettings, card)
    corpus = open_corpus(card, settings, context)
    concepts = split_concepts(corpus, settings)
    triplets = {split: triplet_list(corpus, settings, split, concepts[split]) for split in SPLITS}
    if len(triplets["train"]) != card.count:
        raise StateError(
            "the card promises another number of training triplets",
            where=f"card {card.name}",
            given=len(triplets["train"]),
            allowed=str(card.count),
        )
    needed = sorted({item for rows in triplets.values() for triplet in rows for item in _drawings(triplet)})
    by_code = {concept.code: concept for concept in corpus.concepts}
    pictures = {
        (vendor, concept.code): content
        for vendor, concept, content in rendered(
            ((vendor, by_code[code]) for vendor, code in needed), corpus, settings.size, context, len(needed), card.name
        )
    }
    with ShardWriter(
        context.out, card.name, "triplets", shard_size=settings.shard_size, short_side=card.short_side
    ) as writer:
        for split, rows in triplets.items():
            for number, triplet in enumerate(rows):
                same, other = (pictures[item] for item in list(_drawings(triplet))[1:])
                left, right = (other, same) if triplet.label else (same, other)
                about = {
                    "concept": triplet.concept.code,
                    "other": triplet.other.code,
                    "vendor": triplet.vendor,
                    "other_vendor": triplet.other_vendor,
                }
                members = {
                    "ref.png": pictures[triplet.vendor, triplet.concept.code],
                    "left.png": left,
                    "right.png": right,
                    "json": canonical_json(about).encode(),
                }
                # nobody voted
                extra = {"label": triplet.label, "split": SPLITS[split], "votes": 0}
                writer.add(f"{split}-{number:05d}", members, extra)
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "notice": NOTICE,
            "count": sum(len(rows) for rows in triplets.values()),
            "splits": {
                split: {
                    "triplets": len(rows),
                    "concepts": len(concepts[split]),
                    "right": sum(triplet.label for triplet in rows),
                }
                for split, rows in triplets.items()
            },
            "sources": [download.record() for download in corpus.downloads.values()],
            "failures": [],
        },
    )


def _drawings(triplet: Triplet) -> Iterator[tuple[str, str]]:
    """(vendor, code) of the reference, of the same concept and of the other one."""
    yield triplet.vendor, triplet.concept.code
    yield triplet.other_vendor, triplet.concept.code
    yield triplet.other_vendor, triplet.other.code
