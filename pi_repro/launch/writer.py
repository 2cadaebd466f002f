"""Who drives this workspace: one `pirepro run`, or the `pirepro stage` commands of one host; never both.

Rule: every driver keeps a record of its own below .pirepro/drivers, locked for as long as it lives and renewed by
a heartbeat. On the machine that wrote a record the kernel says whether its driver lives; of another machine's the
heartbeat does, by the file system's own clock. The record of a dead driver is removed by who drives next.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Literal

from pi_repro.errors import StateError

from . import heartbeat, identity
from .places import Places

#: Seconds between heartbeats, and of silence after which another machine's driver counts as dead. File systems
#: may show a change a minute late.
HEARTBEAT_S = 10.0
STALE_S = 120.0

Kind = Literal["run", "stage", "gc"]


@dataclass(frozen=True)
class Driver:
    """What a driver says of itself.

    Attributes:
        kind: its command; several `stage` go together, all else is alone.
        host: name of its machine.
        boot: that machine's boot id, empty where the kernel has none.
        pid: its process.
        begun: clock ticks after boot at which the process began; tells it from a later one of the same number.
        started: when, Unix time.
        locked: whether its record is locked, where the file system offers that.
        site: the cluster it dispatches to.
    """

    kind: Kind
    host: str
    boot: str
    pid: int
    begun: int
    started: float
    locked: bool
    site: str | None = None

    @property
    def here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname() and self.boot == identity.boot()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (`pirepro {self.kind}`, since {_clock(self.started)})"


@dataclass
class Writer:
    """The record of this process, kept fresh until `close`."""

    path: Path
    file: IO[str]
    _end: threading.Event = field(default_factory=threading.Event)
    _lost: bool = False

    def check(self) -> None:
        """Go on only while the record stands.

        Raises:
            StateError: another machine took this one for dead, after a silence of STALE_S.
        """
        if self._lost:
            raise StateError(
                "this process was silent for so long that another driver took over",
                where=str(self.path.parent),
                todo="let the other one go on; jobs in SLURM and published stages are unharmed",
            )

    def beat(self) -> None:
        """Renew the record until the end."""
        while not self._end.wait(HEARTBEAT_S):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                self._lost = True
                return
            except OSError:
                continue  # a file server that is away for a while

    def close(self) -> None:
        """Remove the record."""
        self._end.set()
        self.path.unlink(missing_ok=True)
        self.file.close()


@contextmanager
def driving(places: Places, kind: Kind, site: str | None = None) -> Iterator[Writer]:
    """Drive the workspace.

    Args:
        kind: the command; `stage` goes beside other `stage` of this machine, nothing else does.
        site: the cluster that is dispatched to, for others to know.

    Raises:
        StateError: naming the process that drives it already, and its machine.
    """
    folder = _folder(places)
    folder.mkdir(parents=True, exist_ok=True)
    with _gate(folder):
        # Written first and looked second: where no lock keeps two machines apart, at most both refuse.
        writer = _write(folder, kind, site)
        others = [driver for path, driver in _living(folder, tidy=True) if path != writer.path]
        others = [other for other in others if not (kind == other.kind == "stage" and other.here)]
        if others:
            writer.close()
            raise _refusal(others[0], places)
    thread = threading.Thread(target=writer.beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        writer.close()
        thread.join()


def drivers(places: Places) -> list[Driver]:
    """Who drives the workspace now."""
    return [driver for _, driver in _living(_folder(places))]


def refuse(places: Places) -> None:
    """Stop here when somebody drives the workspace.

    Raises:
        StateError: naming the process, and its machine.
    """
    if others := drivers(places):
        raise _refusal(others[0], places)


def _refusal(other: Driver, places: Places) -> StateError:
    todo = "wait for it, or stop it with Ctrl-C there; its jobs keep their state"
    if other.kind == "run":
        todo = "pirepro attach follows it, if it is in the background; pirepro cancel stops it; or wait for it"
    if not other.here:
        todo += f"\n           a driver that was killed, on a machine that is gone, is forgotten after {STALE_S:.0f} s"
    return StateError(
        "another driver works in this workspace",
        where=str(places.workspace),
        given=str(other) + (f", dispatching to {other.site}" if other.site else ""),
        allowed="one `pirepro run` or one `dvc repro` a workspace",
        todo=todo,
    )


def _folder(places: Places) -> Path:
    return places.state / "drivers"


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One process at a time looks and writes."""
    with (folder / ".gate").open("w") as file:
        _lock(file, fcntl.LOCK_EX)
        yield


def _lock(file: IO[str], how: int) -> bool:
    """Lock a file; False where its file system has no locks."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in heartbeat.LOCKLESS:
            raise
        return False
    return True


def _write(folder: Path, kind: Kind, site: str | None) -> Writer:
    host, pid = socket.gethostname(), os.getpid()
    name = f"{pid}-{uuid.uuid4().hex[:8]}"
    aside = folder / f".{name}"
    file = aside.open("w", encoding="utf-8")
    locked = _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    own = Driver(kind, host, identity.boot(), pid, int(identity.began(pid) or 0), time.time(), locked, site)
    json.dump(asdict(own), file)
    file.flush()
    os.fsync(file.fileno())
    aside.rename(folder / f"{name}.json")
    return Writer(folder / f"{name}.json", file)


def _living(folder: Path, *, tidy: bool = False) -> list[tuple[Path, Driver]]:
    """The records whose drivers live; who drives itself removes the others."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            with path.open("r", encoding="utf-8") as file:
                driver = Driver(**json.load(file))
                alive = _alive(driver, file)
        except FileNotFoundError:
            continue  # ended while we looked
        except (ValueError, TypeError):
            alive = False  # not whole: its writer was cut off, or was another version
        if alive:
            found.append((path, driver))
        elif tidy:
            path.unlink(missing_ok=True)
    return found


def _alive(driver: Driver, record: IO[str]) -> bool:
    if not driver.here:
        return heartbeat.time_of(Path(record.name).parent) - os.fstat(record.fileno()).st_mtime < STALE_S
    if driver.locked:
        with suppress(BlockingIOError):
            # Who can lock it has found it free. A driver of another container of this machine has its own pids.
            return not _lock(record, fcntl.LOCK_SH | fcntl.LOCK_NB) and identity.began(driver.pid) == str(driver.begun)
        return True
    return identity.began(driver.pid) == str(driver.begun)


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
