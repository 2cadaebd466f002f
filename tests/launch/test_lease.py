"""The lease on a file system without locks: a claim that its holder touches."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pi_repro.launch import heartbeat
from pi_repro.launch.lease import Lease


@pytest.fixture(autouse=True)
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def _claim(path: Path, age_s: float = 0.0, **about: object) -> Path:
    """What another process would leave beside a lease."""
    file = path.with_name(f"{path.name}.{'0' * 32}")
    file.write_text(json.dumps({**heartbeat.identity(), **about}))
    os.utime(file, (file.stat().st_mtime - age_s,) * 2)
    return file


def _ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_has_it_until_it_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    assert Lease(path).holder() is None
    with Lease(path) as first:
        assert first.acquire()
        holder = Lease(path).holder()
        assert holder is not None and holder["pid"] == os.getpid()
        assert not Lease(path).acquire()
        assert Lease(path).holder() == holder
    assert Lease(path).holder() is None
    with Lease(path) as second:
        assert second.acquire()
    assert [file.name for file in tmp_path.iterdir()] == ["lease.json"]


@pytest.mark.parametrize(
    ("age_s", "about", "dead"),
    [
        (0, {"host": "n2"}, False),
        (59, {"host": "n2"}, False),
        (61, {"host": "n2"}, True),
        (0, {"pid": "ended"}, True),
        (0, {"pid": "ended", "boot": "an earlier one"}, False),
        (0, {"pid": "ended", "pids": "pid:[1]"}, False),  # a container's own numbers say nothing here
        (0, {"pid": "ended", "began": None}, False),  # of an older version
        (0, {"began": "1"}, True),  # another process of that number
        (61, {}, True),  # the number is taken by another process
    ],
)
def test_a_claim_dies_with_its_process_or_a_minute_after_its_last_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, about: dict[str, object], dead: bool
) -> None:
    if about.get("pid") == "ended":
        about = {**about, "pid": _ended_pid()}
    path = tmp_path / "lease.json"
    path.touch()
    file = _claim(path, age_s, **about)
    now = file.stat().st_mtime + age_s
    monkeypatch.setattr(heartbeat, "time_of", lambda _folder: now)  # it stands still: claiming takes a while
    assert (Lease(path).holder() is None) is dead
    with Lease(path) as lease:
        assert lease.acquire() is dead
        assert file.exists() is not dead


def test_only_a_job_that_was_submitted_for_it_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within salloc a worker is a process like any other."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("PIREPRO_JOB_LAUNCHER", raising=False)
    assert heartbeat.identity()["slurm_job"] is None
    monkeypatch.setenv("PIREPRO_JOB_LAUNCHER", "slurm")
    assert heartbeat.identity()["slurm_job"] == "12"


def test_a_holder_touches_its_claim_and_ends_when_it_was_replaced(tmp_path: Path) -> None:
    """In a process of its own, for it ends."""
    code = (
        "import errno, fcntl, pathlib, sys, time\n"
        "from pi_repro.launch import heartbeat\n"
        "from pi_repro.launch.lease import Lease\n"
        "def flock(*_): raise OSError(errno.EOPNOTSUPP, '')\n"
        "fcntl.flock, heartbeat.BEAT_S = flock, 0.05\n"
        "assert Lease(pathlib.Path(sys.argv[1])).acquire()\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    path = tmp_path / "lease.json"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        (file,) = tmp_path.glob("lease.json.*")
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            assert process.poll() is None
        file.unlink()
        assert process.wait(10) == 75


def test_another_error_of_the_file_system_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"):
        Lease(tmp_path / "lease.json").acquire()
