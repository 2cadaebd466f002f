"""How a model learns: optimizer, schedule, augmentation and the three training verbs.

Every field is science (hashed), and a spec, or the one it extends, states it. The few that have a default are
switches of controls: at their default they are left out of what is hashed, so a stage that does not use one
is the stage it was before there was one. Units stand in the field's description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Count, Fraction, Frozen, Name, NonNegative, Positive, Share, is_power_of_two

Scalar = bool | int | float | str
#: What an entry point, or a built-in part, may be called.
NAME_OF_PART = r"^[a-z][a-z0-9_]*$"


def _is_default(default: object) -> Callable[[object], bool]:
    """For `exclude_if`: a field at its default is not dumped, and so not hashed."""
    return lambda value: value == default


class Optimizer(Frozen):
    """AdamW (decoupled decay), Adam, or one that an entry point offers; and which tensors it decays."""

    name: str = Field(
        pattern=NAME_OF_PART, max_length=64, description="adamw, adam, or an entry point in pi_repro.optimizers"
    )
    lr: Positive = Field(description="peak learning rate")
    betas: tuple[Fraction, Fraction]
    eps: Positive
    weight_decay: NonNegative
    decay: Literal["matrices", "all"] = Field(
        description="'matrices': no decay on 1-d tensors, biases, norms, embeddings of position "
        "and class, and the logit scale; 'all': every trained tensor"
    )
    clip_norm: Positive | None = Field(description="global gradient norm limit; null for none")
    implementation: Literal["fused", "foreach", "single"] = Field(
        description="torch kernel; part of science because it can alter bits; one from an entry point has its own"
    )
    options: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict, description="of one from an entry point", exclude_if=_is_default({})
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Optimizer:
        own = self.name in ("adamw", "adam")
        if own and self.options:
            raise ValueError(f"{self.name} takes no options: all it has are fields")
        return self


class Schedule(Frozen):
    """Linear warm-up, then cosine to zero or constant."""

    kind: Literal["cosine", "constant"]
    warmup_updates: Annotated[int, Field(ge=0)]
    horizon: Literal["updates", "micro_batches"] = Field(
        default="updates",
        exclude_if=_is_default("updates"),
        description="what the cosine's length is counted in. updates: it ends with the training. micro_batches: the "
        "lineage's quirk (FACTS 1.5, 2), whose length counts the accumulated batches while it moves on once an "
        "update, so with accumulation A it ends after 1/A of its course; without accumulation both are the same",
    )


class Augmentation(Frozen):
    """Training transform of an image; randomness is keyed by (seed, epoch, sample id)."""

    kind: Literal["resize", "center_crop", "random_resized_crop", "mocov2"] = Field(
        description="resize: to a square, aspect not kept; center_crop: open_clip's evaluation "
        "transform; random_resized_crop: open_clip's training transform; mocov2: crop, colour "
        "jitter, grey, blur, flip as in the lineage (FACTS 1.3)"
    )
    scale: tuple[Fraction, Fraction] | None = Field(
        default=None, description="area range of the random crop; only for the random kinds"
    )

    @model_validator(mode="after")
    def _scale_fits(self) -> Augmentation:
        random = self.kind in ("random_resized_crop", "mocov2")
        if random and (self.scale is None or not 0 < self.scale[0] <= self.scale[1]):
            raise ValueError(f"{self.kind} needs scale: [low, high] with 0 < low <= high <= 1")
        if not random and self.scale is not None:
            raise ValueError(f"{self.kind} takes no scale")
        return self


class Plugin(Frozen):
    """A named part with options: built in, or offered by an entry point."""

    name: str = Field(pattern=NAME_OF_PART, max_length=64)
    options: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)


class _Learning(Frozen):
    epochs: Count
    batch: Count = Field(description="samples of one batch: contrastive pairs, or triplets")
    micro_batch: Count = Field(description="samples of one forward pass; batch / micro_batch is a power of two")
    optimizer: Optimizer
    schedule: Schedule
    augmentation: Augmentation
    precision: Literal["fp32", "bf16"]
    shuffle_block: Count = Field(description="shards shuffled together as one block")
    keep_epochs: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        description="epochs whose weights are published, 0 being the start; the last is always kept"
    )
    checksum_every: Count = Field(description="updates between checksums of all weights in the ledger")

    @model_validator(mode="after")
    def _fits(self) -> _Learning:
        micro_batches, rest = divmod(self.batch, self.micro_batch)
        if rest or not is_power_of_two(micro_batches):
            raise ValueError(
                f"batch {self.batch} is not micro_batch {self.micro_batch} times a power of two "
                "(the tree sum needs 1, 2, 4, ... micro-batches)"
            )
        if any(epoch > self.epochs for epoch in self.keep_epochs):
            raise ValueError(f"keep_epochs names an epoch past the last, {self.epochs}")
        if list(self.keep_epochs) != sorted(set(self.keep_epochs)):
            raise ValueError("keep_epochs must rise and name each epoch once")
        return self


class _Triplets(Frozen):
    """Which triplets are learned from, by which loss, with whose labels."""

    data: Name = Field(description="card of the triplets, under specs/data/")
    objective: Plugin
    fraction: Share = Field(
        default=1.0,
        exclude_if=_is_default(1.0),
        description="share of the training split, drawn by the seed; a smaller share is part of a larger one. An "
        "epoch keeps its length: the triplets drawn are gone through again until it is full, so that a dose "
        "changes how many judgements are seen and neither steps nor schedule",
    )
    labels: Plugin | None = Field(
        default=None,
        exclude_if=_is_default(None),
        description="who labels the training split instead of its own votes: shuffled, flipped, pixels, concepts, "
        "or an entry point in pi_repro.labels; val and test keep their votes",
    )


class Align(_Learning, _Triplets):
    """Stage 1 (initialize) and the post-hoc control (finetune): learning from triplets."""

    adapter: Plugin = Field(description="which tensors train")


class Pretrain(_Learning):
    """Stage 2: CLIP on image-text pairs."""

    data: Name = Field(description="card of the pairs, under specs/data/")
    accumulation: Count = Field(description="contrastive batches accumulated before an update")
    publish_states: tuple[Count, ...] = Field(
        description="updates whose full state is published, so that anyone can verify a stretch"
    )
    extra_updates: Annotated[int, Field(ge=0)] = Field(
        default=0,
        exclude_if=_is_default(0),
        description="updates before the first epoch begins to count: as many as another arm's stage 1 has, so that "
        "at the end of every epoch both have made equally many; warm-up and schedule span them too",
    )
    freeze: tuple[Literal["image", "text"], ...] = Field(
        default=(),
        max_length=1,
        exclude_if=_is_default(()),
        description="a tower that does not train; the logit scale always does",
    )
    caption_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        exclude_if=_is_default(0.0),
        description="share of the pairs, drawn by the seed, each of which shows the caption of another of them",
    )


class Auxiliary(_Triplets):
    """The triplet term of joint training: in every update, on the image tower, beside CLIP's loss."""

    weight: Positive = Field(description="of the term's mean loss, beside CLIP's at 1")
    batch: Count = Field(description="triplets an update")
    micro_batch: Count = Field(description="triplets of one forward pass")
    augmentation: Augmentation
    shuffle_block: Count = Field(description="shards shuffled together as one block")


class Joint(Pretrain):
    """Stage 2 with the triplet term kept through all of it."""

    auxiliary: Auxiliary

    @model_validator(mode="after")
    def _same_share(self) -> Joint:
        passes, own = self.batch // self.micro_batch, divmod(self.auxiliary.batch, self.auxiliary.micro_batch)
        if own != (passes, 0):
            raise ValueError(
                f"auxiliary.batch {self.auxiliary.batch} is not {passes} times auxiliary.micro_batch "
                f"{self.auxiliary.micro_batch}: it has as many micro-batches as a batch of pairs, {passes}, so that "
                "processes share both alike"
            )
        if "image" in self.freeze:
            raise ValueError("a frozen image tower can't learn triplets: freeze text, or leave the term out")
        return self
