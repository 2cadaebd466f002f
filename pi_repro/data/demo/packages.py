"""Reading an emoji package: unpacked once a process, all that any of the demo's forms needs, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pi_repro.data.sources import Download, read_members
from pi_repro.errors import StateError

_FILES = frozenset({"data/openmoji.json", "icons.json", "chars.json"})
_FOLDERS = ("color/svg/", "black/svg/", "assets/")


@lru_cache(maxsize=8)
def members_of(path: Path, sha256: str) -> Mapping[str, bytes]:  # noqa: ARG001 (the digest is part of the key)
    """All that any form reads of a package; unpacked once a process, as openmoji alone has thousands of members."""
    return read_members(path, lambda name: name in _FILES or name.startswith(_FOLDERS))


def parsed(members: Mapping[str, bytes], member: str, download: Download) -> Any:
    try:
        return json.loads(members[member])
    except KeyError:
        raise StateError("package lacks a file that is needed", where=download.source.locator, given=member) from None
    except ValueError as error:
        raise StateError(
            "a file in a package is damaged", where=f"{download.source.locator} {member}", given=str(error)
        ) from None
