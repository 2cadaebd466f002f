"""Mode fast against mode exact: the same gradients but for rounding, on any number of processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pi_repro.errors import Interrupted, RequestError
from pi_repro.provenance.determinism_env import ENVIRONMENT, environment
from pi_repro.stages import align, pretrain
from pi_repro.stages.context import Processes
from pi_repro.training import determinism, learners, objectives
from pi_repro.training import model as models
from pi_repro.training.fast import FastAlignment, FastContrastive
from pi_repro.training.processes import Group, alone, join
from pi_repro.training.step import Batch, Gradient

from . import samples
from .test_losses import BATCH, HINGE, batches, conditions, cut, double_model

FORK = multiprocessing.get_context("fork")
CPU = torch.device("cpu")
WHERE = conditions(4)
MODES: tuple[Any, ...] = ("exact", "fast")


class _Hinge:
    """The triplet hinge, in whatever type the features have."""

    images = ("ref", "left", "right")

    def loss(self, features: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return objectives.objective(HINGE).loss(features, targets)


def pairs_gradient(mode: Any, accumulation: int, group: Group) -> Gradient:
    """Of the second update, in float64, so that only a wrong formula can differ by more than rounding."""
    model = double_model()
    learner = learners.contrastive(mode, model, WHERE, accumulation, {"logit_scale_max": 100.0}, group)
    learner.gradient(1, _mine(cut(batches(1) * accumulation, WHERE.size), group))
    return learner.gradient(2, _mine(cut(batches(accumulation), WHERE.size), group))


def triplets_gradient(mode: Any, _accumulation: int, group: Group) -> Gradient:
    model = double_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual.transformer"))
    images = dict(zip(_Hinge.images, (batch["image"] for batch in batches(3)), strict=True))
    whole = {**images, "label": torch.arange(BATCH, dtype=torch.uint8) % 2}
    return learners.alignment(mode, model, WHERE, _Hinge(), group).gradient(1, _mine(cut([whole], WHERE.size), group))


def _mine(parts: list[dict[str, torch.Tensor]], group: Group) -> Iterator[Batch]:
    return (part for number, part in enumerate(parts) if number % WHERE.micro_batches in group.share(4))


def _one(compute: Callable[..., Gradient], accumulation: int, processes: Processes, file: Path) -> None:
    found = compute("fast", accumulation, join(processes, CPU))
    save_file({**{name: value.contiguous() for name, value in found.values.items()}, "loss": found.loss}, file)


def together(size: int, folder: Path, target: Callable[..., None], *arguments: Any) -> None:
    """Run so many processes, each with its view of all and a file of its own."""
    meet = str(folder / "meet")
    everyone = [
        FORK.Process(target=target, args=(*arguments, Processes(rank, size, rank, meet), folder / str(rank)))
        for rank in range(size)
    ]
    for each in everyone:
        each.start()
    for each in everyone:
        each.join()
        assert each.exitcode == 0


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("compute", "accumulation"),
    [(pairs_gradient, 1), (pairs_gradient, 2), (triplets_gradient, 1)],
    ids=["pairs", "pairs accumulated", "triplets"],
)
def test_gradient_is_that_of_mode_exact(
    compute: Callable[..., Gradient], accumulation: int, size: int, tmp_path: Path
) -> None:
    exact = compute("exact", accumulation, alone(CPU))
    together(size, tmp_path, _one, compute, accumulation)
    everywhere = [load_file(tmp_path / str(rank)) for rank in range(size)]
    for found in everywhere:
        loss = found.pop("loss")
        assert loss.dtype == torch.float64 and loss.item() == pytest.approx(exact.loss.item(), rel=1e-12)
        assert set(found) == set(exact.values)
        for name, value in found.items():
            assert value.equal(everywhere[0][name]), f"processes disagree on {name}"
            assert (value - exact.values[name]).norm() / exact.values[name].norm() < 1e-10, name


def test_gradients_come_in_the_models_order_and_the_scale_stays_in_its_bounds() -> None:
    model: Any = models.build(samples.MODEL).train()
    learner = FastContrastive(model, conditions(2, "bf16"), 1, 100.0)
    found = learner.gradient(1, iter(cut(batches(1), 8)))
    assert list(found.values) == [name for name, _ in model.named_parameters()]
    assert all(value.dtype == torch.float32 for value in found.values.values())
    model.logit_scale.data.fill_(7.0)
    learner.settle()
    assert model.logit_scale.exp().item() == pytest.approx(100.0)


def test_what_it_refuses() -> None:
    with pytest.raises(RequestError, match="logit bias"):
        FastContrastive(double_model(_biased()), conditions(1), 1, 100.0)
    with pytest.raises(RequestError, match="can't divide"):
        FastContrastive(double_model(), WHERE, 1, 100.0, Group(0, 3, CPU))
    model = double_model()
    model.visual.norm = torch.nn.BatchNorm1d(4)
    with pytest.raises(RequestError, match="batch normalization"):
        FastAlignment(model, WHERE, _Hinge())


def _biased() -> dict[str, Any]:
    architecture = {**samples.MODEL["architecture"], "init_logit_bias": -10.0}
    return {**samples.MODEL, "name": "fast-test-bias", "architecture": architecture}


PRETRAIN = samples.pretrain(accumulation=2, epochs=2, keep_epochs=[], publish_states=[], checksum_every=1)
ALIGN = samples.align(epochs=2, checksum_every=1)
STAGES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "pretrain": (pretrain, {"pretrain": PRETRAIN}),
    "align": (align, {"align": ALIGN}),
    "blind": (align, {"align": {**ALIGN, "objective": {"name": "self_supervised", "options": {"temperature": 0.2}}}}),
    "joint": (pretrain, {"joint": {**PRETRAIN, "freeze": ["text"], "auxiliary": samples.term()}}),
}


def _train(stage: str, mode: str, inputs: dict[str, Path], stop: bool, processes: Processes, folder: Path) -> None:
    """One process of a stage; all have the first one's folder."""
    module, settings = STAGES[stage]
    asked = iter([False, False, True])
    context = samples.context(
        stage, {**settings, "mode": mode}, inputs, folder.with_name(mode), lambda: stop and next(asked, True)
    )
    try:
        module.run(dataclasses.replace(context, processes=processes))
    except Interrupted:
        assert stop


