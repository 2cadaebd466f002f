"""Attention on a GPU: one fused kernel for each case, the same in every run.

Rule: exact mode computes attention by torch's flash kernel, or by its memory-efficient one where flash can't
(float32, a mask); shapes and types decide which, nothing else. Under
`torch.use_deterministic_algorithms(True)` without warn_only both have a fixed order of additions in their
backward passes (torch, aten/src/ATen/native/transformers/cuda/attention_backward.cu: `_flash_attention_backward`
asks for the deterministic kernel, `_efficient_attention_backward` sets num_splits_key to 1, without which
mem_eff_attention/kernel_backward.h takes no lock and adds nothing atomically). cuDNN's only warns there, so it is
never used; neither is the unfused one, which writes out all weights of attention.

Flash takes no mask, only the word "causal". open_clip 3.3 hands its text tower a mask (`ResidualAttentionBlock`
of open_clip/transformer.py); `make_causal` says that word where the mask means just that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import nn


def pin() -> None:
    """Let attention on a GPU be computed by the two fused kernels that can repeat themselves, and no other."""
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def make_causal(model: nn.Module) -> bool:
    """Tell the text tower's attention that its mask is the causal one, where it is exactly that.

    Numbers stay what they were but for rounding, and no tensor is touched. On the CPU it would only change bits.

    Args:
        model: open_clip's, with the text tower in it or under `text`.

    Returns:
        Whether it was told; a tower that builds or takes another mask is left alone.
    """
    tower = _tower(model)
    if tower is None or not _is_causal(tower.attn_mask):
        return False
    blocks = list(tower.transformer.resblocks)
    if not all(type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention for block in blocks):
        return False
    for block in blocks:
        block.attn.register_forward_pre_hook(_say_causal, with_kwargs=True)
    return True


def _tower(model: nn.Module) -> Any:
    """The module that hands its own mask, unaltered, to its blocks; None if there is none."""
    if type(model) is CLIP:
        return model
    text: Any = getattr(model, "text", None)
    if type(text) is TextTransformer and text.cls_emb is None and not text.use_pad_mask:
        return text
    return None


def _is_causal(mask: torch.Tensor | None) -> bool:
    """Whether an additive mask [L, L] hides from each position those after it, and does nothing else."""
    if mask is None or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        return False
    return bool(mask.equal(torch.full_like(mask, float("-inf")).triu(1)))


def _say_causal(
    _module: nn.Module, inputs: tuple[torch.Tensor, ...], named: Mapping[str, Any]
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    # torch drops the mask then and passes is_causal on (multi_head_attention_forward of nn/functional.py).
    return inputs, {**named, "is_causal": True}
