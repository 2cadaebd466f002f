"""Who works on a fingerprint: a lock that the kernel frees when its holder dies, and a note for people.

Rule: only the lock counts, so none is ever stale. Where the file system has no locks, a claim that its
holder touches stands for it (`heartbeat`).
"""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pi_repro.launch import heartbeat
from pi_repro.launch.heartbeat import LOCKLESS, Claim

#: Tries: `holder` holds the lock for a moment, which is not another owner.
_PEEKS = 10


@dataclass
class Lease:
    """A lock on a file, held until `release`, the end of the process, or the machine's.

    The file stays when the lock goes.
    """

    path: Path
    _file: IO[str] | None = None
    _claim: Claim | None = None

    def acquire(self) -> bool:
        """Take the lock and write who holds it; False when another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = heartbeat.identity()
        file = self.path.open("a+", encoding="utf-8")
        for left in reversed(range(_PEEKS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    file.close()
                    return False
                time.sleep(0.01)
            except OSError as error:
                file.close()
                if error.errno not in LOCKLESS:
                    raise
                claim = Claim(self.path, about)
                self._claim = claim if claim.make() else None
                return self._claim is not None
        file.truncate(0)
        file.write(json.dumps(about))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._claim is not None:
            self._claim.end()
            self._claim = None

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock now, or None when nobody does."""
        try:
            with self.path.open("r", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                except BlockingIOError:
                    text = file.read()
                except OSError as error:
                    if error.errno not in LOCKLESS:
                        raise
                    return heartbeat.living(self.path)
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(text))
        except ValueError:
            return {}

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
