"""A card's settings as a fetcher reads them.

Rule: every fetcher's model goes through here, so that a wrong field is told in one way: card, field, given, allowed.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from pi_repro.errors import RequestError
from pi_repro.spec.base import Frozen
from pi_repro.spec.card import Card

Settings = TypeVar("Settings", bound=Frozen)


def read_settings(model: type[Settings], card: Card) -> Settings:
    """A card's settings, checked.

    Raises:
        RequestError: naming the card, the field and what was given.
    """
    try:
        return model.model_validate(card.settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in ("settings", *first["loc"]))
        raise RequestError(
            first["msg"],
            where=f"card {card.name}, {field}",
            given=str(first["input"])[:200],
            allowed=f"the fields of {model.__name__}" if first["type"] == "extra_forbidden" else None,
        ) from None
