"""One driver a workspace: refused by name while it lives, forgotten when it is dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pi_repro.errors import StateError
from pi_repro.launch import writer
from pi_repro.launch.places import Places

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from pi_repro.launch import writer\n"
    "from pi_repro.launch.places import Places\n"
    "root = Path(sys.argv[1])\n"
    "with writer.driving(Places(root, root, root, root, None), sys.argv[2], 'moon'):\n"
    "    print('in', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, tmp_path, tmp_path, tmp_path, None)


def hold(places: Places, kind: str) -> subprocess.Popen[str]:
    """Another process that drives; it ends when its input does."""
    command = [sys.executable, "-c", HOLD, str(places.workspace), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def record(places: Places, driver: writer.Driver, *, age_s: float = 0.0) -> Path:
    """A record as another machine's driver wrote it, its last heartbeat some seconds old."""
    path = places.state / "drivers" / "other.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(driver)))
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return path


def elsewhere(places: Places) -> writer.Driver:
    with writer.driving(places, "run"):
        (own,) = writer.drivers(places)
    return replace(own, host="login2", boot="another")


@pytest.mark.parametrize(("first", "second"), [("run", "run"), ("run", "stage"), ("stage", "run"), ("run", "gc")])
def test_a_second_driver_is_refused_by_name_until_the_first_ends(places: Places, first: str, second: str) -> None:
    other = hold(places, first)
    with pytest.raises(StateError, match="another driver") as refusal, writer.driving(places, second):
        pytest.fail("both drive")
    assert f"process {other.pid} on {os.uname().nodename}" in str(refusal.value) and "moon" in str(refusal.value)
    assert [driver.pid for driver in writer.drivers(places)] == [other.pid], "the refused one left a record"
    other.communicate("")
    with writer.driving(places, second):
        assert [driver.pid for driver in writer.drivers(places)] == [os.getpid()]
    assert writer.drivers(places) == []


def test_stages_of_one_machine_go_side_by_side(places: Places) -> None:
    other = hold(places, "stage")
    with writer.driving(places, "stage"):
        assert len(writer.drivers(places)) == 2
    other.communicate("")


def test_who_was_killed_is_forgotten_at_once_here(places: Places) -> None:
    other = hold(places, "run")
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with writer.driving(places, "run"):
        pass


def test_without_locks_the_process_itself_tells(places: Places) -> None:
    """Same number, another process: it began at another time."""
    with writer.driving(places, "run"):
        (own,) = writer.drivers(places)
    record(places, replace(own, locked=False))
    assert len(writer.drivers(places)) == 1
    path = record(places, replace(own, locked=False, begun=own.begun - 1))
    assert writer.drivers(places) == [] and path.exists(), "who looks changes nothing"
    with writer.driving(places, "run"):
        assert not path.exists()


def test_another_machine_s_driver_is_refused_while_its_heart_beats_and_taken_over_after(places: Places) -> None:
    other = elsewhere(places)
    path = record(places, other, age_s=writer.STALE_S - 20)
    for kind in ("run", "stage"):
        with pytest.raises(StateError, match=f"process {other.pid} on login2"), writer.driving(places, kind):
            pytest.fail("both drive")
    path = record(places, replace(other, kind="stage"))
    with pytest.raises(StateError, match="login2"), writer.driving(places, "stage"):
        pytest.fail("stages of two machines: DVC's own lock knows one machine's processes only")
    path = record(places, other, age_s=writer.STALE_S + 20)
    with writer.driving(places, "run"):
        assert not path.exists()


def test_a_driver_that_was_taken_for_dead_stops(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HEARTBEAT_S", 0.01)
    with writer.driving(places, "run") as own:
        own.check()
        own.path.unlink()
        end = time.monotonic() + 10
        while not own._lost and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(StateError, match="took over"):
            own.check()


def test_of_many_that_start_together_one_drives(places: Places) -> None:
    command = [sys.executable, "-c", HOLD, str(places.workspace), "run"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    held = []
    for process in started:
        assert process.stdout is not None
        held.append(process.stdout.readline() == "in\n")
    for process in started:
        process.communicate("")
    assert sum(held) == 1
