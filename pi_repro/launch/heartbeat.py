"""Who holds a name on a file system without locks: one small file for each claimant, touched while it lives.

Rule: a claim is a file of its own, so that nothing is ever taken from anybody: who finds another living claim
beside its own gives up. A claim is dead when its process is gone (same host, boot and process namespace) or
when it was not touched for a minute by the file system's clock. A holder that was taken for dead, because
its machine stood still, ends as soon as it finds that its claim is gone.
"""

from __future__ import annotations

import errno
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi_repro.launch import identity as identities

#: Seconds between two touches, and after how many a claim is dead.
BEAT_S, DEAD_S = 15.0, 60.0
#: Exit status of a process that leaves the work to another.
BUSY = 75
#: What a file system says that has no locks.
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def identity() -> dict[str, Any]:
    """This process, for others to look for: no two are the same, not even after a restart.

    `slurm_job` is the job that was submitted for it; None for a process that merely lies within somebody's job.
    """
    submitted = os.environ.get("PIREPRO_JOB_LAUNCHER") == "slurm"
    return {
        "id": uuid.uuid4().hex,
        **identities.me(),
        "slurm_job": os.environ.get("SLURM_JOB_ID") if submitted else None,
    }


@dataclass
class Claim:
    """A claim on a path; its file lies beside the path.

    Attributes:
        path: what is claimed.
        about: this process.
    """

    path: Path
    about: Mapping[str, Any]
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def file(self) -> Path:
        """The claim's own file."""
        return self.path.with_name(f"{self.path.name}.{self.about['id']}")

    def make(self, tries: int = 3) -> bool:
        """Claim the path, and touch the claim from then on; False when another process has it.

        Args:
            tries: two that claim at the same moment both give up, and try again.
        """
        for number in range(tries):
            if number:
                time.sleep(random.uniform(0.1, 0.5))  # noqa: S311
            temporary = self.file.with_name(f".{self.file.name}")
            temporary.write_text(json.dumps(dict(self.about)), encoding="utf-8")
            os.rename(temporary, self.file)
            if living(self.path, but=self.file) is None:
                threading.Thread(target=self._beat, daemon=True).start()
                return True
            self.file.unlink(missing_ok=True)
        return False

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self.file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                os.utime(self.file)
            except FileNotFoundError:
                if not self._ended.is_set():
                    os._exit(BUSY)  # another process goes on where this one was; write nothing more
            except OSError:
                continue  # a file server that is away for a moment


def living(path: Path, but: Path | None = None) -> dict[str, Any] | None:
    """Who claims a path, or None. Dead claims are removed by who claims itself.

    Args:
        path: what is claimed.
        but: the caller's own claim.
    """
    now = time_of(path.parent)
    for file in sorted(path.parent.glob(f"{path.name}.*")):
        if file == but:
            continue
        try:
            about, age = dict(json.loads(file.read_text(encoding="utf-8"))), now - file.stat().st_mtime
        except (FileNotFoundError, ValueError):
            continue  # ended meanwhile, or nobody's
        if age <= DEAD_S and identities.alive(about) is not False:
            return about
        if but is not None:
            file.unlink(missing_ok=True)
    return None


def time_of(folder: Path) -> float:
    """The time by the clock that stamps a folder's files, which need not be this host's."""
    probe = folder / f".clock.{uuid.uuid4().hex}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # a folder that is only read
        return time.time()
    return now
