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

from .base import Count, Fraction, Frozen, Positive
from .validation import nearest


class TripletHinge(Frozen):
    """Hinge on the difference of cosine distances (FACTS 1.2; Fu et al. 2023, DreamSim)."""

    margin: Positive = Field(description="0.05 in the lineage and in DreamSim")
    distance: Literal["cosine"]


class SelfSupervised(Frozen):
    """NT-Xent over label-free views (Chen et al. 2020; with several positives as Khosla et al. 2020, eq. 2).

    The reference and its two variants are three views of one sample, each by its own draw of the augmentation;
    nobody's vote is read. The negatives are the views of the other samples of the same micro-batch, which is
    science: its size decides what the loss is.
    """

    temperature: Positive = Field(description="0.1 in SimCLR's ablations at small batches, 0.5 in its CIFAR-10 runs")


class FullAdapter(Frozen):
    """Every tensor of the image tower trains."""


class PatternAdapter(Frozen):
    """Only tensors of the image tower whose name matches one of the regular expressions train."""

    pattern: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="regular expressions, matched against the whole parameter name"
    )


class LoraAdapter(Frozen):
    """Low-rank updates of matrices of the image tower's blocks (Hu et al. 2021); all else rests.

    A matrix W becomes W + (alpha / rank) B A, with A drawn and B zero at first. Query, key and value are three
    matrices, each with its own pair. What is published is the merged W: a plain open_clip state dict.
    """

    rank: Count
    alpha: Positive = Field(description="the update's scale is alpha / rank")
    targets: Annotated[tuple[Literal["qkv", "out", "mlp"], ...], Field(min_length=1)] = Field(
        description="qkv: query, key and value; out: attention's output; mlp: both of its matrices"
    )


class ShuffledLabels(Frozen):
    """The training split's labels, permuted among its triplets: as many of each, agreement at chance."""


class FlippedLabels(Frozen):
    """Exactly a share of the training split's labels is turned; a smaller share is part of a larger one."""

    share: Fraction


class PixelLabels(Frozen):
    """The side with the smaller squared error of pixels is called closer, after `resize`; a tie means left.

    No human: labels mined from the images alone.
    """


class ConceptLabels(Frozen):
    """Class labels and no judgement: beside each reference stand the references of two other triplets of the split.

    One is of the reference's class and called closer, one is of another class; which side is whose is drawn. So the
    steps and the references are those of the votes, and what is learned is what a class is.
    """

    field: str = Field(min_length=1, description="of each sample's json, whose value is its class: prompt in NIGHTS")


#: group -> name -> model of its options. None: it has none, or (a fetcher) reads the card's settings itself.
BUILT_IN: dict[str, dict[str, type[Frozen] | None]] = {
    "objectives": {"triplet_hinge": TripletHinge, "self_supervised": SelfSupervised},
    "adapters": {"full": FullAdapter, "pattern": PatternAdapter, "lora": LoraAdapter},
    "labels": {
        "shuffled": ShuffledLabels,
        "flipped": FlippedLabels,
        "pixels": PixelLabels,
        "concepts": ConceptLabels,
    },
    "optimizers": dict.fromkeys(("adamw", "adam")),
    "initializations": dict.fromkeys(("open_clip", "lineage")),
    "fetchers": dict.fromkeys(
        (
            *("demo_pairs", "demo_suite", "demo_triplets", "demo_concepts", "fractal_triplets"),
            *("nights", "yfcc15m", "yfcc15m_openai", "zeroshot"),
        )
    ),
    "models": {},
}
#: What one member of a group is called in messages.
MEMBER = {"labels": "label source"}


@cache
def offered(group: str) -> tuple[str, ...]:
    """Names of the installed plugins of a group, one of BUILT_IN."""
    return tuple(sorted({point.name for point in entry_points(group=f"pi_repro.{group}")}))


def member(group: str) -> str:
    """What one member of a group is called in messages: "objective", "label source"."""
    return MEMBER.get(group, group[:-1])


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
    raise RequestError(f"no {member(group)} named {name!r} is installed", **known(group, name))


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
