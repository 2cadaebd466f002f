"""Captions to tokens, faster than open_clip's tokenizer and with the same numbers.

Rule: a caption of printable ASCII without "&" needs no mending (ftfy and HTML entities leave it alone), and
the tokens of a word are a function of the word: so words are remembered, not mended and merged again. Any
other caption, and any other tokenizer, goes its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

Tokenizer = Callable[[list[str]], torch.Tensor]

#: Words whose tokens are kept; about 100 bytes each.
_WORDS = 100_000
_PLAIN = re.compile(r"[ -%'-~]*")


def fast(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, or a faster one with the same results where it is CLIP's own lower-case one."""
    if type(tokenizer) is Padded:
        return Padded(fast(tokenizer.inner), tokenizer.pad)
    if type(tokenizer) is not SimpleTokenizer:
        return tokenizer
    clip: Any = tokenizer
    known = clip.clean_fn is get_clean_fn("lower") and clip.reduction_fn is None and clip.context_length
    return _Words(clip) if known else tokenizer


class _Words:
    """CLIP's tokenizer with a memory of words; a class, because a loader's worker may have to be sent it."""

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """int64 [texts, context length]: start, the text's tokens, end, zeros; cut where too long."""
        length = self._tokenizer.context_length
        rows = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            tokens = [self._tokenizer.sot_token_id, *self._encode(text)][: length - 1]
            tokens.append(self._tokenizer.eot_token_id)
            row[: len(tokens)] = tokens
        return torch.from_numpy(rows)

    def _encode(self, text: str) -> list[int]:
        if not _PLAIN.fullmatch(text):
            return list(self._tokenizer.encode(text))
        tokens: list[int] = []
        for word in self._tokenizer.pat.findall(" ".join(text.split()).lower()):
            found = self._words.get(word)
            if found is None:
                found = self._tokenizer.encode(word)
                if len(self._words) < _WORDS:
                    self._words[word] = found
            tokens += found
        return tokens


class Padded:
    """A tokenizer whose rows are filled with another number than 0 behind the end of text.

    Args:
        inner: the tokenizer, whose end-of-text id is the largest of a row.
        pad: the number.
    """

    def __init__(self, inner: Tokenizer, pad: int) -> None:
        self.inner, self.pad = inner, pad

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """int64 [texts, context length]."""
        rows = self.inner(texts)
        behind = torch.arange(rows.shape[1]) > rows.argmax(dim=1, keepdim=True)
        return rows.masked_fill(behind, self.pad)
