"""What SLURM's commands print, read back; a SLURM that does not answer says nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pi_repro.launch.slurm import queue
from pi_repro.launch.slurm.queue import Queue


def test_rows_of_squeue() -> None:
    found = queue.parse(
        "12|ab|RUNNING|n[1-2]|/work/a|b|pirepro draw@x|y #3|None\n"
        "13|ab|PENDING||/work|pirepro draw@x|launch_failed_requeued_held\n"
        "slurm_load_jobs error\n"
    )
    assert str(found["12"]) == "job 12 on n[1-2]" and found["12"].attempt == 3 and found["12"].lives
    assert (found["12"].workdir, found["13"].workdir) == ("/work/a|b", "/work")
    assert found["13"].stuck and found["13"].attempt is None
    assert not queue.parse("14|ab|PENDING||/||JobHeldUser")["14"].stuck, "a person's own hold is respected"
    assert not queue.parse("14|ab|TIMEOUT|n1|/||TimeLimit")["14"].lives


def test_the_job_of_scontrol() -> None:
    row = queue.parse_job(
        "JobId=7 JobName=ab UserId=u(0) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=2 "
        "ExitCode=0:9 ReqNodeList=(null) NodeList=n1 BatchHost=n1"
    )
    assert row and (row.job_id, row.state, row.status, row.node) == ("7", "FAILED", 137, "n1")
    assert queue.parse_job("") is None


def test_looking_never_blocks_and_a_failure_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nsleep 0.2\necho '12|ab|RUNNING|n1|/||None'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    watched = Queue(poll_s=0.01)
    watched.watch("ab")
    assert watched.look() is None
    _until(watched)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    silent.chmod(0o755)
    silent.replace(squeue)  # a shell may be reading the first one
    end = time.monotonic() + 5
    while not watched.trouble and time.monotonic() < end:
        view = watched.look()
        time.sleep(0.01)
    assert "Unable to contact" in watched.trouble and view and view.jobs["12"].lives


def test_a_host_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    watched = Queue(poll_s=0.01)
    watched.watch("ab")
    assert watched.look() is None and "squeue" in watched.trouble
    assert queue.rows(["ab"]) is None


@pytest.mark.parametrize(
    ("scontrol", "lives"),
    [
        ("echo JobId=7 JobName=ab JobState=RUNNING", True),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
    ],
)
def test_accounting_that_missed_the_end_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: str, lives: bool
) -> None:
    _stand_in(tmp_path / "sacct", "echo '7|ab|RUNNING|0:0|n1'")
    _stand_in(tmp_path / "scontrol", scontrol)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    row = queue.ended("7", accounting=True)
    assert (row is not None and row.lives) is lives
    _stand_in(tmp_path / "sacct", "echo '7|ab||0:0|n1'")
    queue.ended("7", accounting=True)  # a row without a state is none


def _stand_in(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _until(watched: Queue) -> None:
    end = time.monotonic() + 5
    while watched.look() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
