"""What a zero-shot suite's card may say under `settings`; an unknown or missing field is refused by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pi_repro.data.settings import read_settings
from pi_repro.errors import RequestError
from pi_repro.spec.base import Frozen, Name
from pi_repro.spec.card import Card

from .families import MAPS


class RealLabels(Frozen):
    """Several right labels an image ("Are we done with ImageNet?"), for a set in image-folder order."""

    set: str = Field(description="id of the set that they are for")
    labels: Name = Field(description="source with the labels: a list of lists of class numbers, by validation number")
    member: str | None = Field(default=None, description="the file's name inside the source; null: the source is it")
    order: Name = Field(description="source with the WordNet id of each validation image, one a line, by number")


class Settings(Frozen):
    """A zero-shot suite's settings."""

    split: Literal["test"] = Field(description="folder of each set's tars")
    family_map: str = Field(description="which assignment of sets to families is used (zeroshot/families.py)")
    skip: tuple[str, ...] = Field(default=(), description="ids of sets that are left out; the report says so")
    undecodable: Annotated[int, Field(ge=0)] = Field(
        default=0, description="images a set may lose because they cannot be decoded; with more it is refused"
    )
    real_labels: RealLabels | None = Field(default=None, description="null: single-label scoring alone")


def checked(card: Card) -> Settings:
    """A card's settings, checked against its list of sets.

    Raises:
        RequestError: naming the card, the field and what was given.
    """
    settings = read_settings(Settings, card)
    where = f"card {card.name}, settings"
    ids = [entry.id for entry in card.sets]
    sources = [source.name for source in card.sources]
    if settings.family_map not in MAPS:
        raise RequestError("no such map", where=f"{where}.family_map", given=settings.family_map, allowed=_list(MAPS))
    if strangers := sorted(set(settings.skip) - set(ids)):
        raise RequestError("no such set", where=f"{where}.skip", given=_list(strangers), allowed=_list(ids))
    if all(entry.id in settings.skip or entry.task != "classification" for entry in card.sets):
        raise RequestError("no classification set is left", where=f"{where}.skip", given=_list(settings.skip))
    if (real := settings.real_labels) is not None:
        if real.set not in ids:
            raise RequestError("no such set", where=f"{where}.real_labels.set", given=real.set, allowed=_list(ids))
        for name in (real.labels, real.order):
            if name not in sources:
                raise RequestError("no such source", where=f"{where}.real_labels", given=name, allowed=_list(sources))
    for entry in card.sets:
        if entry.source not in sources:
            raise RequestError("a set needs a source", where=f"card {card.name}, set {entry.id}", given=entry.source)
    return settings


def _list(names: object) -> str:
    return ", ".join(names)  # type: ignore[arg-type]
