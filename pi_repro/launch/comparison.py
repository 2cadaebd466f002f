"""Two executions side by side: the same bits, or where they part and what could be the reason.

Rule: bits decide. Numbers that are close are said to be close only where bits were never promised:
on another model of device, or in mode fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from pi_repro.provenance import divergence
from pi_repro.provenance.divergence import Difference, Divergence, Gap

from .recorded import LEDGER, TRAINING, Recorded

#: What mode fast is held to: the relative difference of the mean loss over a tenth of the run.
TOLERANCE = 0.05

Kind = Literal["identical", "different", "not comparable", "close", "apart"]


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Attributes:
        kind: identical; different; not comparable (another device model, on which other bits are
            expected); for mode fast, close or apart.
        what: the stage, or the two names.
        then: one execution.
        now: the other.
        updates: the stretch that was compared, first and last update; None for whole outputs.
        differing: files that differ or that one of the two lacks; empty for a stretch.
        divergence: for trainings whose ledgers differ.
        settings: what both training.json say differently.
        environment: fields of the provenance that differ.
        gap: how far the losses are apart: of one update, in mode fast of a tenth of the run.
    """

    kind: Kind
    what: str
    then: Recorded
    now: Recorded
    updates: tuple[int, int] | None
    differing: tuple[str, ...]
    divergence: Divergence | None
    settings: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    gap: Gap | None

    @property
    def good(self) -> bool:
        """Whether the promise holds."""
        return self.kind in ("identical", "close")

    @property
    def states(self) -> list[int]:
        """Updates from which a stretch can begin: 0 and the published states."""
        return stretch_begins(self.then) if self.then.ledger else []


def stretch_begins(recorded: Recorded) -> list[int]:
    """Updates after which a stretch of a training can begin: 0 and those of its published states."""
    return sorted({0, *(int(row["update"]) for row in recorded.training["states"])})


def compare(
    then: Recorded,
    now: Recorded,
    what: str,
    *,
    updates: tuple[int, int] | None = None,
    mode: str = "exact",
    device: str | None = None,
) -> Comparison:
    """Compare two executions.

    Args:
        then: the recorded one.
        now: the other; of a stretch, its ledger has these updates only.
        what: their name.
        updates: first and last update of a stretch; None to compare all files.
        mode: exact or fast, as the recipe says.
        device: "cpu" or "cuda" where it is known which computed.

    Raises:
        StateError: a file that is needed is missing or damaged, by name.
    """
    differing = () if updates else _differing(then, now)
    parting = gap = None
    if updates or (then.ledger and now.ledger and LEDGER in differing):
        names = then.training["trained"]
        # Checksums of other tensors have no common names.
        trained = names if names == now.training["trained"] else ()
        parting = divergence.first(_lines(then, updates), _lines(now), trained)
        measure = divergence.curve_gap if mode == "fast" else divergence.largest_gap
        gap = measure(_lines(then, updates), _lines(now)) if parting else None
    same = then.provenance.get("fingerprint") == now.provenance.get("fingerprint") is not None
    if device is None and same:
        # Two executions of one recipe: the record says what computed.
        device = "cuda" if then.provenance.get("devices", {}).get("kind") == "gpu" else "cpu"
    kind: Kind = "identical"
    if parting or differing:
        kind = "different"
        if mode == "fast":
            kind = "close" if gap is not None and gap.relative <= TOLERANCE else "apart"
        elif device and _device(then, device) != _device(now, device):
            kind = "not comparable"
    settings = () if updates else divergence.differences(_settings(then), _settings(now))
    environment = divergence.environment(then.provenance, now.provenance) if then.provenance and now.provenance else ()
    return Comparison(kind, what, then, now, updates, differing, parting, settings, environment, gap)


def _differing(then: Recorded, now: Recorded) -> tuple[str, ...]:
    one, two = ({entry.path: entry.sha256 for entry in side.manifest.entries} for side in (then, now))
    return tuple(path for path in sorted({*one, *two}) if one.get(path) != two.get(path))


def _lines(recorded: Recorded, updates: tuple[int, int] | None = None) -> Iterator[str]:
    assert recorded.ledger is not None
    with recorded.ledger.open(encoding="utf-8") as file:
        yield from islice(file, updates[0] - 1, updates[1]) if updates else file


def _settings(recorded: Recorded) -> dict[str, Any]:
    """What draw and trainings say of themselves, without what came out of them."""
    if not (recorded.out / TRAINING).is_file():
        return {}
    results = ("checkpoints", "states", "last", "trained")
    return {key: value for key, value in recorded.training.items() if key not in results}


def _device(recorded: Recorded, device: str) -> list[str]:
    """The model of the device that computed."""
    found = recorded.provenance.get("gpus" if device == "cuda" else "cpu")
    return sorted(set(found)) if isinstance(found, list) else [str(found)]
