"""Captions from the token ids of CLIP's tokenizer, and back.

Rule: a caption is right when open_clip's tokenizer makes the same ids of it; every row is asked. A caption that was
cut inside a word has no such text, because a word's end has an id of its own; it is completed by one sign, which
lies behind the last id and is cut again, and so is one that was cut inside a run of signs or inside a letter. What
still differs is kept, counted and listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

    from pi_repro.data.captions import Tokenizer

#: What card.json calls it.
NAME = "open_clip.SimpleTokenizer: CLIP's byte pairs (bpe_simple_vocab_16e6, 49,408 ids), lower case"
_WORD_END = "</w>"
#: Tried in this order behind a word, or a run of signs, that was cut.
_SIGNS = "etaoinshrdlucmfwypvbgkqjxzéöñя的日!.,-_)*♥"


@dataclass(frozen=True)
class Caption:
    """A row's caption.

    Attributes:
        text: the words, separated by spaces.
        exact: whether the tokenizer gives the row's ids.
        completed: whether a sign was put behind what was cut.
    """

    text: str
    exact: bool
    completed: bool = False


@cache
def reader(context: int, segment: int) -> Reader:
    """A reader, made once in a process: its tables take half a second."""
    return Reader(context, segment)


class Reader:
    """Reads captions off rows of ids.

    Args:
        context: ids of a caption, with start and end.
        segment: which run of so many ids of a row is read, from 0.
    """

    def __init__(self, context: int, segment: int = 0) -> None:
        self.context, self.segment = context, segment

    @cached_property
    def _tokenizer(self) -> SimpleTokenizer:
        # Seconds to import, and whoever only plans or submits a conversion reads no ids.
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self.context)

    @cached_property
    def _tokenize(self) -> Tokenizer:
        from pi_repro.data import captions

        return captions.fast(self._tokenizer)

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes of each id, a space for the end of a word."""
        clip = self._tokenizer
        pieces = []
        for number in range(clip.vocab_size):
            piece = clip.decoder[number]
            word = piece.removesuffix(_WORD_END)
            pieces.append(bytes(clip.byte_decoder[sign] for sign in word) + b" " * (word != piece))
        return pieces

    def text(self, ids: Sequence[int]) -> str:
        """The words of ids without start, end and padding."""
        return b"".join(self._pieces[number] for number in ids).decode("utf-8", "replace").rstrip(" ")

    def segments(self, row: np.ndarray) -> list[str]:
        """All runs of a row as text, for people; what is no caption is told by its ids."""
        runs = [row[start : start + self.context] for start in range(0, len(row), self.context)]
        found = [self._body(run) for run in runs]
        return [
            f"(no caption: {run.tolist()})" if isinstance(body, str) else self.text(body.tolist())
            for run, body in zip(runs, found, strict=True)
        ]

    def read(self, rows: Sequence[np.ndarray | None]) -> list[Caption | str]:
        """Captions of rows; a string says why a row has none."""
        bodies = [self._row(row) for row in rows]
        whole = [body for body in bodies if not isinstance(body, str)]
        texts = [self.text(body.tolist()) for body in whole]
        found = iter([self._held(text, body) for text, body in zip(texts, self._same(texts, whole), strict=True)])
        return [body if isinstance(body, str) else next(found) for body in bodies]

    def _row(self, row: np.ndarray | None) -> np.ndarray | str:
        """The caption's ids without start, end and padding; a string says why there are none."""
        if row is None:
            return "no token ids"
        begin = self.segment * self.context
        run = row[begin : begin + self.context]
        return self._body(run) if len(run) else f"{len(row)} token ids, and segment {self.segment} is to be read"

    def _body(self, run: np.ndarray) -> np.ndarray | str:
        first, last = self._tokenizer.all_special_ids
        ends = np.flatnonzero(run == last)
        if run[0] != first or not len(ends):
            return "token ids without start or end"
        body, rest = run[1 : ends[0]], run[ends[0] :]
        if ((rest != last) & (rest != 0)).any() or ((body < 0) | (body >= first)).any():
            return "token ids that are no caption of this tokenizer"
        return body

    def _same(self, texts: list[str], bodies: list[np.ndarray]) -> list[tuple[bool, np.ndarray]]:
        """For each text, whether the tokenizer gives these ids, and the ids."""
        if not texts:
            return []
        first, last = self._tokenizer.all_special_ids
        wanted = np.zeros((len(bodies), self.context), np.int64)
        wanted[:, 0] = first
        for row, body in zip(wanted, bodies, strict=True):
            row[1 : len(body) + 1] = body
            row[len(body) + 1] = last
        same = (self._tokenize(texts).numpy() == wanted).all(axis=1).tolist()
        return list(zip(same, bodies, strict=True))

    def _held(self, text: str, same: tuple[bool, np.ndarray]) -> Caption:
        exact, body = same
        if exact:
            return Caption(text, True)
        cut = len(body) == self.context - 2 and not self._pieces[int(body[-1])].endswith(b" ")
        if cut:
            longer = _completions(b"".join(self._pieces[number] for number in body.tolist()))
            for each, (fits, _) in zip(longer, self._same(longer, [body] * len(longer)), strict=True):
                if fits:
                    return Caption(each, True, completed=True)
        return Caption(text, False)


def _completions(cut: bytes) -> list[str]:
    """Texts that begin with these bytes and have one sign more, or end the one that was begun."""
    try:
        return [cut.decode() + sign for sign in _SIGNS]
    except UnicodeDecodeError as error:
        lead = cut[error.start]
        missing = (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) - (len(cut) - error.start)
        if error.reason != "unexpected end of data" or missing < 1:
            return []
    ends = [cut + bytes([first]) + b"\x80" * (missing - 1) for first in range(0x80, 0xC0)]
    texts = [end.decode("utf-8", "replace") for end in ends]
    return [text for text in texts if not text.endswith("\ufffd")]
