"""Captions to tokens: open_clip's numbers, whatever the text."""

from __future__ import annotations

import open_clip
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_repro.data.captions import fast

THEIRS = open_clip.get_tokenizer("ViT-B-32")
OURS = fast(THEIRS)
PIECES = ["don't", "WE'LL ", "<start_of_text>", "&amp;", "’", "é", "\x1b[0m", "\n", "  ", "1234", "...", "word " * 50]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.text("abcXYZ 019'-<>.&~", max_size=30), st.sampled_from(PIECES))))
def test_tokens_are_open_clips(parts: list[str]) -> None:
    texts = ["".join(parts), *parts]
    assert torch.equal(OURS(texts), THEIRS(texts))


def test_another_tokenizer_is_left_alone() -> None:
    def other(texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 3)

    assert fast(other) is other
    canonical = open_clip.tokenizer.SimpleTokenizer(clean="canonicalize")
    assert fast(canonical) is canonical
    assert OURS is not THEIRS
