"""Probes of kept checkpoints: what is looked at, on which images, at which epochs.

Rule: science.probes is hashed with the stages `probe` and `report` alone; a spec without it has neither these stages
nor this field in anything that is hashed. A file that a spec gives (a dissimilarity matrix, its list of images) lies
beside the spec and is known by its sha256.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from pi_repro.errors import RequestError
from pi_repro.files import sha256_file

from .base import Count, Frozen, Positive
from .card import Card
from .validation import nearest

SetId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_./-]*$", max_length=96)]
Epoch = Annotated[int, Field(ge=0)] | Literal["last"]
#: A file below the spec's own folder, by a relative path without "..".
_FILE = r"^([A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*"
File = Annotated[str, StringConstraints(pattern=_FILE + "$")]
Matrix = Annotated[str, StringConstraints(pattern=_FILE + r"\.(npy|csv)$")]


class Features(Frozen):
    """Spectrum of the image features, and their likeness (CKA, RSA) to the start's and to the baseline's."""

    set: SetId = Field(description="a set of the suite")
    images: Annotated[int, Field(ge=4)] = Field(
        description="how many of its images, drawn by a key that no arm or seed is part of; all where it has fewer"
    )
    similarity: Literal["cosine", "correlation"] = Field(description="of RSA: 1 - this is the dissimilarity")


class Sharpness(Frozen):
    """Rise of CLIP's loss on pretraining pairs when the image tower's matrices are moved."""

    pairs: Annotated[int, Field(ge=2)] = Field(description="of one contrastive batch, drawn by a key, not augmented")
    radii: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        description="lengths of the moves as shares of the weights' own norm"
    )
    directions: Count = Field(description="random ones, filter-normalized; the gradient's is tried besides")
    towers: Literal["image", "both"]
    epochs: Annotated[tuple[Epoch, ...], Field(min_length=1)] | None = Field(
        default=None, description="of those probed; [0] is the hand-off to pretraining; null: all"
    )


class Linear(Frozen):
    """Ridge regression from frozen features to the classes of sets of the suite, with a fixed split of each."""

    sets: Annotated[tuple[SetId, ...], Field(min_length=1)] = Field(description="classification sets of the suite")
    images: Count | None = Field(description="most images a set, drawn by a key; null: all")
    train: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of every class that is learned from")
    penalties: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        description="offered; the one with the least leave-one-out error on the training half is taken"
    )


class Rsa(Frozen):
    """Representational similarity to a dissimilarity matrix that the user gives."""

    matrix: Matrix = Field(description="beside the spec: .npy without Python objects, or .csv without a header")
    images: File = Field(description="beside the spec: one sample key of the set a line, in the order of the matrix")
    set: SetId = Field(description="the set of the suite that has the images")
    similarity: Literal["cosine", "correlation"] = Field(description="1 - this is the model's dissimilarity")


class Probes(Frozen):
    """What is looked at in kept checkpoints beside what they score."""

    batch: Count = Field(description="images a forward pass; the last is padded to it")
    precision: Literal["fp32", "bf16"] = Field(description="of features; sharpness is fp32 always")
    stages: Annotated[tuple[Literal["initialize", "pretrain", "joint", "finetune"], ...], Field(min_length=1)] = Field(
        description="whose checkpoints; an arm has those of the stages that it runs"
    )
    epochs: Annotated[tuple[Epoch, ...], Field(min_length=1)] | None = Field(
        default=None, description="of those kept (keep_epochs); null: all"
    )
    distance: bool = Field(description="how far the weights are from the draw and from where their stage began")
    features: Features | None = None
    sharpness: Sharpness | None = None
    linear: Linear | None = None
    rsa: Rsa | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Probes:
        if not (self.distance or self.features or self.sharpness or self.linear or self.rsa):
            raise ValueError("probes ask for nothing: name one of distance, features, sharpness, linear, rsa")
        if self.linear is not None and len(set(self.linear.sets)) != len(self.linear.sets):
            raise ValueError("linear.sets names a set twice")
        return self

    def at(self, kept: Iterator[int] | tuple[int, ...]) -> tuple[int, ...]:
        """Those of a stage's kept epochs that are probed, rising."""
        return chosen(self.epochs, kept)


def chosen(epochs: tuple[int | str, ...] | None, kept: Iterator[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Those of some kept epochs that a list names, rising; all where there is no list."""
    there = sorted(set(kept))
    return tuple(
        epoch for epoch in there if epochs is None or epoch in epochs or ("last" in epochs and epoch == there[-1])
    )


def set_errors(probes: Probes, suite: Card) -> Iterator[tuple[tuple[str | int, ...], RequestError]]:
    """(place inside probes, error) for each set that the suite's card does not list, or that can't serve."""
    tasks = {entry.id: entry.task for entry in suite.sets}
    asked: list[tuple[tuple[str | int, ...], str, str | None]] = []
    if probes.features is not None:
        asked.append((("features", "set"), probes.features.set, None))
    if probes.linear is not None:
        asked += [(("linear", "sets", n), name, "classification") for n, name in enumerate(probes.linear.sets)]
    if probes.rsa is not None:
        asked.append((("rsa", "set"), probes.rsa.set, None))
    for place, name, task in asked:
        if name not in tasks:
            guess = nearest(name, list(tasks))
            yield place, RequestError(
                "the suite has no such set", given=name, allowed=f"a set of {suite.name}",
                todo=f"did you mean {guess!r}?" if guess else None,
            )  # fmt: skip
        elif task not in (None, tasks[name]):
            yield place, RequestError("a linear probe learns classes", given=f"{name}: {tasks[name]}", allowed=task)


def given(probes: Probes | None, folder: Path) -> dict[str, dict[str, str]]:
    """Role -> name and sha256 of each file that probes are given, for the stage's settings.

    Raises:
        RequestError: a file is not beside the spec.
    """
    if probes is None or probes.rsa is None:
        return {}
    found = {}
    for role, name in (("rsa-matrix", probes.rsa.matrix), ("rsa-images", probes.rsa.images)):
        if not (folder / name).is_file():
            raise RequestError("no such file beside the spec", given=name, allowed=f"a file below {folder}")
        found[role] = {"file": name, "sha256": sha256_file(folder / name)}
    return found


def settings(probes: Probes, files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What a probe stage is told of them."""
    told: dict[str, Any] = {"probes": probes.model_dump(mode="json")}
    return told | {"given": {role: dict(entry) for role, entry in files.items()}} if files else told
