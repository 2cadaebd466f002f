"""The verb fetch: a card names its fetcher, the fetcher fills the output folder; nothing else is decided here.

A fetcher is `fetch(card, context) -> None`. Those of the demo are built in; any installed package may add one under
the entry-point group "pi_repro.fetchers". A built-in name cannot be taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from pi_repro.errors import RequestError, StateError
from pi_repro.spec.card import Card

from .context import StageContext

Fetcher = Callable[[Card, StageContext], None]

GROUP = "pi_repro.fetchers"
BUILT_IN = {
    "demo_pairs": "pi_repro.data.demo.pairs",
    "demo_suite": "pi_repro.data.demo.suite",
    "demo_triplets": "pi_repro.data.demo.triplets",
    "demo_concepts": "pi_repro.data.demo.concepts",
}


def fetcher(name: str) -> Fetcher:
    """The fetcher of this name.

    Raises:
        RequestError: no such fetcher; the nearest name is given.
    """
    if name in BUILT_IN:
        found: Fetcher = import_module(BUILT_IN[name]).fetch
        return found
    added = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in added:
        known = sorted({*BUILT_IN, *added})
        near = get_close_matches(name, known, n=1)
        raise RequestError(
            "no such fetcher",
            where="card.fetcher",
            given=name + (f" (did you mean {near[0]}?)" if near else ""),
            allowed=", ".join(known),
            todo=f"install the package that provides it under the entry-point group {GROUP}",
        )
    loaded: Fetcher = added[name].load()
    return loaded


def _card(settings: Any) -> Card:
    try:
        return Card.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(
            first["msg"], where="card." + ".".join(str(part) for part in first["loc"]), given=str(first["input"])[:200]
        ) from None


def run(context: StageContext) -> None:
    """Fetch the dataset or suite of `context.settings["card"]` into `context.out`.

    Raises:
        RequestError: the card is wrong or names an unknown fetcher.
        StateError: what came is not what the card pins; or the fetcher left no card.json.
    """
    card = _card(context.settings["card"])
    context.out.mkdir(parents=True, exist_ok=True)
    fetcher(card.fetcher)(card, context)
    if not (context.out / "card.json").is_file():
        raise StateError("the fetcher wrote no card.json", where=f"fetcher {card.fetcher}", given=card.name)
