"""The training loop of every stage that learns.

Rule: the state after update k is a function of (start, settings, data, k). It is checkpointed in
scratch; a run that was killed goes on from the last whole checkpoint, with as many processes as it
likes, and ends with the same bytes in every output. Nothing of time, host or history reaches an
output. All processes hold the same state; the chief alone writes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from pi_repro.data.loader import Source, micro_batches
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import write_atomic, write_json
from pi_repro.spec.training import Optimizer as OptimizerSettings
from pi_repro.spec.training import Schedule
from pi_repro.stages.context import StageContext, Stretch

from . import checkpoint, weights
from . import ledger as ledgers
from . import optimizer as optimizers
from .checkpoint import Checkpoints, State
from .course import Course
from .determinism import device_model, reseed
from .kept import Kept
from .ledger import Ledger
from .loggers import Loggers
from .optimizer import Optimizer
from .processes import Group
from .schedule import LearningRate
from .step import LOGIT_SCALE, Batch, Learner


@dataclass(frozen=True)
class Training:
    """One training, ready to run.

    Attributes:
        stage: initialize, pretrain, joint or finetune.
        model: on its device; what requires a gradient trains.
        settings: of the model, written into every weights file.
        weights: the model as a plain open_clip state dict.
        learner: gives gradients.
        source: of micro-batches.
        group: the processes that train.
        course: which samples when.
        optimizer: settings.
        schedule: of the learning rate.
        keep_epochs: whose weights are published; the last is kept anyway.
        publish_states: updates whose full state is published.
        checksum_every: updates between checksums of all weights.
        about: more that training.json says: seed, and what was learned from.
    """

    stage: str
    model: nn.Module
    settings: Mapping[str, Any]
    weights: Callable[[nn.Module], Mapping[str, torch.Tensor]]
    learner: Learner
    source: Source
    group: Group
    course: Course
    optimizer: OptimizerSettings
    schedule: Schedule
    keep_epochs: tuple[int, ...]
    publish_states: tuple[int, ...]
    checksum_every: int
    about: Mapping[str, Any]

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, in the model's order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def train(training: Training, context: StageContext) -> None:
    """Train, and fill `context.out` with weights, states, ledger, curves and training.json.

    Of a stretch, the ledger's lines and what training.json says of them are all that is written.

    Raises:
        RequestError: the settings don't fit each other or the data.
        StateError: data damaged, loss not finite, a checkpoint of another device model, or no such logger installed.
        Interrupted: asked to stop; the state was saved.
    """
    if late := [update for update in training.publish_states if update > training.course.total]:
        raise RequestError(
            "publish_states names an update past the last",
            where="publish_states",
            given=", ".join(map(str, late)),
            allowed=f"1 to {training.course.total}",
        )
    run = _Run(training, context)
    if context.stretch is not None:
        run.begin_stretch(context.stretch)
        run.learn(context.stretch.end)
        run.publish_stretch(context.stretch)
        return
    run.begin()
    run.learn(training.course.total)
    run.publish()


class _Run:
    """A training under way."""

    def __init__(self, training: Training, context: StageContext) -> None:
        self.training = training
        self.context = context
        self.course = training.course
        self.group = training.group
        self.chief = training.group.chief
        self.loggers = Loggers(context)
        self.optimizer = Optimizer(training.optimizer, training.trained)
        self.rate = LearningRate(training.schedule, training.optimizer.lr, self.course.total, self.course.accumulation)
        device = device_model(next(training.model.parameters()).device)
        self.checkpoints = Checkpoints(context.scratch / "checkpoints", device, context.log)
        self.file = context.scratch / "ledger.jsonl"
        self.kept = Kept(context.scratch / "kept")
        self.done = 0
        self.saved = 0

    def begin(self) -> None:
        """Go on from the newest whole checkpoint, or begin."""
        state = self._latest()
        if state is None:
            self._open_ledger()
            self._keep()
            return
        self._restore(state)
        self._open_ledger(state.notes["ledger"])
        self.kept = Kept(self.kept.folder, state.notes["kept"])
        self.saved = state.update
        self.context.log.info("resumed from update %d", self.done)

    def begin_stretch(self, stretch: Stretch) -> None:
        """Begin where a published state stands."""
        self._open_ledger()
        if stretch.state is not None:
            self._restore(checkpoint.read(stretch.state))
        if self.done != stretch.begin or stretch.end > self.course.total:
            raise RequestError(
                "no such stretch",
                given=f"updates {stretch.begin + 1} to {stretch.end}",
                allowed=f"from update {self.done} on, to {self.course.total} at most",
            )

    def _latest(self) -> State | None:
        """The chief looks for the newest whole state; the others read the same one."""
        state = self.checkpoints.latest(self._fits) if self.chief else None
        update = self.group.number(-1 if state is None else state.update)
        return state if self.chief or update < 0 else self.checkpoints.of(update)

    def _restore(self, state: State) -> None:
        self.training.model.load_state_dict(state.weights)
        self.optimizer.restore(state.optimizer)
        self.done = state.update

    def _open_ledger(self, mark: Mapping[str, Any] | None = None) -> None:
        self.ledger = Ledger(self.file, mark) if self.chief else None

    def _fits(self, state: State) -> None:
        """Raises StateError where what lies beside a checkpoint is not what it lists."""
        Kept(self.kept.folder, state.notes["kept"]).check()
        ledgers.marked(self.file, state.notes["ledger"])

    def learn(self, end: int) -> None:
        """All updates that are left up to the last one wanted."""
        self.training.model.train()
        resources, training = self.context.resources, self.training
        mine = self.group.share(self.course.batch // self.course.micro_batch)
        self.context.log.info(
            "process %d of %d computes %d of the %d micro-batches of a batch",
            self.group.rank,
            self.group.size,
            len(mine),
            self.course.batch // self.course.micro_batch,
        )
        training.source.divide_caches(self.group.size)
        schedule = self.course.micro_batches(self.done, end, mine)
        loader = micro_batches(
            training.source,
            schedule,
            resources.workers,
            resources.prefetch,
            bytes_limit=resources.prefetch_mb << 20,
            pin=self.group.device.type == "cuda",
        )
        with closing(self.loggers), closing(cast("Generator[Batch]", loader)) as batches:
            while self.done < end:
                self._update(batches, end)
                self._keep()
                stopping = self.group.any(self.context.should_stop())
                if stopping or self.done % resources.checkpoint_every == 0 or self.done == end:
                    self._save()
                if stopping and self.done < end:
                    self.group.barrier()  # a launcher ends all when one has ended; the chief may still be writing
                    saved = "begin it again" if self.context.stretch else "which is saved; run again to resume"
                    raise Interrupted(f"stopped after update {self.done}, {saved}")

    def _update(self, batches: Iterator[Batch], end: int) -> None:
        update = self.done + 1
        gradient = self.training.learner.gradient(update, batches)
        loss, norm = gradient.loss.item(), optimizers.norm(gradient.values)
        if not math.isfinite(loss + norm):
            raise StateError(
                "training diverged: its loss or gradient is not finite",
                where=f"update {update}",
                given=f"loss {loss}, gradient norm {norm}",
                todo="lower the learning rate, or clip the gradient",
            )
        if self.training.optimizer.clip_norm is not None:
            optimizers.clip(gradient.values, norm, self.training.optimizer.clip_norm)
        rate = self.rate.at(update)
        reseed(int(self.training.about["seed"]), update, -1)  # for an optimizer that draws; all processes draw alike
        self.optimizer.step(gradient.values, rate)
        self.training.learner.settle()
        self.done = update
        checksum = None
        if update % self.training.checksum_every == 0 or update == self.course.total:
            checksum = weights.checksum(self.training.weights(self.training.model))
            self.group.agree(checksum, f"the weights after update {update}")
        if self.ledger is not None:
            line = self._line(loss, norm, rate, checksum) | {name: term.item() for name, term in gradient.terms.items()}
            self.ledger.add(line)
            self.loggers.add(line)
            self.context.progress(update, end, "updates", f"loss {loss:.4f}")

    def _line(self, loss: float, norm: float, rate: float, checksum: str | None) -> dict[str, Any]:
        """What the ledger says of the update that was just done."""
        update = self.done
        parameters = self.optimizer.parameters
        line = {
            "update": update,
            "loss": loss,
            "loss_bits": ledgers.bits(loss),
            "grad_norm_bits": ledgers.bits(norm),
            "lr": rate,
            "samples": self.course.sample_hash(update),
            "tensors": weights.sums(parameters.values()),
        }
        if LOGIT_SCALE in parameters:
            line[LOGIT_SCALE] = parameters[LOGIT_SCALE].item()
        if checksum is not None:
            line["weights"] = checksum
        return line

    def _keep(self) -> None:
        """Keep what is to be published of this moment; then a checkpoint lists it."""
        if not self.chief or self.context.stretch is not None:
            return
        training, before = self.training, len(self.kept.weights) + len(self.kept.states)
        epoch = self.course.ended_epoch(self.done)
        if epoch is not None and (epoch in training.keep_epochs or epoch == self.course.epochs):
            about = {
                "stage": training.stage,
                "model": dict(training.settings),
                "epoch": epoch,
                "update": self.done,
                "samples": self.done * self.course.samples,
            }
            self.kept.keep_weights(about, training.weights(training.model))
        if self.done in training.publish_states:
            self.kept.keep_state(State(self.done, training.model.state_dict(), self.optimizer.state()))
        if self.done and len(self.kept.weights) + len(self.kept.states) > before:
            self._save()

    def _save(self) -> None:
        if self.ledger is None or self.saved == self.done or self.context.stretch is not None:
            return
        self.loggers.flush()
        notes = {"kept": self.kept.notes(), "ledger": self.ledger.mark()}
        self.checkpoints.save(State(self.done, self.training.model.state_dict(), self.optimizer.state(), notes))
        self.saved = self.done

    def publish(self) -> None:
        """Fill the output folder; training.json comes last."""
        if self.ledger is None:
            return
        self.ledger.close()
        out, course = self.context.out, self.course
        self.kept.publish(out)
        shutil.copyfile(self.file, out / "ledger.jsonl")
        write_atomic(out / "curves.csv", ledgers.curves(self.file, course.per_epoch, course.samples, course.extra))
        about = {
            **self.training.about,
            "stage": self.training.stage,
            "model": dict(self.training.settings),
            "checkpoints": self.kept.weights,
            "last": self.kept.weights[-1]["file"],
            "states": self.kept.states,
            "trained": list(self.training.trained),
            "updates": course.total,
            "updates_per_epoch": course.per_epoch,
            "samples_per_update": course.samples,
            **({"extra_updates": course.extra} if course.extra else {}),
        }
        write_json(out / weights.TRAINING, about)

    def publish_stretch(self, stretch: Stretch) -> None:
        """The ledger's lines of a stretch, and what they are about."""
        if self.ledger is None:
            return
        self.ledger.close()
        shutil.copyfile(self.file, self.context.out / "ledger.jsonl")
        about = {
            "stage": self.training.stage,
            "trained": list(self.training.trained),
            "updates": [stretch.begin + 1, stretch.end],
        }
        write_json(self.context.out / weights.TRAINING, about)
