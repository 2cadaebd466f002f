"""Causal attention said instead of masked: the same numbers, only where it is the same; and what a GPU may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pi_repro.training import attention, determinism
from pi_repro.training import model as models

from .samples import MODEL, SIZE

TEXT = MODEL["architecture"]["text_cfg"]


def build(**architecture: Any) -> Any:
    name = "attention-test-" + "-".join(map(str, [*architecture, *architecture.get("text_cfg", {})]))
    torch.manual_seed(0)
    return models.build({**MODEL, "name": name, "architecture": {**MODEL["architecture"], **architecture}}).train()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """(whether a mask came, whether causal was said) of every call of torch's attention."""
    seen: list[tuple[bool, bool]] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def spy(
        q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> torch.Tensor:
        seen.append((attn_mask is not None, is_causal))
        return plain(q, k, v, attn_mask, dropout_p, is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return seen


def step(model: Any, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Text and image features of fixed samples, and the gradient of their sums."""
    random = torch.Generator().manual_seed(1)
    text = torch.randint(1, 40, (3, TEXT["context_length"]), generator=random)
    text[:, 7] = 49407
    image = torch.randn(3, 3, SIZE, SIZE, generator=random)
    found = {"text": model.encode_text(text.to(device)), "image": model.encode_image(image.to(device))}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = found["text"].square().sum() + found["image"].square().sum()
    values = torch.autograd.grad(total, list(trained.values()), allow_unused=True, materialize_grads=True)
    return found | dict(zip(trained, values, strict=True))


@pytest.mark.parametrize("architecture", [{}, {"custom_text": True}], ids=["CLIP", "CustomTextCLIP"])
def test_causal_gives_the_masks_numbers_and_touches_no_tensor(
    architecture: dict[str, Any], calls: list[tuple[bool, bool]]
) -> None:
    model = build(**architecture)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masked = step(model)
    assert calls == [(True, False)] + 2 * [(False, False)], "one text block, two image blocks"
    calls.clear()
    assert attention.make_causal(model)
    said = step(model)
    assert calls == [(False, True)] + 2 * [(False, False)]
    for name, value in masked.items():
        torch.testing.assert_close(said[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert list(model.state_dict()) == list(tensors)
    assert all(tensor.equal(tensors[name]) for name, tensor in model.state_dict().items())


def _window(model: Any) -> None:
    model.attn_mask[6:, 0] = float("-inf")


def _bias(model: Any) -> None:
    model.attn_mask[3, 2] = -0.5


@pytest.mark.parametrize(
    ("architecture", "alter"),
    [
        ({"text_cfg": {**TEXT, "no_causal_mask": True}}, None),
        ({"custom_text": True, "text_cfg": {**TEXT, "embed_cls": True}}, None),
        ({"text_cfg": {**TEXT, "qk_norm": True}}, None),
        ({}, _window),
        ({}, _bias),
    ],
    ids=["no mask", "class token with a mask of its own", "other attention", "window", "bias"],
)
def test_another_mask_or_attention_is_left_alone(
    architecture: dict[str, Any], alter: Callable[[Any], None] | None, calls: list[tuple[bool, bool]]
) -> None:
    model = build(**architecture)
    if alter:
        alter(model)
    before = step(model)
    assert not attention.make_causal(model)
    after = step(model)
    assert all(value.equal(before[name]) for name, value in after.items())
    assert not any(causal for _, causal in calls)


@pytest.fixture
def flags() -> Iterator[Callable[[], dict[str, bool]]]:
    """The attention kernels that torch may use; left as they were."""
    cuda, names = torch.backends.cuda, ("flash", "mem_efficient", "cudnn", "math")

    def read() -> dict[str, bool]:
        return {name: getattr(cuda, f"{name}_sdp_enabled")() for name in names}

    before = read()
    yield read
    for name, on in before.items():
        getattr(cuda, f"enable_{name}_sdp")(on)


def test_only_kernels_that_repeat_themselves_are_left(flags: Callable[[], dict[str, bool]]) -> None:
    attention.pin()
    assert flags() == {"flash": True, "mem_efficient": True, "cudnn": False, "math": False}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_on_a_gpu_both_fused_kernels_repeat_themselves(bf16: bool, flags: Callable[[], dict[str, bool]]) -> None:
    determinism.enter("cuda")
    model = build().cuda()

    def found() -> dict[str, torch.Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            return step(model, "cuda")

    masked = found()
    assert attention.make_causal(model)
    first = found()
    for _ in range(10):
        assert all(value.equal(first[name]) for name, value in found().items())
    for name, value in masked.items():
        torch.testing.assert_close(first[name], value, rtol=0.1 if bf16 else 1e-3, atol=0.05 if bf16 else 1e-5)
