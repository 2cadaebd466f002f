"""The identity of a stage: sha256 over canonical JSON of all that can alter its outputs' bits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import digest_of, sha256_file

LOCK = "requirements.lock"


def environment_id(workspace: Path) -> str:
    """Python's minor version and the hash of the lock: the same on the host and in the container."""
    lock = workspace / LOCK
    if not lock.is_file():
        raise StateError("the lock is missing", where=str(lock), todo="restore it: git checkout requirements.lock")
    return f"py{sys.version_info.major}.{sys.version_info.minor}-{sha256_file(lock)[:16]}"


def payload(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str], environment: str) -> dict[str, Any]:
    """What is hashed.

    Args:
        kind: the verb.
        settings: resolved science settings, with the recipe number of the stage's code.
        inputs: role -> content digest.
        environment: environment id; a fetch ignores it, because its card pins what renders.
    """
    return {
        "kind": kind,
        "settings": settings,
        "inputs": inputs,
        "environment": None if kind == "fetch" else environment,
    }


def fingerprint(content: Mapping[str, Any]) -> str:
    """Hex sha256 of a payload.

    Raises:
        TypeError: on a value without canonical form, rather than forking the identity silently.
    """
    return digest_of(content)
