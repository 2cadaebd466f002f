"""What came of a comparison: one line first, then where two executions part and what could be the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pi_repro.plan.bill import human_bytes

from .show import line

if TYPE_CHECKING:
    from pi_repro.launch.comparison import Comparison

_SHOWN = 5
#: Fields of a provenance that are promised to alter no bit, so that they are no reason.
_PROMISED = {"cores", "devices", "processes"}
#: Fields that a checkout and its locks decide.
_REMADE = {"git", "packages", "lock", "python", "environment", "differs_from_lock"}


def show(found: Comparison) -> bool:
    """Print it; True when the promise holds."""
    for text in lines(found):
        line(text)
    return found.good


def lines(found: Comparison) -> Iterator[str]:
    """The report, line by line."""
    yield f"{found.what}: {_headline(found)}"
    if found.kind == "identical":
        yield f"  {_extent(found)}"
        if found.environment:
            yield "  the same bits though the environment differs, then -> now:"
            yield from _table(found.environment)
        return
    yield from _parting(found)
    if found.settings:
        yield "  settings that differ, then -> now:"
        yield from _table(found.settings)
    yield from _environment(found)
    yield f"  then: {found.then.out}"
    yield f"  now:  {found.now.out}"
    if not found.good and (todo := _todo(found)):
        yield f"  to do: {todo}"


def _headline(found: Comparison) -> str:
    far = f"{found.gap.relative:.2%}" if found.gap else "unknown"
    return {
        "identical": "identical",
        "different": "different bits",
        "not comparable": "not comparable: another device model computed, on which other bits are expected",
        "close": f"close: mode fast promises no bits; mean losses differ by {far} at most (5 % are allowed)",
        "apart": f"apart: mode fast promises no bits, but mean losses differ by {far} (5 % are allowed)",
    }[found.kind]


def _extent(found: Comparison) -> str:
    if found.updates:
        first, last = found.updates
        number = len(found.then.training["trained"])
        return f"updates {first} to {last}: samples, loss, gradient norm and all {number} trained tensors"
    content = found.then.manifest
    return f"{len(content.entries)} files, {human_bytes(content.bytes)}"


def _parting(found: Comparison) -> Iterator[str]:
    parting = found.divergence
    if parting:
        yield f"  first difference: update {parting.update}"
        yield f"  what:    {parting.cause}"
        if parting.fields:
            yield f"  fields:  {', '.join(parting.fields)}"
        if parting.tensors:
            yield f"  tensors: {len(parting.tensors)} of {parting.trained} differ after it: {_some(parting.tensors)}"
    if found.gap and found.kind in ("different", "not comparable"):
        yield f"  losses:  {found.gap.relative:.2g} apart (relative), at update {found.gap.update} the most"
    if found.differing:
        total = len({entry.path for side in (found.then, found.now) for entry in side.manifest.entries})
        yield f"  files:   {len(found.differing)} of {total} differ: {_some(found.differing)}"


def _environment(found: Comparison) -> Iterator[str]:
    if not (found.then.provenance and found.now.provenance):
        yield "  environment: no provenance is known of one of the two"
    elif found.environment:
        yield "  environment that differs, then -> now:"
        yield from _table(found.environment)
    else:
        yield "  environment: nothing that is recorded differs"


def _todo(found: Comparison) -> str | None:
    if found.then.name != found.now.name:
        return None
    if found.kind == "not comparable":
        return f"verify on {', '.join(_models(found))}, or take close numbers for what they are"
    if found.kind == "apart":
        return "look at both curves.csv; a difference like this is no rounding"
    commit = found.then.provenance.get("git", {}).get("commit")
    reasons = {row.field.partition(".")[0] for row in found.environment} - _PROMISED
    if reasons - _REMADE:
        return "verify where these fields are as they were"
    if reasons - {"git"}:
        return f"make the environment what it was (git checkout {commit or 'THAT COMMIT'}; make env) and verify again"
    again = f"see whether it comes again, and there: pirepro verify {found.what}"
    if found.divergence:
        update = found.divergence.update
        begin = max(state for state in found.states if state < update)
        again += f" --from-step {begin} --steps {update - begin}"
    return f"see whether the code differs: git diff {commit} -- pi_repro; if not, {again}" if reasons else again


def _models(found: Comparison) -> list[str]:
    """The device models that computed then, of the kind that differs."""
    gpus = found.then.provenance.get("gpus")
    return sorted(set(gpus)) if gpus else [str(found.then.provenance.get("cpu"))]


def _table(rows: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    width = max(len(field) for field, _, _ in rows)
    for field, then, now in rows:
        yield f"    {field:<{width}}  {_value(then)} -> {_value(now)}"


def _value(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:16]}..." if len(text) in (40, 64) and " " not in text else text or "(none)"


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
