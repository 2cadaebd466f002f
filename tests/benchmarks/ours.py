"""Our side of a race: pretraining as the stage pretrain runs it, on pairs that are in memory.

Rule: nothing of the training is left out (norm, optimizer, ledger with its checksums); only the loader is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from pi_repro.spec.training import Optimizer, Schedule
from pi_repro.stages.context import Processes, Progress
from pi_repro.training import determinism, learners
from pi_repro.training import model as models
from pi_repro.training.course import Course
from pi_repro.training.loop import Training, train
from pi_repro.training.processes import join
from pi_repro.training.step import Conditions
from tests.training import samples

from .pairs import Stored

ONE = Processes()


def pretrain(
    settings: Mapping[str, Any],
    source: Stored,
    micro_batch: int,
    epochs: int,
    folder: Path,
    progress: Progress,
    *,
    mode: Literal["exact", "fast"] = "exact",
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    checkpoint_every: int = 10**9,
    processes: Processes = ONE,
) -> None:
    """Train from weights of seed 0, or go on where the folder's scratch stands; fills folder/out.

    Args:
        settings: the model's.
        source: whose batches are one update each.
        micro_batch: pairs of a forward pass.
        epochs: passes through the source.
        folder: for scratch and out.
        progress: called after each update.
        mode: as in a spec.
        device: "cpu" or "cuda".
        precision: as in a spec.
        checkpoint_every: updates.
        processes: who computes.
    """
    place = determinism.enter(device, 0, mode)
    context = samples.context("pretrain", {}, {}, folder, checkpoint_every=checkpoint_every)
    torch.manual_seed(0)
    model = learners.prepare(models.build(settings), place, context.resources)
    batch = len(source.parts[0][0])
    conditions = Conditions(place, precision, 0, micro_batch, batch // micro_batch)
    group = join(processes, place)
    training = Training(
        stage="pretrain",
        model=model,
        settings=settings,
        weights=lambda module: module.state_dict(),
        learner=learners.contrastive(mode, model, conditions, 1, settings, group),
        source=source,
        group=group,
        course=Course(source.order, epochs, batch, micro_batch),
        optimizer=Optimizer.model_validate(samples.OPTIMIZER),
        schedule=Schedule(kind="cosine", warmup_updates=2),
        keep_epochs=(),
        publish_states=(),
        checksum_every=50,
        about={"seed": 0},
    )
    train(training, replace(context, progress=progress))
