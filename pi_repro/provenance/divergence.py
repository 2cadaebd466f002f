"""Where two runs of a training part: the first update and the tensors that differ, and in what way.

Rule: pure. A ledger line tells what an update did, in the order in which it did it: which samples,
the loss, the gradient's norm, the learning rate, then a checksum of every tensor after the step. The
first field that differs in the first line that differs names the part of the update that went another way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, NamedTuple

#: Ledger field -> what went another way, when it is the first that differs; in the order of an update.
CAUSES: Final[dict[str, str]] = {
    "update": "the ledger names another update",
    "samples": "the order of the data",
    "loss_bits": "the forward pass: same samples, and the weights before it agree",
    "loss": "the forward pass: same samples, and the weights before it agree",
    "grad_norm_bits": "the backward pass: samples and loss agree",
    "lr": "the learning rate: another schedule",
    "logit_scale": "the optimizer's step: samples, loss, gradient norm and learning rate agree",
    "tensors": "the optimizer's step: samples, loss, gradient norm and learning rate agree",
    "weights": "a tensor that does not train: all that train agree",
}
ENDED: Final = "one of the two ledgers ends before it"

#: Fields of a provenance that tell two executions apart and can alter no bit.
CIRCUMSTANCES: Final = frozenset(
    {"argv", "attempts", "begun", "command", "dev", "device_hours", "ended", "fingerprint", "outputs", "slurm"}
    | {"stage", "wall_s"}
)
_ABSENT: Final = "(absent)"
#: Hex digits of one tensor's checksum in a ledger line.
_DIGITS: Final = 8


@dataclass(frozen=True)
class Divergence:
    """The first update that differs.

    Attributes:
        update: its number, counted from 1.
        fields: of the ledger line that differ, in the order of an update; empty where a ledger ends.
        tensors: names of the trained tensors that differ after it, in the model's order.
        trained: how many tensors train.
    """

    update: int
    fields: tuple[str, ...]
    tensors: tuple[str, ...]
    trained: int

    @property
    def cause(self) -> str:
        """The part of the update that went another way, in words."""
        return CAUSES.get(self.fields[0], f"the field {self.fields[0]!r}") if self.fields else ENDED


def first(then: Iterable[str], now: Iterable[str], trained: Sequence[str]) -> Divergence | None:
    """The first update in which two ledgers differ; None when they are the same.

    Args:
        then: lines of one ledger.
        now: lines of the other, beginning at the same update.
        trained: names of the tensors, in the order of the lines' checksums.
    """
    last = 0
    for one, two in zip_longest(then, now):
        if one is None or two is None:
            return Divergence(last + 1, (), (), len(trained))
        old = json.loads(one)
        last = int(old["update"])
        if one == two:
            continue
        new = json.loads(two)
        if fields := _fields(old, new):
            return Divergence(last, fields, _tensors(old, new, trained), len(trained))
    return None


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    order = list(CAUSES)
    found = [name for name in {*old, *new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    return tuple(sorted(found, key=lambda name: (order.index(name) if name in CAUSES else len(order), name)))


def _tensors(old: Mapping[str, Any], new: Mapping[str, Any], trained: Sequence[str]) -> tuple[str, ...]:
    one, two = (line.get("tensors", "") for line in (old, new))
    spans = ((name, slice(_DIGITS * at, _DIGITS * (at + 1))) for at, name in enumerate(trained))
    return tuple(name for name, span in spans if one[span] != two[span])


class Difference(NamedTuple):
    """A field of two records that differs."""

    field: str
    then: Any
    now: Any


def environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What differs between two provenances and could alter bits, by dotted path, sorted.

    Both sides' circumstances (when, how long, under which job) are left out.
    """
    one, two = ({key: value for key, value in side.items() if key not in CIRCUMSTANCES} for side in (then, now))
    return differences(one, two)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Every leaf of two nested mappings that differs, by its dotted path, sorted; lists are leaves."""
    old, new = dict(_leaves(then, "")), dict(_leaves(now, ""))
    return tuple(
        Difference(field, old.get(field, _ABSENT), new.get(field, _ABSENT))
        for field in sorted({*old, *new})
        if old.get(field, _ABSENT) != new.get(field, _ABSENT)
    )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif value != {}:
        yield path, value


@dataclass(frozen=True)
class Gap:
    """How far two losses are apart: |now - then| / |then|, and after which update that was."""

    relative: float
    update: int


def largest_gap(then: Iterable[str], now: Iterable[str]) -> Gap | None:
    """The largest relative difference of the loss of one update; None without a common update."""
    return max(_gaps(zip(_losses(then), _losses(now), strict=False)), key=lambda gap: gap.relative, default=None)


def curve_gap(then: Iterable[str], now: Iterable[str], parts: int = 10) -> Gap | None:
    """The largest relative difference of the mean loss over a part of the run, as a curve shows it.

    Args:
        then: lines of one ledger.
        now: lines of the other.
        parts: into how many the common updates are divided (fewer where there are fewer updates).
    """
    pairs = list(zip(_losses(then), _losses(now), strict=False))
    parts = min(parts, len(pairs))
    means = []
    for part in range(parts):
        rows = pairs[part * len(pairs) // parts : (part + 1) * len(pairs) // parts]
        end = rows[-1][0][0]
        one, two = (sum(row[side][1] for row in rows) / len(rows) for side in (0, 1))
        means.append(((end, one), (end, two)))
    return max(_gaps(means), key=lambda gap: gap.relative, default=None)


def _losses(lines: Iterable[str]) -> Iterator[tuple[int, float]]:
    for line in lines:
        one = json.loads(line)
        yield int(one["update"]), float(one["loss"])


def _gaps(pairs: Iterable[tuple[tuple[int, float], tuple[int, float]]]) -> Iterator[Gap]:
    for (update, one), (_, two) in pairs:
        yield Gap(0.0 if one == two else abs(two - one) / abs(one) if one else float("inf"), update)
