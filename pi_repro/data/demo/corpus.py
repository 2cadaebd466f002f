"""The demo's corpus: concepts, which of them are held out, and who draws them; one reading for all its cards.

Concepts and the held-out draw depend on the openmoji table and two settings alone, so cards that share those
settings agree about them without reading each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pi_repro.data.sources import Download, Stage, obtain_all
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.spec.card import Card

from .emoji import Concept, held_out, keyed, read_concepts
from .render import check_renderer
from .settings import CorpusSettings
from .vendors import Drawing, name_table, read_drawings


@dataclass(frozen=True)
class Corpus:
    """What the packages of a card hold.

    Attributes:
        concepts: in Unicode's order, after the card's draw.
        held: codes of the held-out ones among all concepts.
        drawings: vendor -> code -> drawing, for `concepts` only.
        downloads: by the source's name.
    """

    concepts: tuple[Concept, ...]
    held: frozenset[str]
    drawings: Mapping[str, Mapping[str, Drawing]]
    downloads: Mapping[str, Download]

    def training(self, vendor: str) -> Iterator[Concept]:
        """Concepts that a training vendor may show and does, in order."""
        return (c for c in self.concepts if c.code not in self.held and c.code in self.drawings[vendor])


def open_corpus(card: Card, settings: CorpusSettings, context: Stage) -> Corpus:
    """Download a card's sources and read them.

    Raises:
        StateError: a download, package or drawing is not as the card says.
        RequestError: the settings name a source that the card does not have.
    """
    check_renderer(settings.renderer)
    names = {source.name for source in card.sources}
    vendors = settings.vendors.values()
    for name in (settings.concepts_from, *settings.names_from, *(vendor.source for vendor in vendors)):
        if name not in names:
            raise RequestError(
                "no such source", where=f"card {card.name}, settings", given=name, allowed=", ".join(sorted(names))
            )
    downloads = obtain_all(card.sources, context)
    every = read_concepts(downloads[settings.concepts_from])
    held = held_out(every, settings.held_out.key, settings.held_out.one_in)
    chosen = _draw(every, settings)
    table = name_table(every, [downloads[name] for name in settings.names_from])
    drawings = {}
    for name, vendor in settings.vendors.items():
        wanted = [concept for concept in chosen if vendor.country_flags or not concept.is_country_flag]
        found = read_drawings(downloads[vendor.source], vendor.form, wanted, table)
        for code in [code for code in found if f"{name}/{code}" in settings.drop]:
            del found[code]
        if not found:
            raise StateError("a vendor draws none of the concepts", where=f"card {card.name}", given=name)
        drawings[name] = found
    return Corpus(chosen, held, drawings, downloads)


def _draw(concepts: tuple[Concept, ...], settings: CorpusSettings) -> tuple[Concept, ...]:
    if settings.concepts is None:
        return concepts
    order = sorted(
        (concept for concept in concepts if not concept.is_country_flag),
        key=lambda concept: keyed(settings.held_out.key, "some", concept.code),
    )
    few = {concept.code for concept in order[: settings.concepts]}
    return tuple(concept for concept in concepts if concept.code in few)


def caption(form: str, concept: Concept, *key: object) -> str:
    """A caption of a given form; which two keywords stand in it is drawn by the key.

    A form with {keywords} becomes the name alone for a concept that has none.
    """
    if "{keywords}" in form:
        if not concept.keywords:
            return concept.phrase
        drawn = sorted(concept.keywords, key=lambda word: keyed(*key, word))[:2]
        form = form.replace("{keywords}", ", ".join(drawn))
    return form.replace("{name}", concept.phrase)


def rendered(
    items: Iterable[tuple[str, Concept]], corpus: Corpus, size: int, context: Stage, total: int, what: str
) -> Iterator[tuple[str, Concept, bytes]]:
    """(vendor, concept, PNG) for each item, with progress.

    Raises:
        StateError: a drawing cannot be rendered; it is named.
        Interrupted: the stage was asked to stop.
    """
    for number, (vendor, concept) in enumerate(items):
        if number % 50 == 0:
            context.progress(number, total, "images", what)
            if context.should_stop():
                raise Interrupted("the stage was asked to stop while it rendered", where=what)
        try:
            content = corpus.drawings[vendor][concept.code].png(size)
        except StateError as error:
            raise StateError(error.problem, where=f"{vendor} {concept.code}", given=error.given) from None
        yield vendor, concept, content
