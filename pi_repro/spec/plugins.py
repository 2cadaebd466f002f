"""Parts that can be added from outside: names are found without importing the plugin.

An installed package offers a part by an entry point in one of GROUPS. Built-in parts state
their options as models here, so that a spec is checked without torch; a plugin checks its own
options when it is built.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import Field

from pi_repro.errors import RequestError, StateError

from .base import Frozen, Positive
from .validation import nearest


class TripletHinge(Frozen):
    """Hinge on the difference of cosine distances (FACTS 1.2; Fu et al. 2023, DreamSim)."""

    margin: Positive = Field(description="0.05 in the lineage and in DreamSim")
    distance: Literal["cosine"]


class FullAdapter(Frozen):
    """Every tensor of the image tower trains."""


class PatternAdapter(Frozen):
    """Only tensors of the image tower whose name matches one of the regular expressions train."""

    pattern: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="regular expressions, matched against the whole parameter name"
    )


#: group -> name -> model of its options (None: the fetcher reads the card's settings itself).
BUILT_IN: dict[str, dict[str, type[Frozen] | None]] = {
    "objectives": {"triplet_hinge": TripletHinge},
    "adapters": {"full": FullAdapter, "pattern": PatternAdapter},
    "fetchers": dict.fromkeys(
        ("demo_pairs", "demo_suite", "demo_triplets", "demo_concepts", "nights", "yfcc15m", "zeroshot")
    ),
    "models": {},
}


@cache
def offered(group: str) -> tuple[str, ...]:
    """Names of the installed plugins of a group ("objectives", "adapters", "fetchers", "models")."""
    return tuple(sorted({point.name for point in entry_points(group=f"pi_repro.{group}")}))


def load(group: str, name: str) -> Any:
    """Import what an entry point offers.

    Raises:
        RequestError: when no installed package offers it.
    """
    for point in entry_points(group=f"pi_repro.{group}"):
        if point.name == name:
            try:
                return point.load()
            except ImportError as error:
                raise StateError(f"the plugin {name!r} cannot be imported: {error}", where=point.value) from None
    raise RequestError(f"no {group[:-1]} named {name!r} is installed", **known(group, name))


def providers(*parts: tuple[str, str]) -> dict[str, str]:
    """Package and version behind each (group, name) that is not built in, for the fingerprint."""
    found = {}
    for group, name in parts:
        for point in entry_points(group=f"pi_repro.{group}"):
            if point.name == name and name not in BUILT_IN[group] and point.dist is not None:
                found[f"{group}.{name}"] = f"{point.dist.name}=={point.dist.version}"
    return found


def known(group: str, name: str) -> dict[str, str]:
    """`allowed` and `todo` of an error about an unknown name."""
    names = sorted({*BUILT_IN[group], *offered(group)})
    guess = nearest(name, names)
    install = f"install a package with an entry point in pi_repro.{group}"
    return {
        "allowed": ", ".join(names) or "none is installed",
        "todo": f"did you mean {guess!r}? Or {install}" if guess else install,
    }
