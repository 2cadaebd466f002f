"""Fingerprints along the graph: a stage's identity is known once what it depends on was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pi_repro.files import tree_digest
from pi_repro.spec.fingerprint import fingerprint, payload

from .graph import Plan, Stage

#: fingerprint -> content digest of what was published under it, or None.
Lookup = Callable[[str], str | None]


@dataclass(frozen=True)
class Resolved:
    """A stage and what is known of its identity.

    Attributes:
        stage: the stage.
        payload: what its fingerprint hashes; None while an input does not exist (waiting).
        fingerprint: hex sha256, or None while waiting.
        digest: content digest of its published output, or None.
        waiting_for: names of the stages whose outputs do not exist yet.
    """

    stage: Stage
    payload: Mapping[str, Any] | None
    fingerprint: str | None
    digest: str | None
    waiting_for: tuple[str, ...]


def resolve(
    stage: Stage, parents: Mapping[str, tuple[str, ...]], done: Mapping[str, Resolved], environment: str, lookup: Lookup
) -> Resolved:
    """The identity of one stage, given that of its parents.

    An input made by several stages (the results that a report reads) has the digest of their
    folder names and digests.
    """
    waiting = tuple(name for names in parents.values() for name in names if done[name].digest is None)
    if waiting:
        return Resolved(stage, None, None, None, waiting)
    inputs = {role: _digest([done[name] for name in names], stage.deps[role]) for role, names in parents.items()}
    content = payload(stage.kind, stage.settings, inputs, environment)
    identity = fingerprint(content)
    return Resolved(stage, content, identity, lookup(identity), ())


def resolve_all(plan: Plan, environment: str, lookup: Lookup) -> dict[str, Resolved]:
    """The identity of every stage, in the plan's order."""
    done: dict[str, Resolved] = {}
    for stage in plan.stages:
        done[stage.name] = resolve(stage, plan.parents[stage.name], done, environment, lookup)
    return done


def _digest(makers: list[Resolved], path: str) -> str:
    digests = [(maker.stage.out, maker.digest or "") for maker in makers]
    if len(digests) == 1 and digests[0][0] == path:
        return digests[0][1]
    return tree_digest((out[len(path) + 1 :], digest) for out, digest in digests)