@pytest.mark.parametrize("stage", list(STAGES))
def test_both_modes_train_alike_and_a_stopped_fast_run_goes_on(
    stage: str, start: Path, pairs: Path, triplets: Path, tmp_path: Path
) -> None:
    inputs = {"start": start, "pairs": pairs, "triplets": triplets}
    together(1, tmp_path, _train, stage, "exact", inputs, False)
    together(2, tmp_path, _train, stage, "fast", inputs, True)
    ledger = tmp_path / "fast" / "out" / "ledger.jsonl"
    assert not ledger.exists()
    together(1, tmp_path, _train, stage, "fast", inputs, False)
    exact, fast = ([json.loads(line) for line in _ledger(tmp_path / mode)] for mode in MODES)
    assert len(exact) == len(fast) > 4
    for one, other in zip(exact, fast, strict=True):
        assert set(one) == set(other) and one["samples"] == other["samples"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert [line["loss_bits"] for line in exact] != [line["loss_bits"] for line in fast], "fast mode was not fast"


def _ledger(folder: Path) -> list[str]:
    return (folder / "out" / "ledger.jsonl").read_text().splitlines()


def test_a_fast_process_needs_no_pins_and_an_exact_one_does(tmp_path: Path) -> None:
    together(1, tmp_path, _enter)
    said = json.loads((tmp_path / "0").read_text())
    assert said == {"deterministic": [True, False], "refused": True}


def _enter(_processes: Processes, file: Path) -> None:
    was = torch.are_deterministic_algorithms_enabled()
    for name in ENVIRONMENT:
        del os.environ[name]
    determinism.enter("cpu", mode="fast")
    now = torch.are_deterministic_algorithms_enabled()
    try:
        determinism.enter("cpu")
        refused = False
    except Exception as error:
        refused = "choice of kernels" in str(error)
    file.write_text(json.dumps({"deterministic": [was, now], "refused": refused}))


def test_a_jobs_environment_follows_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    base = {"PATH": "here", "OMP_NUM_THREADS": "5", "MKL_CBWR": "AVX2"}
    assert environment(base, "exact", 4) == {"PATH": "here", **ENVIRONMENT}
    for processes, threads in ((1, "8"), (4, "2"), (16, "1")):
        wanted = {"PATH": "here", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        assert environment(base, "fast", processes) == wanted
