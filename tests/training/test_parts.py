"""Small parts: environment, schedule, optimizer, course, ledger, weights, plugins."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pi_repro.data.order import Order
from pi_repro.errors import RequestError, StateError
from pi_repro.provenance.determinism_env import ENVIRONMENT
from pi_repro.spec import plugins
from pi_repro.spec.training import Optimizer as Settings
from pi_repro.spec.training import Plugin, Schedule
from pi_repro.training import adapters, determinism, ledger, objectives, optimizer, weights
from pi_repro.training import model as models
from pi_repro.training.course import Course
from pi_repro.training.ledger import Ledger
from pi_repro.training.schedule import LearningRate

from .samples import MODEL, OPTIMIZER


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_a_process_started_without_a_pin_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(StateError) as error:
        determinism.enter("cpu")
    assert f"{name}=(not set)" in str(error.value) and f"{name}={ENVIRONMENT[name]}" in str(error.value)


def test_a_process_that_imported_torch_too_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(StateError, match="before its kernels were pinned"):
        determinism.enter("cpu")


def test_reseeding_depends_on_each_number_and_on_nothing_else() -> None:
    drawn = set()
    for key in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)):
        determinism.reseed(*key)
        first = torch.rand(3)
        determinism.reseed(*key)
        assert torch.rand(3).equal(first)
        drawn.add(tuple(first.tolist()))
    assert len(drawn) == 4


def test_schedule_is_open_clips() -> None:
    from open_clip_train.scheduler import cosine_lr

    for warmup in (0, 1, 7):
        theirs = cosine_lr(SimpleNamespace(param_groups=[{}]), 0.002, warmup, 50)
        ours = LearningRate(Schedule(kind="cosine", warmup_updates=warmup), 0.002, 50)
        assert [ours.at(update) for update in range(1, 51)] == pytest.approx([theirs(step) for step in range(50)])
    constant = LearningRate(Schedule(kind="constant", warmup_updates=4), 0.002, 10)
    assert [constant.at(update) for update in (2, 4, 5, 10)] == pytest.approx([0.001, 0.002, 0.002, 0.002])


def test_what_decays() -> None:
    model = models.build(MODEL)
    names = {name for name, p in model.named_parameters() if optimizer.decays(settings(), name, p)}
    assert names == {
        "text_projection",
        "token_embedding.weight",
        "visual.conv1.weight",
        "visual.proj",
        *(
            f"{tower}transformer.resblocks.{block}.{part}"
            for tower, blocks in (("", 1), ("visual.", 2))
            for block in range(blocks)
            for part in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        ),
    }
    assert all(optimizer.decays(settings(decay="all"), name, p) for name, p in model.named_parameters())


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**OPTIMIZER, **changes})


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"a.weight": nn.Parameter(torch.randn(4, 3)), "a.bias": nn.Parameter(torch.randn(4))}


@pytest.mark.parametrize("implementation", ["fused", "foreach", "single"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_is_torchs_and_resumes_with_the_same_bits(name: str, implementation: str) -> None:
    chosen = settings(name=name, implementation=implementation)
    torch.manual_seed(1)
    gradients = [{"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4)} for _ in range(6)]

    theirs = parameters()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    reference = kind(
        [{"params": [theirs["a.weight"]]}, {"params": [theirs["a.bias"]], "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=0.1,
        fused=implementation == "fused",
        foreach=implementation == "foreach",
    )
    whole, cut = parameters(), parameters()
    first = optimizer.Optimizer(chosen, cut)
    assert first.state() == {}
    one = optimizer.Optimizer(chosen, whole)
    for step, gradient in enumerate(gradients):
        for key, parameter in theirs.items():
            parameter.grad = gradient[key].clone()
        reference.step()
        one.step(gradient, 1e-3)
        if step == 3:
            copies = {key: nn.Parameter(p.detach().clone()) for key, p in cut.items()}
            second = optimizer.Optimizer(chosen, copies)
            second.restore({key: tensor.clone() for key, tensor in first.state().items()})
            first, cut = second, copies
        first.step(gradient, 1e-3)
    for key in whole:
        assert whole[key].equal(theirs[key]) and whole[key].equal(cut[key])


def test_a_foreign_optimizer_state_is_refused() -> None:
    one = optimizer.Optimizer(settings(), parameters())
    with pytest.raises(StateError, match="other parameters"):
        one.restore({"step/b": torch.zeros(())})


def test_norm_and_clip_are_torchs() -> None:
    gradient = {name: torch.randn_like(p) for name, p in parameters().items()}
    theirs = parameters()
    for name, parameter in theirs.items():
        parameter.grad = gradient[name].clone()
    expected = nn.utils.clip_grad_norm_(theirs.values(), 0.5).item()
    found = optimizer.norm(gradient)
    assert found == pytest.approx(expected, rel=1e-6)
    optimizer.clip(gradient, found, 0.5)
    for name, parameter in theirs.items():
        torch.testing.assert_close(gradient[name], parameter.grad)
    optimizer.clip(gradient, 0.4, 0.5)
    torch.testing.assert_close(gradient["a.bias"], theirs["a.bias"].grad)


def test_course_cuts_updates_in_micro_batches() -> None:
    course = Course(Order([10, 13], 3, 1), epochs=2, batch=4, micro_batch=2, accumulation=2)
    assert (course.samples, course.per_epoch, course.total) == (8, 2, 4)
    assert [course.ended_epoch(update) for update in range(5)] == [0, None, 1, None, 2]
    parts = list(course.micro_batches(0, 4, range(2)))
    assert len(parts) == 16 and {len(part) for part in parts} == {2}
    assert [epoch for part in parts for epoch, _ in part] == [0] * 16 + [1] * 16
    assert len({row for part in parts[:8] for _, row in part}) == 16
    assert list(course.micro_batches(3, 4, range(2))) == parts[12:]
    assert list(course.micro_batches(1, 3, range(1, 2))) == parts[5:12:2]
    rows = np.array([row for part in parts[12:] for _, row in part])
    assert course.sample_hash(4) == hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]


def test_ledger_goes_on_from_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    first = Ledger(file)
    first.add({"update": 1})
    mark = first.mark()
    first.add({"update": 2, "late": True})
    first.close()
    second = Ledger(file, mark)
    second.add({"update": 2})
    second.close()
    assert file.read_text() == '{"update":1}\n{"update":2}\n'
    file.write_text('{"update":7}\n{"update":2}\n')
    with pytest.raises(StateError, match=r"ledger is damaged"):
        Ledger(file, mark)
    assert ledger.value(ledger.bits(math.pi)) == math.pi


def test_weights_files_have_one_spelling(tmp_path: Path) -> None:
    one, two = torch.randn(3, 2), torch.arange(4, dtype=torch.int32)
    first = weights.write(tmp_path / "a", {"one": one, "two": two}, {"x": 1, "y": 2})
    second = weights.write(tmp_path / "b", {"two": two, "one": one.T.contiguous().T}, {"y": 2, "x": 1})
    assert first == second
    assert weights.read(tmp_path / "a", first)["one"].equal(one)
    assert weights.checksum({"one": one, "two": two}) == weights.checksum({"two": two, "one": one})
    assert weights.checksum({"one": one}) != weights.checksum({"one": one.reshape(2, 3)})


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: b"{}", lambda c: c[:3] + b"\xff" + c[4:]])
def test_damaged_weights_are_named(damage: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    sha256 = weights.write(file, {"one": torch.ones(2)}, {})
    file.write_bytes(damage(file.read_bytes()))
    for known in (None, sha256):
        with pytest.raises(StateError, match="damaged") as error:
            weights.read(file, known)
        assert "w.safetensors" in str(error.value)
    with pytest.raises(StateError, match="missing"):
        weights.read(tmp_path / "absent")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    weights.write(file, {"one": torch.ones(2)}, {})
    with pytest.raises(StateError, match="don't fit") as error:
        models.load(MODEL, file)
    assert "more" in str(error.value)


def test_a_name_that_open_clip_knows_with_another_shape_is_refused() -> None:
    with pytest.raises(RequestError, match="another architecture"):
        models.build({**MODEL, "name": "ViT-B-32"})


def test_image_must_be_square() -> None:
    vision = MODEL["architecture"]["vision_cfg"]
    assert models.image_size(MODEL) == 32
    wide = {**MODEL["architecture"], "vision_cfg": {**vision, "image_size": [32, 64]}}
    with pytest.raises(RequestError, match="square"):
        models.image_size({**MODEL, "architecture": wide})


class Distance:
    """An objective as a plugin would offer it."""

    images = ("ref", "left")

    def __init__(self, power: int) -> None:
        self.power = power

    def loss(self, features: Any, targets: Any) -> torch.Tensor:
        return (features["ref"] - features["left"]).norm(dim=-1) ** self.power


class Everything:
    """An adapter that reaches outside the image tower."""

    def attach(self, model: nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return model.state_dict()


def test_entry_points_offer_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "pi_repro.objectives": [EntryPoint("distance", f"{__name__}:Distance", "pi_repro.objectives")],
        "pi_repro.adapters": [EntryPoint("everything", f"{__name__}:Everything", "pi_repro.adapters")],
    }
    monkeypatch.setattr(plugins, "entry_points", lambda group: points.get(group, []))
    plugins.offered.cache_clear()
    try:
        made = objectives.objective(Plugin(name="distance", options={"power": 2}))
        assert made.images == ("ref", "left")
        with pytest.raises(RequestError, match="options don't fit"):
            objectives.objective(Plugin(name="distance", options={"strength": 2}))
        with pytest.raises(RequestError, match="image tower") as error:
            adapters.attach(adapters.adapter(Plugin(name="everything")), models.build(MODEL))
        assert "logit_scale" in str(error.value)
        with pytest.raises(RequestError) as error:
            objectives.objective(Plugin(name="distanc"))
        assert "distance, self_supervised, triplet_hinge" in str(error.value)
    finally:
        plugins.offered.cache_clear()
