"""The claims of the paper, in our words, each with the test that was planned before any result was seen.

Rule: a claim states what is estimated, from which data, and from which numbers on it counts as reproduced; a claim
that nothing here can compute is a row all the same. specs/claims.yaml is the list; a report that names it is hashed
with its whole content, so that a changed threshold is another report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pi_repro.errors import RequestError

from . import yamlfile
from .base import Count, Frozen, Name
from .validation import validate

Source = Literal["abstract", "figure 1", "figure 2", "figure 3", "figure 4", "figure 5"]
Measure = Literal["top1", "top5", "i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5", "i2t_margin", "t2i_margin"]
Quantity = Literal["gain", "wins", "onset", "onsets", "growth", "exponent", "speed", "unrecorded"]
Number = Annotated[float, Field(allow_inf_nan=False)]

#: quantity -> the kind of rule that judges it.
RULES = {
    "gain": "above",
    "wins": "count",
    "onset": "window",
    "onsets": "apart",
    "growth": "above",
    "exponent": "above",
    "speed": "above",
    "unrecorded": "above",
}
_RETRIEVAL = {"i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5", "i2t_margin", "t2i_margin"}


class Needs(Frozen):
    """The data without which the paper's claim itself isn't measured."""

    model: str = Field(description="the network, by open_clip's name")
    suite: Name = Field(description="the suite's card")
    pairs: Name = Field(description="what stage 2 learns from")
    triplets: Name = Field(description="what stage 1 learns from")
    epochs: Count = Field(description="of stage 2, at least")
    seeds: Count = Field(description="at least; one seed has no spread")
    posthoc: bool = Field(default=False, description="an arm that is aligned after pretraining")


class Test(Frozen):
    """What is computed.

    gain: difference in a measure; wins: sets on which the arm is ahead, a seed; onset: epoch from which a gain lasts;
    onsets: the same of every set; growth: slope of the gain over log2 of pairs seen; exponent: difference of the
    exponents of accuracy over samples; speed: log2 of how many times fewer samples reach the other's final accuracy;
    unrecorded: evaluation does not record what it takes.
    """

    __test__ = False  # pytest would take it for one of its own

    quantity: Quantity
    measures: tuple[Measure, ...]
    over: Literal["headline", "families", "suite", "retrieval"] = Field(
        description="headline: ImageNet; families: the mean of each; suite: the mean over all classification sets; "
        "retrieval: the mean over retrieval sets"
    )
    at: Literal["last", "first", "early", "each"] = Field(
        default="last",
        description="kept epochs: the last; the first after the start or the last up to epoch 5, before the end; each",
    )
    against: Literal["baseline", "posthoc"] = "baseline"

    @model_validator(mode="after")
    def _fits(self) -> Test:
        if not self.measures and self.quantity != "unrecorded":
            raise ValueError("a test names its measures")
        if self.over == "retrieval" and not set(self.measures) <= _RETRIEVAL:
            raise ValueError("retrieval sets have recalls and margins alone")
        if self.over != "retrieval" and set(self.measures) & _RETRIEVAL:
            raise ValueError("recalls and margins are of retrieval sets: over: retrieval")
        return self


class Rule(Frozen):
    """From which numbers on a claim is reproduced, and from which it is not; between them nothing is established."""

    kind: Literal["above", "count", "window", "apart"]
    unit: Literal["points", "sets", "epochs", "points a doubling", "exponent", "doublings", "cosine"]
    threshold: Number = Field(description="above: to be exceeded; count: the paper's; window, apart: 0")
    relevant: Number = Field(
        default=0.0, description="above: a gain that is surely smaller is none; apart: epochs that matter"
    )
    window: tuple[Number, Number] | None = Field(default=None, description="window: first and last epoch that fit")
    words: str = Field(description="the rule, for readers")

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if (self.window is None) == (self.kind == "window"):
            raise ValueError("`window` belongs to a rule of that kind, and only to it")
        if self.window is not None and self.window[0] > self.window[1]:
            raise ValueError("the window ends before it begins")
        if self.kind == "above" and self.relevant < self.threshold:
            raise ValueError("`relevant` is at least the threshold")
        return self


class Claim(Frozen):
    """One claim."""

    id: Name
    source: Source = Field(description="where the paper makes it")
    claim: str = Field(description="in our words")
    estimand: str = Field(description="the number that is meant, for readers")
    data: str = Field(description="what it takes, for readers")
    needs: Needs | None = Field(default=None, description="where it takes something else than all the others")
    test: Test
    planned: str = Field(description="the test, for readers")
    rule: Rule

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        if self.rule.kind != RULES[self.test.quantity]:
            raise ValueError(f"a {self.test.quantity} is judged by a rule of kind {RULES[self.test.quantity]!r}")
        if (self.test.against == "posthoc") != (self.needs is not None and self.needs.posthoc):
            raise ValueError("a test against posthoc needs that arm, and no other test does: `needs: {posthoc: true}`")
        return self


class Claims(Frozen):
    """One file of claims."""

    title: str
    written: str = Field(description="when, in relation to the results")
    needs: Needs = Field(description="what the claims take that don't say otherwise")
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> Claims:
        names = [claim.id for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self

    def needed(self, claim: Claim) -> Needs:
        """What a claim takes."""
        return claim.needs or self.needs


def load(path: Path) -> Claims:
    """Read and check a file of claims.

    Raises:
        RequestError: with every error found, each with file, line, field, given and allowed.
    """
    return validate(Claims, yamlfile.load(path))


def beside(spec: Path, name: str, where: str) -> Claims:
    """The claims that a spec names, which lie in its folder.

    Raises:
        RequestError: there is no such file, or it is broken.
    """
    path = spec.parent / f"{name}.yaml"
    if not path.is_file():
        raise RequestError("no file of claims of this name", where=where, given=name, todo=f"write {path}")
    return load(path)
