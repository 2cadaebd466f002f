"""How many parameters a CLIP config has, by arithmetic on its JSON: a ViT and a text transformer, or None.

Rule: a config with a part that is not counted here (timm, ResNet, attention pooling, other blocks) gives
None, never a number that is nearly right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOP = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
}
_NO_PARAMETERS = {
    "head_width",
    "heads",
    "patch_dropout",
    "pool_type",
    "final_ln_after_pool",
    "output_tokens",
    "act_kwargs",
    "norm_kwargs",
    "pad_id",
    "eos_id",
    "no_causal_mask",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
    "pos_embed_type",
}
_VISION = _NO_PARAMETERS | {
    "image_size",
    "patch_size",
    "width",
    "layers",
    "mlp_ratio",
    "ls_init_value",
    "no_ln_pre",
}
_TEXT = _NO_PARAMETERS | {
    "context_length",
    "vocab_size",
    "width",
    "layers",
    "mlp_ratio",
    "ls_init_value",
    "embed_cls",
    "proj_type",
    "proj_bias",
}


def parameter_count(architecture: Mapping[str, Any]) -> int | None:
    """Parameters of open_clip's CLIP built from a config, both towers, projections and logit scale.

    Args:
        architecture: {"embed_dim": int, "vision_cfg": {...}, "text_cfg": {...}}, open_clip's JSON.

    Returns:
        The number, or None when the config has a part that this module does not count.
    """
    vision, text = architecture.get("vision_cfg"), architecture.get("text_cfg")
    embed = architecture.get("embed_dim")
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping) or not isinstance(embed, int):
        return None
    if _stray(architecture, _TOP) or _stray(vision, _VISION) or _stray(text, _TEXT):
        return None
    towers = _vision(vision, embed), _text(text, embed)
    if towers[0] is None or towers[1] is None:
        return None
    bias = 0 if architecture.get("init_logit_bias") is None else 1
    return towers[0] + towers[1] + 1 + bias


def _stray(config: Mapping[str, Any], counted: set[str]) -> bool:
    """True when a field that is not counted is switched on."""
    return any(value not in (None, False) for key, value in config.items() if key not in counted)


def _vision(config: Mapping[str, Any], embed: int) -> int | None:
    width, layers = config.get("width", 768), config.get("layers", 12)
    patch, image = config.get("patch_size", 16), config.get("image_size", 224)
    if not all(isinstance(number, int) for number in (width, layers, patch, image)):
        return None
    tokens = (image // patch) ** 2 + 1
    norms = 2 * width * (1 if config.get("no_ln_pre") else 2)
    stem = 3 * patch * patch * width + width + tokens * width
    return int(stem + norms + layers * _block(width, config) + width * embed)


def _text(config: Mapping[str, Any], embed: int) -> int | None:
    width, layers = config.get("width", 512), config.get("layers", 12)
    context, vocabulary = config.get("context_length", 77), config.get("vocab_size", 49408)
    if not all(isinstance(number, int) for number in (width, layers, context, vocabulary)):
        return None
    extra = 2 * width if config.get("embed_cls") else 0  # a class token and its position
    projection = width * embed if config.get("proj_type", "linear") == "linear" else 0
    bias = embed if projection and config.get("proj_bias") else 0
    table = (vocabulary + context) * width
    return int(table + extra + layers * _block(width, config) + 2 * width + projection + bias)


def _block(width: int, config: Mapping[str, Any]) -> int:
    """One residual attention block: attention, MLP, two norms, layer scale if any."""
    hidden = int(width * config.get("mlp_ratio", 4.0))
    attention = 3 * width * width + 3 * width + width * width + width
    mlp = width * hidden + hidden + hidden * width + width
    scale = 0 if config.get("ls_init_value") is None else 2 * width
    return attention + mlp + 4 * width + scale
