"""An experiment: science (hashed) and resources (never hashed), arms as overrides of a base."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Frozen, Name, NonNegative, Positive, Seed, is_power_of_two
from .grids import written_out
from .probes import Probes
from .training import NAME_OF_PART, Align, Auxiliary, Pretrain

TrainingStage = Literal["initialize", "pretrain", "joint", "finetune"]
#: The stages that give a whole model, from which a post-hoc arm may start.
WHOLE = ("pretrain", "joint")


class Model(Frozen):
    """An open_clip model drawn from scratch."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="open_clip's name, or a config under specs/models/",
    )
    initialization: str = Field(
        pattern=NAME_OF_PART,
        max_length=64,
        description="whose rule draws the weights: open_clip's own, lineage (the image tower by FACTS 1.2), or an "
        "entry point in pi_repro.initializations",
    )
    logit_scale_init: NonNegative = Field(description="natural log; ln(1/0.07) = 2.659 in open_clip")
    logit_scale_max: Positive = Field(description="upper bound of exp(logit scale)")
    text_pooling: Literal["open_clip", "mean"] = Field(
        default="open_clip",
        exclude_if=lambda pooling: pooling == "open_clip",
        description="open_clip: causal attention, the end-of-text token's feature, zero padding; mean: the lineage's "
        "quirk (FACTS 1.5, 1), no mask, the mean over tokens other than 0, padding with the end-of-text id 49407; "
        "such weights have no twin in open_clip",
    )


class TwoAFC(Frozen):
    """Two-alternative forced choice against the triplet votes."""

    data: Name
    splits: tuple[Literal["train", "val", "test", "test_imagenet", "test_no_imagenet"], ...] = Field(
        description="the halves of test are for data that say which categories come from ImageNet"
    )


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
    stages: tuple[TrainingStage, ...]
    override: dict[TrainingStage, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Arm:
        order = ["initialize", "pretrain", "joint", "finetune"]
        if not self.stages or [s for s in order if s in self.stages] != list(self.stages) or len(self.whole) > 1:
            raise ValueError("stages are one or more of initialize, pretrain or joint, finetune, in that order")
        if self.start != "draw" and self.stages != ("finetune",):
            raise ValueError("an arm that starts from another arm runs finetune alone")
        if self.start == "draw" and not self.whole:
            raise ValueError("an arm that starts from the draw runs pretrain or joint")
        strangers = sorted(set(self.override) - set(self.stages))
        if strangers:
            raise ValueError(f"override names stages that the arm does not run: {', '.join(strangers)}")
        return self

    @property
    def whole(self) -> tuple[str, ...]:
        """Those of its stages that give a whole model: pretrain or joint."""
        return tuple(stage for stage in self.stages if stage in WHOLE)


class Report(Frozen):
    """What a report says beyond arms, sets and curves: tests, gated wins, power, and the paper's claims.

    With it all intervals are those over new seeds and new items (analysis/intervals.py), without it percentiles of
    a bootstrap, as in reports from before there was this choice.
    """

    claims: Name | None = Field(default=None, description="a file of claims beside the spec: claims, or null")
    treatment: Name = Field(description="the arm that stands for the paper's perceptual initialization")
    posthoc: Name | None = Field(default=None, description="the arm that stands for alignment after pretraining")


class Science(Frozen):
    """Everything that decides the bits of a result."""

    shorthand = ("grids",)

    device: Literal["cpu", "cuda"]
    mode: Literal["exact", "fast"] = Field(
        description="exact: the same bits on any number of processes; fast: DDP and whatever kernels are "
        "quickest, for exploration, compared by statistics only"
    )
    seeds: tuple[Seed, ...] = Field(min_length=1)
    model: Model
    initialize: Align | None = None
    pretrain: Pretrain
    auxiliary: Auxiliary | None = Field(
        default=None, description="the triplet term that a joint stage adds to pretrain's settings"
    )
    finetune: Align | None = None
    evaluate: Evaluate
    arms: dict[Name, Arm] = Field(min_length=1)
    baseline: Name = Field(description="the arm that the others are compared with")
    report: Report | None = Field(
        default=None,
        description="statistics and claims in the report; null: arms, sets and curves alone",
        exclude_if=lambda report: report is None,
    )
    probes: Probes | None = Field(
        default=None,
        description="what is looked at in kept checkpoints beside what they score; null: nothing",
        exclude_if=lambda probes: probes is None,
    )

    @model_validator(mode="before")
    @classmethod
    def _write_out_grids(cls, data: Any) -> Any:
        return written_out(data)

    @model_validator(mode="after")
    def _arms_fit(self) -> Science:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not an arm")
        for role in ("treatment", "posthoc") if self.report else ():
            arm = getattr(self.report, role)
            if arm is not None and (arm not in self.arms or arm == self.baseline):
                raise ValueError(f"report.{role} {arm!r} is not an arm other than the baseline")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is named twice")
        for name, arm in self.arms.items():
            for stage in arm.stages:
                needed = "auxiliary" if stage == "joint" else stage
                if getattr(self, needed) is None:
                    raise ValueError(f"arm {name!r} runs {stage}, which the science does not describe: no {needed}")
            if arm.start != "draw":
                other = self.arms.get(arm.start)
                if other is None or not other.whole or other.start != "draw":
                    raise ValueError(f"arm {name!r} starts from {arm.start!r}, which is no pretrained arm")
        return self

    def base(self, stage: str) -> dict[str, Any]:
        """A training stage's settings before any arm's overrides; a joint stage's are pretrain's and `auxiliary`."""
        settings = self.pretrain if stage == "joint" else getattr(self, stage)
        found: dict[str, Any] = settings.model_dump(mode="json")
        if stage == "joint" and self.auxiliary is not None:
            found["auxiliary"] = self.auxiliary.model_dump(mode="json")
        return found


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

    shorthand = ("extends",)

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
