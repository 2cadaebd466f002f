"""Which folders in scratch are this workspace's: others may share it, with clones and with strangers to pi_repro.

Rule: a folder belongs to the workspace that its job.json names. Only what every version of that file has is read, so
that jobs which an older checkout submitted are found, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.files import read_json
from pi_repro.launch.lease import Lease

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
#: What `pirepro verify` computes in: its own scratch is one level down.
_VERIFY = re.compile(r"verify-[0-9a-f]{16}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Owned:
    """A folder in scratch that a job of this workspace works in, or did.

    Attributes:
        name: the stage.
        fingerprint: what it computes; the folder's name, but for a verification.
        folder: where.
    """

    name: str
    fingerprint: str
    folder: Path

    @property
    def lease(self) -> Lease:
        """The lock of whoever works there."""
        return Lease(self.folder / "lease.json")

    @property
    def submitted(self) -> bool:
        """Whether it was ever handed to a cluster."""
        return (self.folder / "attempts").is_dir()


def jobs(scratches: Iterable[Path], workspace: Path) -> list[Owned]:
    """The folders of stages of a workspace, in several scratch folders or one."""
    return _found(scratches, workspace, FINGERPRINT, "job.json")


def verifications(scratch: Path, workspace: Path) -> list[Owned]:
    """The folders in which a workspace verified, or does."""
    return _found([scratch], workspace, _VERIFY, "scratch/*/job.json")


def _found(scratches: Iterable[Path], workspace: Path, names: re.Pattern[str], jobs_at: str) -> list[Owned]:
    found = []
    for scratch in dict.fromkeys(scratches):
        for folder in sorted(scratch.iterdir()) if scratch.is_dir() else []:
            if names.fullmatch(folder.name) and (content := next(map(_about, folder.glob(jobs_at)), None)):
                name, fingerprint, whose = content
                if Path(whose) == workspace:
                    found.append(Owned(name, fingerprint, folder))
    return found


def _about(path: Path) -> tuple[str, str, str] | None:
    """Stage, fingerprint and workspace of a job.json; None where it is none, or none any more."""
    try:
        content = read_json(path)
        return str(content["name"]), str(content["fingerprint"]), str(content["places"]["workspace"])
    except (StateError, OSError, KeyError, TypeError):
        return None
