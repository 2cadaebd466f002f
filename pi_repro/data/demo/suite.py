"""Demo suite: benchmarks of held-out drawings, in the webdataset form of clip_benchmark.

Inside a classification set no two images are equal to the byte (vendors reuse drawings); the first one stays.
Sets that are marked disjoint share no image, neither by origin nor by bytes; that is enforced here, because wins
are counted over them. Every number of the card is checked against what was built.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pi_repro.data.settings import read_settings
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources import Stage
from pi_repro.errors import RequestError, StateError
from pi_repro.files import write_atomic, write_json
from pi_repro.spec.card import Card, SuiteSet

from .corpus import Corpus, caption, open_corpus, rendered
from .digits import read_digits
from .emoji import Concept, keyed, slug_of
from .settings import SetSettings, SuiteSettings


@dataclass(frozen=True)
class Item:
    """One test image: its origin ("noto/1F600"), PNG, class number (or 0) and captions (or none)."""

    origin: str
    png: bytes
    label: int = 0
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A set, ready to be written; `left_out` are origins of images equal to an earlier or a training one."""

    items: list[Item]
    classnames: tuple[str, ...] = ()
    left_out: list[str] = field(default_factory=list)


def choose(corpus: Corpus, recipe: SetSettings, name: str) -> list[tuple[str, Concept]]:
    """(vendor, concept) of a set's images, in order of concept, then vendor; `limit` draws concepts by a key."""
    found = []
    for concept in corpus.concepts:
        is_held = concept.code in corpus.held
        path = f"{concept.group}/{concept.subgroup}/{slug_of(concept.name)}"
        if recipe.concepts != "all" and is_held != (recipe.concepts == "held_out"):
            continue
        if not any(fnmatchcase(path, pattern) for pattern in recipe.match):
            continue
        if any(fnmatchcase(path, pattern) for pattern in recipe.exclude):
            continue
        found += [(vendor, concept) for vendor in recipe.vendors if concept.code in corpus.drawings[vendor]]
    if recipe.limit is not None:
        codes = sorted({concept.code for _, concept in found}, key=lambda code: keyed("set", name, code))
        kept = set(codes[: recipe.limit])
        found = [pair for pair in found if pair[1].code in kept]
    return found


def build(
    name: str,
    recipe: SetSettings,
    corpus: Corpus,
    settings: SuiteSettings,
    context: Stage,
    pictures: dict[tuple[str, str], bytes],
) -> Built:
    """Render a set.

    Args:
        pictures: (vendor, code) -> PNG of what other sets rendered already; added to.

    Raises:
        StateError: nothing fits the recipe, or a drawing cannot be rendered.
    """
    if recipe.kind == "digits":
        assert recipe.source is not None and recipe.member is not None and recipe.limit is not None
        digits = read_digits(corpus.downloads[recipe.source], recipe.member, recipe.limit)
        items = [Item(f"{recipe.source}/{key}", png, label) for key, label, png in digits]
        return Built(items, tuple(str(number) for number in range(10)))
    chosen = choose(corpus, recipe, name)
    missing = [(vendor, concept) for vendor, concept in chosen if (vendor, concept.code) not in pictures]
    for vendor, concept, png in rendered(missing, corpus, settings.size, context, len(missing), name):
        pictures[vendor, concept.code] = png
    seen: dict[bytes, str] = {}
    if recipe.unlike is not None:
        others = [(recipe.unlike, concept) for concept in corpus.training(recipe.unlike)]
        for vendor, concept, png in rendered(others, corpus, settings.size, context, len(others), name):
            seen[hashlib.sha256(png).digest()] = f"{vendor}/{concept.code}"
    kept, left_out = [], []
    for vendor, concept in chosen:
        png, origin = pictures[vendor, concept.code], f"{vendor}/{concept.code}"
        if seen.setdefault(hashlib.sha256(png).digest(), origin) == origin:
            kept.append((origin, png, concept))
        else:
            left_out.append(origin)
    if not kept:
        raise StateError("no image fits this set", where=name)
    if recipe.captions:
        items = [
            Item(
                origin,
                png,
                captions=tuple(
                    caption(form, concept, "set", name, number, concept.code)
                    for number, form in enumerate(recipe.captions)
                ),
            )
            for origin, png, concept in kept
        ]
        return Built(items, left_out=left_out)
    values = list(dict.fromkeys(_class_of(concept, recipe) for _, _, concept in kept))
    numbers = {value: number for number, value in enumerate(values)}
    items = [Item(origin, png, numbers[_class_of(concept, recipe)]) for origin, png, concept in kept]
    return Built(items, tuple(_class_name(value, recipe, corpus) for value in values), left_out)


def _class_of(concept: Concept, recipe: SetSettings) -> str:
    return {"concept": concept.code, "group": concept.group, "subgroup": concept.subgroup}[recipe.label]


