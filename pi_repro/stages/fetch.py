"""The verb fetch: a card names its fetcher, the fetcher fills the output folder; nothing else is decided here.

A fetcher is `fetch(card, context) -> None`. Those of the demo are built in; any installed package may add one by an
entry point in pi_repro.fetchers. A built-in name cannot be taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from pi_repro.errors import RequestError, StateError
from pi_repro.spec import plugins
from pi_repro.spec.card import Card

from .context import StageContext

Fetcher = Callable[[Card, StageContext], None]

#: Built-in fetcher -> its module; `spec.plugins` has the same names.
MODULES = {
    "demo_pairs": "pi_repro.data.demo.pairs",
    "demo_suite": "pi_repro.data.demo.suite",
    "demo_triplets": "pi_repro.data.demo.triplets",
    "demo_concepts": "pi_repro.data.demo.concepts",
    "fractal_triplets": "pi_repro.data.fractals.triplets",
    "yfcc15m": "pi_repro.data.yfcc.fetch",
    "yfcc15m_openai": "pi_repro.data.openai_list.fetch",
    "nights": "pi_repro.data.nights.fetch",
    "zeroshot": "pi_repro.data.zeroshot.fetch",
}


def fetcher(name: str) -> Fetcher:
    """The fetcher of this name.

    Raises:
        RequestError: nobody offers it; the nearest name is given.
        StateError: the package that offers it cannot be imported.
    """
    if name in MODULES:
        found: Fetcher = import_module(MODULES[name]).fetch
        return found
    offered: Fetcher = plugins.load("fetchers", name)
    return offered


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
        StateError: what came is not what the card pins; the fetcher left no card.json, or cannot be imported.
    """
    card = _card(context.settings["card"])
    fetch = fetcher(card.fetcher)
    context.out.mkdir(parents=True, exist_ok=True)
    fetch(card, context)
    if not (context.out / "card.json").is_file():
        raise StateError("the fetcher wrote no card.json", where=f"fetcher {card.fetcher}", given=card.name)
