"""An experiment: science (hashed) and resources (never hashed), arms as overrides of a base."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Frozen, Name, NonNegative, Positive, Seed, is_power_of_two
from .training import Align, Pretrain


class Model(Frozen):
    """An open_clip model drawn from scratch."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="open_clip's name, or a config under specs/models/",
    )
    initialization: Literal["open_clip"] = Field(description="whose rule draws the weights")
    logit_scale_init: NonNegative = Field(description="natural log; ln(1/0.07) = 2.659 in open_clip")
    logit_scale_max: Positive = Field(description="upper bound of exp(logit scale)")


class TwoAFC(Frozen):
    """Two-alternative forced choice against the triplet votes."""

    data: Name
    splits: tuple[Literal["train", "val", "test"], ...]


class Evaluate(Frozen):
    """Zero-shot and retrieval by clip_benchmark's protocol, and 2AFC."""

    suite: Name
    batch: Count = Field(description="images a forward pass; the last is padded to it")
    precision: Literal["fp32", "bf16"]
    recall_k: tuple[Count, ...]
    two_afc: tuple[TwoAFC, ...] = Field(min_length=1, max_length=2)


class Arm(Frozen):
    """What one arm does: the stages it runs, from which start, with which overrides."""

    description: str
    start: str = Field(
        default="draw",
        description="'draw': the seed's initial weights; or an arm whose last pretrained weights it takes",
    )
    stages: tuple[Literal["initialize", "pretrain", "finetune"], ...]
    override: dict[Literal["initialize", "pretrain", "finetune"], dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Arm:
        order = ["initialize", "pretrain", "finetune"]
        if not self.stages or [s for s in order if s in self.stages] != list(self.stages):
            raise ValueError("stages are one or more of initialize, pretrain, finetune, in that order")
        if self.start != "draw" and self.stages != ("finetune",):
            raise ValueError("an arm that starts from another arm runs finetune alone")
        if self.start == "draw" and "pretrain" not in self.stages:
            raise ValueError("an arm that starts from the draw runs pretrain")
        strangers = sorted(set(self.override) - set(self.stages))
        if strangers:
            raise ValueError(f"override names stages that the arm does not run: {', '.join(strangers)}")
        return self


class Science(Frozen):
    """Everything that decides the bits of a result."""

    device: Literal["cpu", "cuda"]
    mode: Literal["exact", "fast"] = Field(
        description="exact: the same bits on any number of processes; fast: DDP and whatever kernels are "
        "quickest, for exploration, compared by statistics only"
    )
    seeds: tuple[Seed, ...] = Field(min_length=1)
    model: Model
    initialize: Align | None = None
    pretrain: Pretrain
    finetune: Align | None = None
    evaluate: Evaluate
    arms: dict[Name, Arm] = Field(min_length=1)
    baseline: Name = Field(description="the arm that the others are compared with")

    @model_validator(mode="after")
    def _arms_fit(self) -> Science:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not an arm")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is named twice")
        for name, arm in self.arms.items():
            for stage in arm.stages:
                if getattr(self, stage) is None:
                    raise ValueError(f"arm {name!r} runs {stage}, which the science does not describe")
            if arm.start != "draw":
                other = self.arms.get(arm.start)
                if other is None or "pretrain" not in other.stages or other.start != "draw":
                    raise ValueError(f"arm {name!r} starts from {arm.start!r}, which is no pretrained arm")
        return self


class Rate(Frozen):
    """What a stage costs: seconds of fixed start, and samples (or images) a second a device."""

    startup_s: NonNegative
    per_second: Positive
    source: str = Field(description="where the figure comes from: measured, or whose published rate")


class Resources(Frozen):
    """What changes no bit: devices, workers, limits, and the figures that cost is planned with."""

    gpus: Annotated[int, Field(ge=0)] = Field(description="GPUs of one job, a process each; 0 on CPU")
    processes: Count = Field(default=1, description="processes of one job on CPU; on GPUs their number decides")
    gpu_memory_gb: NonNegative = Field(default=0, description="least memory of a GPU")
    parallel: Count = Field(description="stages run side by side on one machine")
    workers: Annotated[int, Field(ge=0)] = Field(description="loader processes of a training stage")
    prefetch: Count = Field(description="batches each loader process keeps ready")
    prefetch_mb: Count = Field(default=1024, description="most MiB that all batches kept ready take in a process")
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, more time, same bits"
    )
    checkpoint_every: Count = Field(description="updates between checkpoints")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(), description="who draws the curves of a training while it runs; the extra `loggers` installs both"
    )
    device_watts: Positive = Field(description="mean power of one device with its share of the host")
    grid_g_per_kwh: NonNegative = Field(description="declared carbon intensity, g CO2e a kWh")
    rates: dict[Literal["align", "pretrain", "evaluate"], Rate]

    @property
    def world(self) -> int:
        """Processes of one job."""
        return self.gpus or self.processes

    def share(self, micro_batches: int) -> int:
        """Processes among which the micro-batches of a batch are divided: no more than there are."""
        return min(self.world, micro_batches)


class Experiment(Frozen):
    """One YAML file under specs/."""

    name: Name
    title: str
    notice: str = Field(default="", description="a line that every figure and table bears")
    science: Science
    resources: Resources

    @model_validator(mode="after")
    def _processes_fit(self) -> Experiment:
        if (self.science.device == "cuda") != (self.resources.gpus > 0):
            raise ValueError(
                f"science.device is {self.science.device} and resources.gpus {self.resources.gpus}: "
                "cuda needs GPUs, and cpu takes none"
            )
        pretrain, world = self.science.pretrain, self.resources.world
        most = pretrain.batch // pretrain.micro_batch
        if not is_power_of_two(world) or world > most:
            sizes = [1 << power for power in range(most.bit_length())]
            raise ValueError(
                f"resources ask for {world} {'GPUs' if self.resources.gpus else 'processes'} a job, among which "
                f"the {most} micro-batches of a pretraining batch can't be divided; {', '.join(map(str, sizes))} can"
            )
        return self
