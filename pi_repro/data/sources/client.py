"""Running a package manager's own client: what went wrong is told apart by what helps against it.

The client is the user's way to a registry (mirrors, proxies, credentials are its configuration), so this
package knows no host and speaks no registry protocol.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pi_repro.errors import Interrupted

#: seconds that one download may take before it counts as stuck
PATIENCE = 900.0


class Unreachable(Exception):
    """The registry did not answer, or not to the end: worth another try."""


class Damaged(Exception):
    """What came is not what the registry itself announced: worth one more try."""


class Unavailable(Exception):
    """The registry answers that it has no such thing: another try is no use."""


class Client(Protocol):
    """Downloads one archive of an exact version into an empty folder."""

    def __call__(self, locator: str, revision: str, folder: Path, should_stop: Callable[[], bool]) -> Path: ...


@dataclass(frozen=True)
class Outcome:
    """How a client's process ended."""

    status: int
    stdout: str
    stderr: str


def run_client(command: Sequence[str], cwd: Path, env: Mapping[str, str], should_stop: Callable[[], bool]) -> Outcome:
    """Run a client, watching for a request to stop.

    Raises:
        Interrupted: the stage was asked to stop; the client is gone by then.
        Unreachable: it took longer than PATIENCE.
    """
    end = time.monotonic() + PATIENCE
    with (cwd / "stdout").open("w+b") as out, (cwd / "stderr").open("w+b") as err:
        process = subprocess.Popen(
            list(command), cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            while process.poll() is None:
                if should_stop():
                    raise Interrupted("the stage was asked to stop while it downloaded", where=str(cwd))
                if time.monotonic() > end:
                    raise Unreachable(f"no end after {PATIENCE:.0f} s")
                try:
                    process.wait(timeout=0.1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        out.seek(0)
        err.seek(0)
        return Outcome(process.returncode, out.read().decode(errors="replace"), err.read().decode(errors="replace"))
