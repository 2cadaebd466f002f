"""Activation checkpointing: blocks are computed twice, and no bit alters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from open_clip.transformer import ResidualAttentionBlock

from pi_repro.files import path_digest
from pi_repro.stages import align, pretrain

from . import samples

SHORT: dict[str, Any] = {
    "epochs": 1,
    "keep_epochs": [],
    "publish_states": [2],
    "schedule": {"kind": "cosine", "warmup_updates": 1},
}
STAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "pretrain": (pretrain, {"pretrain": samples.pretrain(**SHORT, accumulation=2)}),
    "bf16": (pretrain, {"pretrain": samples.pretrain(**SHORT, precision="bf16")}),
    "align": (align, {"align": samples.align(epochs=1)}),
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_activation_checkpointing_alters_no_bit(
    stage: str, start: Path, pairs: Path, triplets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [0]
    attend = ResidualAttentionBlock.attention

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        counts[-1] += 1
        return attend(self, *arguments, **named)

    monkeypatch.setattr(ResidualAttentionBlock, "attention", counted)
    module, settings = STAGES[stage]
    inputs, digests = {"start": start, "pairs": pairs, "triplets": triplets}, set()
    for on in (False, True):
        counts.append(0)
        context = samples.context(stage, settings, inputs, tmp_path / str(on), activation_checkpointing=on)
        module.run(context)
        digests.add(path_digest(context.out))
    assert len(digests) == 1
    assert counts[2] == 2 * counts[1] > 0, "every block is computed again"
