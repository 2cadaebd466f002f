"""evaluate: every kept checkpoint of a training on every set of the suite and every 2AFC split.

Rule: a model is loaded once for all sets; each finished result is sealed in scratch, so that an
interrupted evaluation goes on at the next set with the same bits. Several processes share the sets:
each judges its own and seals them, and the first publishes them all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pi_repro.data import captions
from pi_repro.errors import Interrupted
from pi_repro.evaluation import results
from pi_repro.evaluation.battery import Battery, TripletTask
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.checkpoints import Checkpoint, read_training
from pi_repro.evaluation.embed import Embedder, Pulse
from pi_repro.evaluation.preprocess import clip_preprocess
from pi_repro.files import write_json
from pi_repro.stages.context import StageContext
from pi_repro.training import determinism
from pi_repro.training import model as models


def run(context: StageContext) -> None:
    """Fill `context.out` with evaluation.json and one folder of results a checkpoint.

    Raises:
        StateError: a shard, prompt file or weights file is missing or damaged, by name.
        Interrupted: when asked to stop; what is finished stays in scratch.
    """
    settings = context.settings
    processes = context.processes
    device = determinism.enter(settings["device"], processes.gpu)
    training = read_training(context.inputs["weights"])
    battery = Battery(context.inputs["suite"], _triplet_tasks(context), _conditions(context), context.data_root)
    work = _Work(context, battery, device, battery.share(processes.rank, processes.size), training.checkpoints)
    for checkpoint in training.checkpoints:
        work.judge(checkpoint)
    if processes.rank > 0:
        return
    work.wait()
    for checkpoint in training.checkpoints:
        for name in battery.ids:
            results.publish(name, context.scratch / checkpoint.folder, context.out / checkpoint.folder)
    evaluation = {
        "arm": settings["arm"],
        "seed": settings["seed"],
        "stage": training.stage,
        "checkpoints": [checkpoint.record() for checkpoint in training.checkpoints],
        "sets": list(battery.ids),
    }
    write_json(context.out / "evaluation.json", evaluation)


@dataclass
class _Work:
    context: StageContext
    battery: Battery
    device: torch.device
    mine: tuple[str, ...]
    checkpoints: Sequence[Checkpoint]
    done: int = 0

    @property
    def total(self) -> int:
        """Results that this process owes."""
        return len(self.checkpoints) * len(self.mine)

    def judge(self, checkpoint: Checkpoint) -> None:
        """Bring all results of one checkpoint into scratch."""
        folder = self.context.scratch / checkpoint.folder
        pending = [name for name in self.mine if not results.is_sealed(folder, name)]
        kept = len(self.mine) - len(pending)
        if kept:
            self.context.log.info("resume: %s has %d of %d results already", checkpoint.folder, kept, len(self.mine))
        self.done += kept
        if not pending:
            return
        for name in pending:
            # All shards are checked before the first image is judged.
            self._stop_if_asked(checkpoint.folder)
            self.battery.open(name)
        embedder = self._embedder(checkpoint)
        for name in pending:
            note = f"{checkpoint.folder} {name}"
            self._stop_if_asked(note)
            result = self.battery.open(name).judge(embedder, self._pulse(note))
            results.write(result.noting(weights_sha256=checkpoint.sha256, epoch=checkpoint.epoch), folder)
            self.done += 1
            self.context.progress(self.done, self.total, "sets", note)
            self.context.log.info("%s: %s", note, _headline(result.record["metrics"]))

    def wait(self, poll_s: float = 0.1) -> None:
        """Wait for the results of the other processes."""
        owed = [(c.folder, name) for c in self.checkpoints for name in self.battery.ids if name not in self.mine]
        for folder, name in owed:
            while not results.is_sealed(self.context.scratch / folder, name):
                self._stop_if_asked(f"{folder} {name}")
                time.sleep(poll_s)

    def _embedder(self, checkpoint: Checkpoint) -> Embedder:
        settings = self.context.settings
        checkpoint.verify()
        model = models.load(settings["model"], checkpoint.file)
        return Embedder(
            model=model.to(self.device).eval(),
            prepare=self.battery.conditions.preprocess.prepare,
            device=str(self.device),
            precision=settings["evaluate"]["precision"],
            batch=settings["evaluate"]["batch"],
        )

    def _pulse(self, note: str) -> Pulse:
        def pulse(done: int, of: int) -> None:
            self.context.progress(self.done, self.total, "sets", f"{note} {done}/{of}")
            self._stop_if_asked(note)

        return pulse

    def _stop_if_asked(self, where: str) -> None:
        if self.context.should_stop():
            raise Interrupted(
                "stopped on request; finished results are kept", where=where, todo="run the stage again to go on"
            )


def _conditions(context: StageContext) -> Conditions:
    evaluate = context.settings["evaluate"]
    model = context.settings["model"]
    return Conditions(
        preprocess=clip_preprocess(models.image_size(model)),
        tokenizer=captions.fast(models.tokenizer(model)),
        batch=evaluate["batch"],
        precision=evaluate["precision"],
        recall_k=tuple(evaluate["recall_k"]),
        workers=context.resources.workers,
        prefetch=context.resources.prefetch,
    )


def _triplet_tasks(context: StageContext) -> tuple[TripletTask, ...]:
    return tuple(
        (entry["data"], Path(context.inputs[f"triplets-{number}"]), tuple(entry["splits"]))
        for number, entry in enumerate(context.settings["evaluate"]["two_afc"])
    )


def _headline(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
