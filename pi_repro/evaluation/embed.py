"""Features of images and texts.

Rule: every forward pass has one fixed batch shape, the last batch padded with zeros, so that the
features of an item depend on the list it stands in and on nothing else (no worker, no resume).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional

from pi_repro.errors import StateError

#: Called after each batch with (items done, items in all); may raise to stop.
Pulse = Callable[[int, int], None]


def no_pulse(done: int, total: int) -> None:
    """A Pulse that nobody listens to."""


@dataclass(frozen=True)
class Embedder:
    """A model ready to embed.

    Attributes:
        model: open_clip-like, with `encode_image` and `encode_text`, in eval mode and on `device`.
        prepare: batch of decoded images on the device -> float32 input.
        device: "cpu", "cuda" or "cuda:N".
        precision: "fp32", or "bf16" for autocast; features are float32 either way.
        batch: items a forward pass.
    """

    model: torch.nn.Module
    prepare: Callable[[torch.Tensor], torch.Tensor]
    device: str
    precision: Literal["fp32", "bf16"]
    batch: int

    def images(self, batches: Iterable[torch.Tensor], count: int, pulse: Pulse = no_pulse) -> torch.Tensor:
        """Unit-length features [count, D] of decoded images that come in full batches, the last maybe short."""
        return self._embed(batches, count, lambda batch: self._model.encode_image(self.prepare(batch)), pulse)

    def texts(self, tokens: torch.Tensor, pulse: Pulse = no_pulse) -> torch.Tensor:
        """Unit-length features [n, D] of tokens, int64 [n, L]."""
        return self._embed(torch.split(tokens, self.batch), len(tokens), self._model.encode_text, pulse)

    @property
    def _model(self) -> Any:
        return self.model

    def _embed(
        self,
        batches: Iterable[torch.Tensor],
        count: int,
        encode: Callable[[torch.Tensor], torch.Tensor],
        pulse: Pulse,
    ) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        done = 0
        for batch in batches:
            with torch.inference_mode(), self._autocast():
                features = encode(pad(batch, self.batch).to(self.device, non_blocking=True))
            parts.append(functional.normalize(features.float(), dim=-1)[: len(batch)])
            done += len(batch)
            pulse(done, count)
        if done != count:
            raise AssertionError(f"{done} items came where {count} were announced")
        joined = torch.cat(parts)
        if not bool(torch.isfinite(joined).all()):
            raise StateError(
                "the model gives features that are not finite", todo="its training diverged: see curves.csv"
            )
        return joined

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Zeros appended along the first dimension up to `size` rows."""
    missing = size - len(rows)
    if missing == 0:
        return rows
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))])


def chunks(rows: torch.Tensor, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(start, real rows, padded rows) of each fixed-size stretch."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield start, len(part), pad(part, size)


class Texts:
    """Texts of a set, tokenized once for all checkpoints.

    Equal texts are embedded once: their features must not differ by their places in a batch.
    """

    def __init__(self, texts: list[str], tokenizer: Callable[[list[str]], torch.Tensor]) -> None:
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        self._index = torch.tensor([place[text] for text in texts])
        self._tokens = tokenizer(list(place)).to(torch.int64)

    def embed(self, embedder: Embedder, pulse: Pulse = no_pulse) -> torch.Tensor:
        """Unit-length features [texts, D]."""
        features = embedder.texts(self._tokens, pulse)
        return features[self._index.to(features.device)]
