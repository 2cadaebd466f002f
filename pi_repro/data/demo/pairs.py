"""Demo pairs: each training vendor's drawing of each concept with one caption; held-out concepts are absent.

Which caption form and which keywords a pair gets is drawn by a key from the concept and the vendor, so it depends
on nothing else in the corpus. Pairs are written in a keyed order, so that neighbours differ in vendor and group.
"""

from __future__ import annotations

from collections import Counter

from pi_repro.data.settings import read_settings
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources import Stage
from pi_repro.errors import StateError
from pi_repro.files import canonical_json, write_json
from pi_repro.spec.card import Card

from .corpus import Corpus, caption, open_corpus, rendered
from .emoji import Concept, keyed
from .settings import PairsSettings


def pair_list(corpus: Corpus, settings: PairsSettings) -> list[tuple[str, Concept]]:
    """(vendor, concept) of every pair, in the order of the shards."""
    pairs = [(vendor, concept) for vendor in settings.vendors for concept in corpus.training(vendor)]
    return sorted(pairs, key=lambda pair: (keyed("pair order", pair[1].code, pair[0]), pair[1].code, pair[0]))


def pair_caption(vendor: str, concept: Concept, forms: tuple[str, ...]) -> str:
    """The caption of a pair."""
    form = forms[keyed("caption form", concept.code, vendor) % len(forms)]
    return caption(form, concept, "caption", concept.code, vendor)


def fetch(card: Card, context: Stage) -> None:
    """Build the pairs of a card into `context.out`.

    Raises:
        StateError: a source is not as pinned, or the result is not as large as the card says.
        RequestError: the card's settings are wrong.
    """
    settings = read_settings(PairsSettings, card)
    corpus = open_corpus(card, settings, context)
    pairs = pair_list(corpus, settings)
    if len(pairs) != card.count:
        raise StateError(
            "the card promises another number of pairs",
            where=f"card {card.name}",
            given=len(pairs),
            allowed=str(card.count),
        )
    vendors, captions = Counter[str](), set()
    with ShardWriter(
        context.out, card.name, "pairs", shard_size=settings.shard_size, short_side=card.short_side
    ) as writer:
        for vendor, concept, image in rendered(pairs, corpus, settings.size, context, len(pairs), card.name):
            text = pair_caption(vendor, concept, settings.captions)
            about = {
                "concept": concept.code,
                "name": concept.name,
                "group": concept.group,
                "subgroup": concept.subgroup,
                "vendor": vendor,
                "licence": corpus.downloads[settings.vendors[vendor].source].source.licence,
            }
            members = {"png": image, "txt": text.encode(), "json": canonical_json(about).encode()}
            writer.add(f"{vendor}-{concept.code}", members)
            vendors[vendor] += 1
            captions.add(text)
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "count": len(pairs),
            "concepts": len({concept.code for _, concept in pairs}),
            "captions": len(captions),
            "vendors": dict(vendors),
            "held_out": sorted(corpus.held & {concept.code for concept in corpus.concepts}),
            "sources": [download.record() for download in corpus.downloads.values()],
            "failures": [],
        },
    )
