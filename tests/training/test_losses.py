"""The closed-form contrastive gradient and the triplet hinge, against autograd and by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss

from pi_repro.errors import RequestError
from pi_repro.spec.training import Plugin
from pi_repro.training import losses, objectives
from pi_repro.training import model as models
from pi_repro.training.alignment import Alignment
from pi_repro.training.contrastive import Contrastive
from pi_repro.training.step import Conditions

from .samples import MODEL, SIZE

BATCH = 16
HINGE = Plugin(name="triplet_hinge", options={"margin": 0.05, "distance": "cosine"})


def conditions(micro_batches: int, precision: Any = "fp32") -> Conditions:
    return Conditions(torch.device("cpu"), precision, 3, BATCH // micro_batches, micro_batches)


def double_model(model: Mapping[str, Any] = MODEL) -> Any:
    torch.manual_seed(0)
    made: Any = models.build(model).double().train()
    made.visual.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return made


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    """Whole batches; captions share words, so that rows of the embedding occur in several micro-batches."""
    random = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        text = torch.randint(1, 40, (BATCH, 12), generator=random)
        text[:, 7] = 49407
        text[:, 8:] = 0
        image = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=random, dtype=torch.uint8)
        made.append({"image": image, "text": text})
    return made


def cut(whole: list[dict[str, torch.Tensor]], size: int) -> list[dict[str, torch.Tensor]]:
    return [
        {name: tensor[start : start + size] for name, tensor in batch.items()}
        for batch in whole
        for start in range(0, BATCH, size)
    ]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_gradient_is_that_of_autograd_on_the_whole_batch(micro_batches: int, accumulation: int) -> None:
    model, whole = double_model(), batches(accumulation)
    where = conditions(micro_batches)
    found = Contrastive(model, where, accumulation, 100.0).gradient(1, iter(cut(whole, where.size)))
    loss = sum(
        ClipLoss()(
            model.encode_image(where.put(batch["image"]), normalize=True),
            model.encode_text(batch["text"], normalize=True),
            model.logit_scale.exp(),
        )
        for batch in whole
    )
    loss = torch.as_tensor(loss) / accumulation
    expected = dict(
        zip(found.values, torch.autograd.grad(loss, [model.get_parameter(n) for n in found.values]), strict=True)
    )
    assert set(found.values) == {name for name, _ in model.named_parameters()}
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-13)
    for name, gradient in found.values.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < 1e-10, name


def test_value_is_open_clips_loss() -> None:
    random = torch.Generator().manual_seed(2)
    image, text = (torch.nn.functional.normalize(torch.randn(12, 8, generator=random), dim=-1) for _ in range(2))
    scale = torch.tensor(20.0)
    features = losses.Features(image, text, scale)
    rows = [slice(start, start + 3) for start in range(0, 12, 3)]
    sums = losses.RowSums.cat([losses.row_sums(features, each) for each in rows])
    found = sum(losses.row_gradients(features, sums, each).loss for each in rows)
    assert float(found) == pytest.approx(float(ClipLoss()(image, text, scale)), rel=1e-6)


def test_kept_and_rebuilt_graphs_give_the_same_bits_where_forward_passes_draw() -> None:
    architecture = MODEL["architecture"] | {"vision_cfg": MODEL["architecture"]["vision_cfg"] | {"patch_dropout": 0.5}}
    model = {**MODEL, "name": "training-test-dropout", "architecture": architecture}
    results = []
    for keep in (True, False, None):
        torch.manual_seed(0)
        made = models.build(model).train()
        torch.randn(5)  # whatever the generator's state
        where = conditions(4)
        results.append(Contrastive(made, where, 2, 100.0, keep).gradient(1, iter(cut(batches(2), where.size))))
    for other in results[1:]:
        assert other.loss.equal(results[0].loss)
        assert all(other.values[name].equal(value) for name, value in results[0].values.items())


def test_a_table_that_is_used_again_holds_only_the_last_rows() -> None:
    torch.manual_seed(0)
    model = models.build(MODEL).train()
    learner = Contrastive(model, conditions(2), 1, 100.0)
    first, second = cut(batches(2)[:1], 8), cut(batches(2)[1:], 8)
    learner.gradient(1, iter(first))
    again = learner.gradient(2, iter(second)).values["token_embedding.weight"]
    fresh = Contrastive(model, conditions(2), 1, 100.0).gradient(2, iter(second)).values["token_embedding.weight"]
    assert again.equal(fresh)


def test_bf16_keeps_float32_features_and_gradients_close() -> None:
    torch.manual_seed(0)
    model = models.build(MODEL).train()
    exact = Contrastive(model, conditions(2), 1, 100.0).gradient(1, iter(cut(batches(1), 8)))
    rough = Contrastive(model, conditions(2, "bf16"), 1, 100.0).gradient(1, iter(cut(batches(1), 8)))
    assert rough.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert all(value.dtype == torch.float32 for value in rough.values.values())


def test_the_logit_scale_stays_in_its_bounds() -> None:
    model: Any = models.build(MODEL)
    learner = Contrastive(model, conditions(1), 1, 100.0)
    for value, expected in ((7.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        model.logit_scale.data.fill_(value)
        learner.settle()
        assert model.logit_scale.item() == pytest.approx(expected)


def test_a_logit_bias_is_refused() -> None:
    architecture = {**MODEL["architecture"], "init_logit_bias": -10.0}
    model = models.build({**MODEL, "name": "training-test-bias", "architecture": architecture})
    with pytest.raises(RequestError, match="logit bias"):
        Contrastive(model, conditions(1), 1, 100.0)


def test_batch_normalization_is_refused() -> None:
    model: Any = models.build(MODEL)
    model.visual.norm = torch.nn.BatchNorm1d(4)
    with pytest.raises(RequestError, match="batch normalization") as error:
        Alignment(model, conditions(1), objectives.objective(HINGE))
    assert "visual.norm" in str(error.value)


def test_triplet_hinge_by_hand() -> None:
    hinge = objectives.objective(HINGE)
    features = {
        "ref": torch.tensor([[2.0, 0.0]]).repeat(3, 1),
        "left": torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 4.0]]),  # distances 1, 1, 0.4
        "right": torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]]),  # distances 0, 0, 0.4
    }
    # 1 - 0 = 1 in favour of right: free when right was called closer, 1.05 when left was; a tie costs the margin.
    loss = hinge.loss(features, {"label": torch.tensor([1, 0, 1], dtype=torch.uint8)})
    assert loss.tolist() == pytest.approx([0.0, 1.05, 0.05], abs=1e-6)


def test_alignment_gradient_is_that_of_autograd_on_the_whole_batch() -> None:
    model = double_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual."))
    hinge = objectives.objective(Plugin(name="triplet_hinge", options={"margin": 0.5, "distance": "cosine"}))
    hinge_images = ("ref", "left", "right")
    images = dict(zip(hinge_images, (batch["image"] for batch in batches(3)), strict=True))
    label = torch.arange(BATCH, dtype=torch.uint8) % 2
    where = conditions(4)
    features = {name: model.encode_image(where.put(image)) for name, image in images.items()}
    loss = hinge.loss(features, {"label": label}).mean()
    expected = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])

    class Double:
        images = hinge_images

        def loss(self, features: Any, targets: Any) -> torch.Tensor:
            assert all(value.dtype == torch.float64 for value in features.values())
            return hinge.loss(features, targets)

    found = Alignment(model, where, Double()).gradient(1, iter(cut([{**images, "label": label}], where.size)))
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-13)
    for (name, gradient), other in zip(found.values.items(), expected, strict=True):
        assert (gradient - other).norm() / other.norm() < 1e-10, name


def test_open_clip_is_the_release_whose_loss_was_compared() -> None:
    assert open_clip.__version__.split(".")[0] == "3"