def _class_name(value: str, recipe: SetSettings, corpus: Corpus) -> str:
    if recipe.label == "concept":
        return next(concept.phrase for concept in corpus.concepts if concept.code == value)
    return recipe.classnames.get(value, value.replace("-", " "))


def write_set(folder: Path, name: str, built: Built, recipe: SetSettings) -> None:
    """Write one set in clip_benchmark's form, with our index beside it."""
    if recipe.captions:
        write_atomic(folder / "dataset_type.txt", b"retrieval\n")
    else:
        write_atomic(folder / "classnames.txt", _lines(built.classnames))
        write_atomic(folder / "zeroshot_classification_templates.txt", _lines(recipe.templates))
    kind = "retrieval" if recipe.captions else "classification"
    with ShardWriter(folder, name, kind, shard_size=len(built.items), layout="suite") as writer:
        for number, item in enumerate(built.items):
            key = item.origin.replace("/", "-")
            text = "\n".join(item.captions) if recipe.captions else str(item.label)
            members = {"png": item.png, "txt" if recipe.captions else "cls": text.encode()}
            writer.add(key, members, {"label": number if recipe.captions else item.label})


def _lines(texts: tuple[str, ...]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def fetch(card: Card, context: Stage) -> None:
    """Build the suite of a card into `context.out`.

    Raises:
        StateError: a source is not as pinned, or a set is not as the card says.
        RequestError: the card's settings are wrong.
    """
    settings = read_settings(SuiteSettings, card)
    promised = {entry.id: entry for entry in card.sets}
    if promised.keys() != settings.sets.keys():
        raise RequestError(
            "a set is listed under `sets` or under `settings.sets` but not both",
            where=f"card {card.name}",
            given=", ".join(sorted(promised.keys() ^ settings.sets.keys())),
        )
    for name, recipe in settings.sets.items():
        for vendor in (*recipe.vendors, *([recipe.unlike] if recipe.unlike else [])):
            if vendor not in settings.vendors:
                raise RequestError(
                    "no such vendor",
                    where=f"card {card.name}, settings.sets.{name}",
                    given=vendor,
                    allowed=", ".join(settings.vendors),
                )
    corpus = open_corpus(card, settings, context)
    pictures: dict[tuple[str, str], bytes] = {}
    every = {name: build(name, recipe, corpus, settings, context, pictures) for name, recipe in settings.sets.items()}
    _check(card, every, settings)
    for name, built in every.items():
        write_set(context.out / name, name, built, settings.sets[name])
    rows = [_row(entry, every[entry.id], settings.sets[entry.id]) for entry in card.sets]
    write_json(context.out / "suite.json", {"name": card.name, "sets": rows})
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "count": sum(len(built.items) for built in every.values()),
            "sets": {
                name: {
                    "n": len(built.items),
                    "classes": len(built.classnames) or None,
                    "captions": sum(len(item.captions) for item in built.items) or None,
                    "equal_images_left_out": built.left_out,
                }
                for name, built in every.items()
            },
            "held_out": sorted(corpus.held & {concept.code for concept in corpus.concepts}),
            "sources": [download.record() for download in corpus.downloads.values()],
            "failures": [],
        },
    )


def _row(entry: SuiteSet, built: Built, recipe: SetSettings) -> dict[str, object]:
    row = entry.model_dump(mode="json", include={"id", "title", "task", "family", "metric", "disjoint", "note"})
    classes = len(built.classnames) or None
    chance = 1 / classes if classes else None
    return {**row, "classes": classes, "n": len(built.items), "chance": chance, "vendors": list(recipe.vendors)}


def _check(card: Card, every: dict[str, Built], settings: SuiteSettings) -> None:
    """Raise StateError when a set is not what the card promises, or two counted sets share an image."""
    wrong = []
    for entry in card.sets:
        built, recipe = every[entry.id], settings.sets[entry.id]
        task = "retrieval" if recipe.captions else "classification"
        got = (task, len(built.items), len(built.classnames) or None)
        if got != (entry.task, entry.n, entry.classes):
            wrong.append(f"{entry.id}: {got[0]}, n {got[1]}, classes {got[2]}")
    total = sum(len(built.items) for built in every.values())
    if total != card.count:
        wrong.append(f"count {total}")
    if wrong:
        raise StateError("the card promises other sets", where=f"card {card.name}", given="; ".join(wrong))
    owners: dict[str, str] = {}
    for entry in card.sets:
        if not entry.disjoint:
            continue
        for item in every[entry.id].items:
            for mark in (item.origin, hashlib.sha256(item.png).hexdigest()):
                if owners.setdefault(mark, entry.id) != entry.id:
                    raise StateError(
                        "two sets that count as disjoint share an image",
                        where=f"card {card.name}",
                        given=f"{item.origin} in {owners[mark]} and {entry.id}",
                        todo="set disjoint: false for one of them, or drop the drawing",
                    )
