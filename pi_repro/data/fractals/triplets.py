"""Fractal triplets: a system's picture, the same system slightly changed, and another system, in one palette.

RULE: the label says which side is the changed reference. It is true by construction and no human judged anything:
an initialization that saw neither people's judgements nor people's pictures. All three bear one palette, so colour
tells nothing; every side is a changed system, so what a change does tells nothing; right and left are balanced
exactly; a system belongs to one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from pi_repro.data.demo.render import encode
from pi_repro.data.randomness import permutation, raw
from pi_repro.data.settings import read_settings
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources import Stage
from pi_repro.data.triplets import SPLITS
from pi_repro.errors import Interrupted, StateError
from pi_repro.files import canonical_json, write_json
from pi_repro.spec.base import Count, Fraction, Frozen, Positive
from pi_repro.spec.card import Card

from . import systems
from .systems import MAPS, Systems

NOTICE = (
    "Rendered fractals; the label says which side is the reference's system, slightly changed. It is true by "
    "construction: no human drew, took or judged these images."
)
_BLOCK = 64


class FractalSettings(Frozen):
    """What the card says."""

    size: int = Field(ge=16, le=1024, description="pixels a side")
    walkers: Count = Field(description="points side by side")
    steps: Count = Field(description="steps of each point that are painted")
    change: Positive = Field(lt=0.5, description="most by which a number of a changed system differs, as a share")
    fill: tuple[Fraction, Fraction] = Field(description="share of the pixels that a system may paint; others are left")
    splits: dict[str, Count] = Field(description="triplets, each of a system of its own, by split")
    key: str = Field(min_length=1, description="of every draw")
    shard_size: Count

    @model_validator(mode="after")
    def _consistent(self) -> FractalSettings:
        if set(self.splits) != set(SPLITS) or any(size < 2 for size in self.splits.values()):
            raise ValueError(f"splits are {', '.join(SPLITS)}, two triplets or more in each")
        if self.fill[0] >= self.fill[1]:
            raise ValueError("fill: [low, high] with low < high")
        return self


@dataclass(frozen=True)
class Pictures:
    """A painted system: counts of the reference and of its changed form, each int64 [MAPS, S, S]."""

    reference: np.ndarray
    variant: np.ndarray


def fetch(card: Card, context: Stage) -> None:
    """Render the triplets of a card into `context.out`.

    Raises:
        StateError: too few systems fill the picture, or the result is not as large as the card says.
        RequestError: the card's settings are wrong.
        Interrupted: the stage was asked to stop.
    """
    settings = read_settings(FractalSettings, card)
    if settings.splits["train"] != card.count:
        raise StateError(
            "the card promises another number of training triplets",
            where=f"card {card.name}",
            given=settings.splits["train"],
            allowed=str(card.count),
        )
    wanted, done = sum(settings.splits.values()), 0
    splits, every = {}, pictures(settings)
    with ShardWriter(
        context.out, card.name, "triplets", shard_size=settings.shard_size, short_side=card.short_side
    ) as writer:
        for split in SPLITS:
            size = settings.splits[split]
            labels = permutation(size, "labels", settings.key, split) % 2
            for key, members, extra in _triplets(split, islice(every, size), labels, settings):
                writer.add(key, members, extra)
                done += 1
                context.progress(done, wanted, "triplets", card.name)
                if context.should_stop():
                    raise Interrupted("the stage was asked to stop", where=card.name)
            splits[split] = {"triplets": size, "right": int(labels.sum())}
    write_json(
        context.out / "card.json",
        {
            "card": card.model_dump(mode="json"),
            "notice": NOTICE,
            "count": wanted,
            "splits": splits,
            "sources": [],
            "failures": [],
        },
    )


def pictures(settings: FractalSettings) -> Iterator[Pictures]:
    """Painted systems that fill the picture as wanted, both as drawn and changed, without end.

    Raises:
        StateError: hardly any does.
    """
    found = 0
    for first in count(0, _BLOCK):
        numbers = range(first, first + _BLOCK)
        plain = systems.drawn([(settings.key, "system", number) for number in numbers])
        variants = systems.changed(plain, settings.change, [(settings.key, "change", number) for number in numbers])
        painted = [_paint(form, settings, name, numbers) for name, form in (("plain", plain), ("changed", variants))]
        fits = np.logical_and(*(_fits(each, settings) for each in painted))
        for place in np.flatnonzero(fits):
            found += 1
            yield Pictures(painted[0][place], painted[1][place])
        if found < first / 100:
            raise StateError("too few systems fill the picture", where="settings.fill", given=str(settings.fill))


def _paint(form: Systems, settings: FractalSettings, name: str, numbers: range) -> np.ndarray:
    keys = [(settings.key, "walk", name, number) for number in numbers]
    found, extent = systems.counts(form, settings.size, settings.walkers, settings.steps, keys)
    found[extent == 0] = 0
    return found


def _fits(painted: np.ndarray, settings: FractalSettings) -> np.ndarray:
    share = painted.any(axis=1).sum(axis=(1, 2)) / (settings.size * settings.size)
    low, high = settings.fill
    return np.asarray((share >= low) & (share <= high))


def _triplets(
    split: str, painted: Iterator[Pictures], labels: np.ndarray, settings: FractalSettings
) -> Iterator[tuple[str, dict[str, bytes], dict[str, int]]]:
    """Key, members and columns of each triplet of a split.

    Each system's changed form is once the closer side and once the other one: of the next system's triplet, and the
    last one's of the first, whose triplet therefore comes last.
    """
    first = before = next(painted)
    for number, one in enumerate(painted, start=1):
        yield _triplet(split, number, (one, before, number - 1), int(labels[number]), settings)
        before = one
    yield _triplet(split, 0, (first, before, len(labels) - 1), int(labels[0]), settings)


def _triplet(
    split: str, number: int, drawn: tuple[Pictures, Pictures, int], label: int, settings: FractalSettings
) -> tuple[str, dict[str, bytes], dict[str, int]]:
    system, stranger, other = drawn
    palette = _palette((settings.key, "palette", split, number))
    same, apart = (_png(each.variant, palette) for each in (system, stranger))
    left, right = (apart, same) if label else (same, apart)
    members = {
        "ref.png": _png(system.reference, palette),
        "left.png": left,
        "right.png": right,
        "json": canonical_json({"system": number, "other": other}).encode(),
    }
    # nobody voted
    return f"{split}-{number:05d}", members, {"label": label, "split": SPLITS[split], "votes": 0}


def _palette(key: tuple[int | str, ...]) -> np.ndarray:
    """A colour for each map, int64 [MAPS, 3] in 0..223: dark enough on white."""
    return (raw(MAPS * 3, *key) % np.uint64(224)).astype(np.int64).reshape(MAPS, 3)


def _png(painted: np.ndarray, palette: np.ndarray) -> bytes:
    """Counts as a picture: each pixel the mean of its maps' colours, on white, paler where few points fell.

    Args:
        painted: [MAPS, S, S].
        palette: [MAPS, 3].
    """
    total = painted.sum(axis=0)
    colour = np.einsum("mhw,mc->hwc", painted, palette) // np.maximum(total, 1)[..., None]
    # 1, 2, 3, 4 and more points: half, two thirds, three quarters, all of the colour.
    ink = np.where(total >= 4, 12, np.array([0, 6, 8, 9, 12])[np.minimum(total, 4)])[..., None]
    pixels = (colour * ink + 255 * (12 - ink)) // 12
    return encode(Image.fromarray(pixels.astype(np.uint8)))
