"""What a card says its captions are, and that nothing trains on captions of which nobody has said it.

Rule: captions that people wrote and captions that a model wrote give other results under one name, so the kind is part
of the recipe; a copy that does not tell must be looked at first.
"""

from __future__ import annotations

from pi_repro.errors import RequestError
from pi_repro.spec.card import Card

#: What `settings.captions` may say.
KINDS = ("raw", "synthetic", "generated", "mixed")


def undeclared(card: Card) -> RequestError | None:
    """The error that stops a training on a card; None where it may go on.

    A card whose settings say nothing of captions, or whose captions are templates, is its fetcher's business.
    """
    captions = card.settings.get("captions")
    if not isinstance(captions, str) or captions in KINDS:
        return None
    return RequestError(
        "nobody has said what kind of captions these are, and a result means another thing for each",
        where=f"specs/data/{card.name}.yaml: settings.captions",
        given=captions,
        allowed=", ".join(KINDS),
        todo=f"pirepro data fetch {card.name}, then read data/{card.name}/samples.json and look at the page of\n"
        f"           pirepro data sample {card.name}; write what you saw as `captions:` into that card (science,\n"
        "           so it is hashed) and fetch again, which converts nothing anew",
    )
