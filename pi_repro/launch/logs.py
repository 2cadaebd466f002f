"""A stage's log: in scratch from its first line on, beside its outputs once it is published."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.launch import inspect, writer
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.lease import Lease
from pi_repro.launch.places import Places
from pi_repro.plan.graph import Plan

#: Seconds between two looks at a file that grows, and at who writes it.
_LOOK_S, _ALIVE_S = 0.5, 5.0


def show(plan: Plan, name: str, places: Places, say: Callable[[str], None]) -> None:
    """Say a stage's log as it is now.

    Raises:
        RequestError: no such stage.
        StateError: it has no log yet, and what it waits for.
    """
    path = _file(_fingerprint(plan, name, places), places)
    if path is None:
        raise StateError(f"{name} has not begun", todo=f"pirepro logs {name} -f waits for it; pirepro status")
    say(path.read_text(encoding="utf-8", errors="replace"))


def follow(plan: Plan, name: str, places: Places, cluster: Cluster | None, say: Callable[[str], None]) -> None:
    """Say a stage's log as it grows, until the stage is published or nobody works on it any more.

    Raises:
        RequestError: no such stage.
        StateError: it can't begin yet, or ended without being published.
    """
    fingerprint = _fingerprint(plan, name, places)
    shown, looked, going = 0, float("-inf"), True
    while True:
        published = (places.store / fingerprint / "manifest.json").is_file()
        if not published and time.monotonic() - looked >= _ALIVE_S:
            looked, going = time.monotonic(), _going(fingerprint, places, cluster)
        # What is written after this look was written by somebody who still works.
        path = _file(fingerprint, places)
        if path is not None:
            with path.open("rb") as file:
                file.seek(shown)
                new = file.read()
            # Only whole lines: the rest of one comes with the next look.
            whole = new[: new.rfind(b"\n") + 1] if going and not published else new
            if whole:
                shown += len(whole)
                say(whole.decode(errors="replace"))
        if published:
            return
        if not going:
            raise StateError(f"nobody works on {name} now, and it is not published", todo="pirepro status; run again")
        time.sleep(_LOOK_S)


def _fingerprint(plan: Plan, name: str, places: Places) -> str:
    found = inspect.identified(plan, name, places)
    if found.fingerprint is None:
        raise StateError(f"{name} waits for {found.waiting_for[0]}", todo="pirepro status")
    return found.fingerprint


def _file(fingerprint: str, places: Places) -> Path | None:
    """The log in scratch, which is whole and stays in place while it is followed; else the published copy."""
    for path in (places.scratch / fingerprint / "log.txt", places.store / fingerprint / "log.txt"):
        if path.is_file():
            return path
    return None


def _going(fingerprint: str, places: Places, cluster: Cluster | None) -> bool:
    """Whether a process holds it, a cluster has it, or a driver may yet start it."""
    if Lease(places.scratch / fingerprint / "lease.json").holder() is not None or writer.drivers(places):
        return True
    if cluster is None:
        return False
    live = cluster.view([fingerprint])
    return live is None or fingerprint in live  # a SLURM that is away for a while says nothing of the job
