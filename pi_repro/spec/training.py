"""How a model learns: optimizer, schedule, augmentation and the two training verbs.

Every field is science (hashed) and none has a default: a spec, or the base it extends,
states it. Units stand in the field's description.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Count, Fraction, Frozen, Name, NonNegative, Positive, is_power_of_two

Scalar = bool | int | float | str


class Optimizer(Frozen):
    """AdamW (decoupled decay) or Adam, and which tensors it decays."""

    name: Literal["adamw", "adam"]
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
        description="torch kernel; part of science because it can alter bits"
    )


class Schedule(Frozen):
    """Linear warm-up, then cosine to zero or constant; its horizon is counted in updates."""

    kind: Literal["cosine", "constant"]
    warmup_updates: Annotated[int, Field(ge=0)]


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

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
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


class Align(_Learning):
    """Stage 1 (initialize) and the post-hoc control (finetune): learning from triplets."""

    data: Name = Field(description="card of the triplets, under specs/data/")
    objective: Plugin
    adapter: Plugin = Field(description="which tensors train")


class Pretrain(_Learning):
    """Stage 2: CLIP on image-text pairs."""

    data: Name = Field(description="card of the pairs, under specs/data/")
    accumulation: Count = Field(description="contrastive batches accumulated before an update")
    publish_states: tuple[Count, ...] = Field(
        description="updates whose full state is published, so that anyone can verify a stretch"
    )
