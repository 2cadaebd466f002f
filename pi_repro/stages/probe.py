"""probe: what kept checkpoints are like inside: spectrum, likeness, distance, sharpness, linear readout, RSA.

Rule: as evaluate: a model is loaded once for all of its probes, and each finished result is sealed in scratch, so that
an interrupted stage goes on at the next probe with the same bits. Weights are compared with the seed's draw and with
those that their training began from; features besides with the baseline's at the same epoch, as its probe wrote them.

Gives probes.json and, for each checkpoint, <stage>/epoch-NNNN/<probe>.json with <probe>.items.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load

from pi_repro.data import captions
from pi_repro.errors import Interrupted, StateError
from pi_repro.evaluation import results
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.checkpoints import Checkpoint, read_training
from pi_repro.evaluation.embed import Embedder, Pulse
from pi_repro.evaluation.preprocess import clip_preprocess
from pi_repro.evaluation.probes.bench import DISTANCE, FEATURES, Bench
from pi_repro.evaluation.results import Result
from pi_repro.files import read_json, write_json
from pi_repro.spec.experiment import WHOLE
from pi_repro.spec.probes import Probes, chosen
from pi_repro.stages.context import StageContext
from pi_repro.training import determinism, weights
from pi_repro.training import model as models

INDEX = "probes.json"
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Point:
    """One checkpoint to look into.

    Attributes:
        stage: the training that kept it.
        checkpoint: the weights.
        start: those that this training began from.
        sharp: whether its sharpness is wanted.
    """

    stage: str
    checkpoint: Checkpoint
    start: Checkpoint
    sharp: bool

    @property
    def folder(self) -> str:
        """Where its results go."""
        return f"{self.stage}/{self.checkpoint.folder}"


def run(context: StageContext) -> None:
    """Fill `context.out` with probes.json and one folder of results a checkpoint.

    Raises:
        RequestError: a probe asks for a set, or images, that are not there.
        StateError: a shard, given file or weights file is missing or damaged, by name.
        Interrupted: when asked to stop; what is finished stays in scratch.
    """
    settings = context.settings
    probes = Probes.model_validate(settings["probes"])
    device = determinism.enter(settings["device"], context.processes.gpu)
    points = _points(context, probes)
    conditions = Conditions(
        preprocess=clip_preprocess(models.image_size(settings["model"])),
        tokenizer=captions.fast(models.tokenizer(settings["model"])),
        batch=probes.batch,
        precision=probes.precision,
        recall_k=(),
        workers=context.resources.workers,
        prefetch=context.resources.prefetch,
    )
    inputs = context.inputs
    bench = Bench(probes, inputs["suite"], conditions, inputs.get("pairs"), inputs, context.data_root)
    work = _Work(context, bench, device, read_training(inputs["draw"]).last, sum(len(_names(bench, p)) for p in points))
    for point in points:
        work.look(point)
    for point in points:
        for name in _names(bench, point):
            results.publish(name, context.scratch / point.folder, context.out / point.folder)
    index = {
        "arm": settings["arm"],
        "seed": settings["seed"],
        "checkpoints": [
            {
                **point.checkpoint.record(),
                "stage": point.stage,
                "folder": point.folder,
                "probes": list(_names(bench, point)),
            }
            for point in points
        ],
    }
    write_json(context.out / INDEX, index)


def _names(bench: Bench, point: Point) -> tuple[str, ...]:
    return bench.names(sharp=point.sharp)


def _points(context: StageContext, probes: Probes) -> list[Point]:
    start = read_training(context.inputs["start"]).last
    points = []
    for stage in context.settings["stages"]:
        training = read_training(context.inputs["trained"] / stage)
        kept = tuple(checkpoint.epoch for checkpoint in training.checkpoints)
        wanted = probes.at(kept) if stage in probes.stages else ()
        sharp = chosen(probes.sharpness.epochs, kept) if probes.sharpness else ()
        points += [Point(stage, training.at(epoch), start, epoch in sharp) for epoch in wanted]
        start = training.last
    return points


@dataclass
class _Work:
    context: StageContext
    bench: Bench
    device: torch.device
    draw: Checkpoint
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self._references: dict[str, Features] = {}

    def look(self, point: Point) -> None:
        """Bring all results of one checkpoint into scratch."""
        folder = self.context.scratch / point.folder
        names = _names(self.bench, point)
        pending = [name for name in names if not results.is_sealed(folder, name)]
        if kept := len(names) - len(pending):
            self.context.log.info("resume: %s has %d of %d results already", point.folder, kept, len(names))
        self.done += kept
        embedder = self._embedder(point.checkpoint) if set(pending) - {DISTANCE} else None
        for name in pending:
            note = f"{point.folder} {name}"
            self._stop_if_asked(note)
            result = self._result(name, point, embedder, self._pulse(note))
            about = {"weights_sha256": point.checkpoint.sha256, "epoch": point.checkpoint.epoch, "stage": point.stage}
            results.write(result.noting(**about), folder)
            self.done += 1
            self.context.progress(self.done, self.total, "probes", note)
            self.context.log.info("%s done", note)

    def _result(self, name: str, point: Point, embedder: Embedder | None, pulse: Pulse) -> Result:
        if name == DISTANCE:
            own = _tensors(point.checkpoint)
            return self.bench.moved(own, {role: (_tensors(c), c.sha256) for role, c in self._others(point).items()})
        assert embedder is not None
        if name != FEATURES:
            return self.bench.look(name, embedder, pulse)
        images = self.bench.features
        assert images is not None
        own_features = images.embed(embedder, pulse)
        others = {role: (self._reference(c, pulse), c.sha256) for role, c in self._others(point).items()}
        return self.bench.alike(own_features, {**others, **self._twin(point)})

    def _others(self, point: Point) -> dict[str, Checkpoint]:
        return {"draw": self.draw, "start": point.start}

    def _reference(self, checkpoint: Checkpoint, pulse: Pulse) -> Features:
        """Features of the draw or of a training's start, embedded once."""
        if checkpoint.sha256 not in self._references:
            images = self.bench.features
            assert images is not None
            self._references[checkpoint.sha256] = images.embed(self._embedder(checkpoint), pulse)
        return self._references[checkpoint.sha256]

    def _twin(self, point: Point) -> Mapping[str, tuple[Features, str]]:
        """Features of the baseline at the same epoch of its own pretraining, where it has them."""
        if "twin" not in self.context.inputs or point.stage not in WHOLE:
            return {}
        folder = self.context.inputs["twin"]
        for line in read_json(folder / INDEX)["checkpoints"]:
            if line["stage"] in WHOLE and line["epoch"] == point.checkpoint.epoch and FEATURES in line["probes"]:
                items = load((folder / line["folder"] / f"{FEATURES}.items.safetensors").read_bytes())
                images = self.bench.features
                if images is None or not np.array_equal(items["row"], images.rows):
                    raise StateError("the baseline's features are of other images", where=str(folder))
                return {"twin": (items["features"], line["sha256"])}
        return {}

    def _embedder(self, checkpoint: Checkpoint) -> Embedder:
        checkpoint.verify()
        model = models.load(self.context.settings["model"], checkpoint.file)
        conditions = self.bench.conditions
        prepare, batch = conditions.preprocess.prepare, conditions.batch
        return Embedder(model.to(self.device).eval(), prepare, str(self.device), self.bench.probes.precision, batch)

    def _pulse(self, note: str) -> Pulse:
        def pulse(done: int, of: int) -> None:
            self.context.progress(self.done, self.total, "probes", f"{note} {done}/{of}")
            self._stop_if_asked(note)

        return pulse

    def _stop_if_asked(self, where: str) -> None:
        if self.context.should_stop():
            raise Interrupted(
                "stopped on request; finished results are kept", where=where, todo="run the stage again to go on"
            )


def _tensors(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    found = weights.read(checkpoint.file, checkpoint.sha256)
    return {name: tensor.float().numpy() for name, tensor in found.items() if tensor.is_floating_point()}
