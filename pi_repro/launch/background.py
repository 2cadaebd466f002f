"""A driver in the background: the same command in a session of its own, its words in .pirepro/driver.log.

Rule: who attaches only reads. That the driver lives is told by its record (`writer`); how it ended, by
.pirepro/driver.status, which it writes last.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import Interrupted, PireproError, RequestError, StateError
from pi_repro.files import read_json, write_json
from pi_repro.launch import writer
from pi_repro.launch.places import Places

#: Tells a driver where to write how it ended.
VARIABLE = "PIREPRO_DRIVER_END"
#: Seconds between two looks; and from the end of a driver's record to its status, at most.
_LOOK_S, _LAST_WORDS_S = 0.2, 15.0
#: Lines of a driver that has ended which are shown.
_TAIL = 20


@dataclass(frozen=True)
class Ended:
    """What is known of the last driver in the background: who it was, and its exit status once it has ended."""

    host: str
    pid: int
    status: int | None


def start(arguments: Sequence[str], places: Places) -> int:
    """Start the command line in the background, and wait until it drives; returns its process.

    Args:
        arguments: what follows `pirepro`; paths in it are relative to this process's folder.
        places: the workspace's.

    Raises:
        StateError: another driver works here; or this one ended at once, in its own words.
        RequestError, Interrupted: it ended at once with their status.
    """
    writer.refuse(places)
    places.state.mkdir(parents=True, exist_ok=True)
    _file(places).unlink(missing_ok=True)
    with log(places).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pi_repro", *arguments],
            env={**os.environ, VARIABLE: str(_file(places))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None:
        if any(driver.here and driver.pid == process.pid for driver in writer.drivers(places)):
            return process.pid
        time.sleep(_LOOK_S)
    if process.returncode == 0:
        return process.pid  # everything was published
    kinds: dict[int, type[PireproError]] = {kind.exit_status: kind for kind in (RequestError, Interrupted)}
    raise kinds.get(process.returncode, StateError)(
        f"the driver ended with status {process.returncode}",
        where=str(log(places)),
        given="\n".join(_tail(places)).strip(),
    )


def log(places: Places) -> Path:
    """What the last driver in the background said."""
    return places.state / "driver.log"


def attach(places: Places, say: Callable[[str], None]) -> int:
    """Say what the driver in the background has said and says, until it ends; returns its exit status.

    Raises:
        StateError: none was started here; or one works in the foreground; or it was killed.
        Interrupted: after Ctrl-C; the driver goes on.
    """
    if not _runs(places):
        return _last_words(places, say)
    try:
        with log(places).open("rb") as file:
            try:
                going = True
                while going:
                    going = _runs(places)  # first: what it said before it ended is read after
                    if new := file.read():
                        say(new.decode(errors="replace"))
                    elif going:
                        time.sleep(_LOOK_S)
                return _status(places)
            finally:
                say(file.read().decode(errors="replace"))  # its last words come after the end of its record
    except KeyboardInterrupt:
        raise Interrupted(
            "no longer following; the driver goes on", todo="pirepro attach again; pirepro cancel stops it"
        ) from None


def _last_words(places: Places, say: Callable[[str], None]) -> int:
    foreground = [driver for driver in writer.drivers(places) if driver.kind == "run"]
    if foreground:
        raise StateError(
            "the driver works in the foreground, where it says what it does",
            given=str(foreground[0]),
            todo="pirepro status and pirepro logs STAGE -f look from here",
        )
    todo = "pirepro run SPEC --slurm --detach goes on with what is left; pirepro status shows it"
    if _read(places) is None:
        raise StateError("no driver was started in the background here", where=str(places.workspace), todo=todo)
    status = _status(places)
    say("\n".join([*_tail(places), f"the driver has ended, with status {status}", ""]))
    return status


def _tail(places: Places) -> list[str]:
    return log(places).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]


def _status(places: Places) -> int:
    end = time.monotonic() + _LAST_WORDS_S
    while (found := _read(places)) and found.status is None and time.monotonic() < end:
        time.sleep(_LOOK_S)  # between the end of its record and its status
    if found is None or found.status is None:
        raise StateError(
            "the driver ended without a word: it was killed",
            where=str(log(places)),
            todo="the same pirepro run goes on where it was; jobs in SLURM are unharmed",
        )
    return found.status


def _runs(places: Places) -> bool:
    """Whether the driver in the background drives, or is about to."""
    found = _read(places)
    if found is None or found.status is not None:
        return False
    return any((driver.host, driver.pid) == (found.host, found.pid) for driver in writer.drivers(places))


def _read(places: Places) -> Ended | None:
    return Ended(**read_json(_file(places))) if _file(places).is_file() else None


def _file(places: Places) -> Path:
    return places.state / "driver.status"


def begin() -> Callable[[int], None]:
    """For the door: note that this process is a driver in the background; what is returned notes how it ended."""
    target = os.environ.pop(VARIABLE, None)
    if target is None:
        return lambda _: None

    def note(status: int | None) -> None:
        write_json(Path(target), {"host": socket.gethostname(), "pid": os.getpid(), "status": status})

    note(None)
    return note
