"""Attach or submit: one job a fingerprint whoever waits, dies or returns; and again where no stage is at fault."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import RequestError
from pi_repro.launch.job import Job
from pi_repro.launch.slurm import attempts, queue, submission, waiting
from pi_repro.launch.slurm.attempts import Attempt
from pi_repro.launch.slurm.queue import Row, View
from pi_repro.launch.slurm.runner import SlurmRunner
from pi_repro.launch.slurm.waiting import SlurmHandle

from .test_slurm_submission import job, site


class Cluster:
    """What SLURM would say; time passes as fast as it is asked."""

    trouble = ""

    def __init__(self, made: Job) -> None:
        self.job, self.rows, self.submitted = made, {}, []  # type: tuple[Job, dict[str, Row], list[Attempt]]
        self.answers, self.refuses = True, None  # type: tuple[bool, Exception | None]

    def submit(self, _: Job, attempt: Attempt) -> str:
        if self.refuses:
            raise self.refuses
        self.submitted.append(attempt)
        self.row(str(len(self.submitted)), "PENDING", attempt.number)
        return str(len(self.submitted))

    def row(self, number: str, state: str, attempt: int | None = None, node: str = "n1") -> None:
        attempt = attempt or self.rows[number].attempt
        workdir = str(self.job.places.workspace)
        self.rows[number] = Row(number, self.job.fingerprint, state, "", node, attempt, workdir=workdir)

    def look(self) -> View | None:
        began = time.monotonic() if self.answers else 0.0
        return View(began, frozenset({self.job.fingerprint}), dict(self.rows))

    def watch(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name in ("SETTLE_S", "GRACE_S", "_GONE_S", "_LATER_S", "_TRAVEL_S"):
        monkeypatch.setattr(waiting, name, 0.02)
    monkeypatch.setattr(queue, "ended", lambda job_id, accounting: None)
    made = job(tmp_path)
    made.scratch.mkdir(parents=True)
    return Cluster(made)


def _handle(cluster: Cluster) -> SlurmHandle:
    at = site(poll_s=0.001, retries=3)
    return SlurmHandle(cluster.job, at, cluster.job.places, cluster, cluster.submit)  # type: ignore[arg-type]


def _poll(handle: SlurmHandle, until: Callable[[], Any] | None = None) -> int | None:
    """Poll until a status or what is waited for; without the latter, as long as anything would take to happen."""
    end = time.monotonic() + (10 if until else 0.5)
    while (status := handle.poll()) is None and time.monotonic() < end and not (until and until()):
        time.sleep(0.002)
    return status


def _publish(made: Job) -> None:
    folder = made.places.store / made.fingerprint
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def _ended(made: Job, attempt: int, number: str, status: int, **more: Any) -> None:
    content = {"attempt": attempt, "job": number, "status": status, "node": "n1", "alike": 0, "final": 0, **more}
    (made.scratch / "ended.json").write_text(json.dumps(content))


def test_two_who_wait_share_a_job_and_a_third_finds_it(cluster: Cluster) -> None:
    first, second = _handle(cluster), _handle(cluster)
    assert _poll(first) is None and _poll(second) is None
    cluster.row("1", "RUNNING")
    third = _handle(cluster)
    assert _poll(third) is None and third.note == "job 1 on n1" and len(cluster.submitted) == 1
    _publish(cluster.job)
    assert [_poll(handle) for handle in (first, second, third)] == [0, 0, 0]


def test_a_controller_that_is_down_is_waited_for(cluster: Cluster) -> None:
    handle = _handle(cluster)
    handle.poll()
    cluster.answers, cluster.rows, cluster.trouble = False, {}, "Unable to contact slurm controller"
    assert _poll(handle) is None and "does not answer" in handle.note
    assert len(cluster.submitted) == 1


def test_a_submitter_that_died_before_sbatch_is_followed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts.make(cluster.job.scratch, 1, "asked", "")
    monkeypatch.setattr(attempts, "is_mine", lambda attempt: False)
    handle = _handle(cluster)
    assert _poll(handle) is None and not cluster.submitted, "it lives: it is waited for"
    monkeypatch.setattr(attempts, "maker_lives", lambda attempt: False)
    other = _handle(cluster)
    _poll(handle, lambda: cluster.submitted)
    assert _poll(other) is None and [attempt.number for attempt in cluster.submitted] == [2]


def test_a_submission_that_was_broken_off_is_no_refusal(cluster: Cluster) -> None:
    handle = _handle(cluster)
    attempts.make(cluster.job.scratch, 1, "node", "", ["n1"])
    attempts.record(cluster.job.scratch, 1, refused="")
    _poll(handle, lambda: cluster.submitted)
    assert [(attempt.number, attempt.because, attempt.excluded) for attempt in cluster.submitted] == [
        (2, "node", ("n1",))
    ]


def test_a_submitter_that_died_after_sbatch_leaves_its_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts.make(cluster.job.scratch, 1, "asked", "")
    cluster.row("41", "COMPLETED", 7)  # of another time
    cluster.row("40", "RUNNING", 1)
    cluster.rows["40"] = replace(cluster.rows["40"], workdir="/another/clone")
    cluster.row("42", "RUNNING", 1)
    monkeypatch.setattr(attempts, "maker_lives", lambda attempt: False)
    handle = _handle(cluster)
    assert _poll(handle, lambda: "job 42" in handle.note) is None and handle.note == "job 42 on n1"
    assert not cluster.submitted and attempts.read(cluster.job.scratch, 1).job == "42"


def test_a_failed_node_is_left_out_and_failures_alike_end_it(cluster: Cluster) -> None:
    handle = _handle(cluster)
    for number in (1, 2, 3):
        _poll(handle, lambda number=number: len(cluster.submitted) == number)
        cluster.row(str(number), "NODE_FAIL", node=f"n{number}")
    assert _poll(handle, lambda: False) == 3 and "node n3 failed" in handle.why and "3 times" in handle.why
    assert [attempt.excluded for attempt in cluster.submitted] == [(), ("n1",), ("n1", "n2")]


def test_progress_between_failures_gives_new_tries(cluster: Cluster) -> None:
    handle = _handle(cluster)
    for number in range(1, 6):
        _poll(handle, lambda number=number: len(cluster.submitted) == number)
        (cluster.job.scratch / "work" / f"step-{number}").mkdir(parents=True)
        cluster.row(str(number), "TIMEOUT")
    assert _poll(handle, lambda: len(cluster.submitted) == 6) is None and len(cluster.submitted) == 6


@pytest.mark.parametrize(("status", "more"), [(1, {}), (2, {}), (3, {}), (137, {"alike": 3, "final": 1})])
def test_what_the_stage_is_at_fault_for_ends_it(cluster: Cluster, status: int, more: dict[str, int]) -> None:
    handle = _handle(cluster)
    handle.poll()
    cluster.row("1", "FAILED")
    _ended(cluster.job, 1, "1", status, **more)
    assert _poll(handle, lambda: False) == min(status, 3) and "to do:" in handle.why and len(cluster.submitted) == 1
    again = _handle(cluster)
    assert _poll(again, lambda: len(cluster.submitted) == 2) is None, "who asks again gets another try"
    assert cluster.submitted[-1].because == "asked"


def test_a_cancelled_job_is_not_submitted_again_but_by_who_asks(cluster: Cluster) -> None:
    handle = _handle(cluster)
    handle.poll()
    (cluster.job.scratch / "cancelled").touch()
    cluster.row("1", "RUNNING")
    again = _handle(cluster)
    assert _poll(again) is None and len(cluster.submitted) == 1, "it waits for the end of the one that stops"
    cluster.row("1", "CANCELLED")
    assert _poll(handle, lambda: False) == 130
    assert _poll(again, lambda: len(cluster.submitted) == 2) is None
    assert not (cluster.job.scratch / "cancelled").exists()


def test_slurm_that_takes_no_jobs_now_is_asked_later(cluster: Cluster) -> None:
    cluster.refuses = submission.Later("Socket timed out")
    handle = _handle(cluster)
    assert _poll(handle) is None and "takes no jobs now" in handle.note
    cluster.refuses = None
    _poll(handle, lambda: cluster.submitted)
    assert [attempt.number for attempt in cluster.submitted] == [1], "the number is still ours"


def test_a_refusal_ends_it_for_all_who_wait(cluster: Cluster) -> None:
    cluster.refuses = RequestError("SLURM refuses this job", given="Invalid account")
    handle, other = _handle(cluster), _handle(cluster)
    assert _poll(handle, lambda: False) == 2 and _poll(other, lambda: False) == 2
    assert "Invalid account" in handle.why and "Invalid account" in other.why


def test_a_job_that_ended_well_is_waited_for_until_its_files_are_seen(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_TRAVEL_S", 60.0)
    handle = _handle(cluster)
    handle.poll()
    cluster.row("1", "COMPLETED")
    _ended(cluster.job, 1, "1", 0)
    assert _poll(handle) is None and "can't be seen here yet" in handle.note and len(cluster.submitted) == 1
    _publish(cluster.job)
    assert _poll(handle, lambda: False) == 0
    assert len(cluster.submitted) == 1


def test_what_never_came_is_submitted_again(cluster: Cluster) -> None:
    handle = _handle(cluster)
    handle.poll()
    cluster.row("1", "COMPLETED")
    _ended(cluster.job, 1, "1", 0)
    _poll(handle, lambda: len(cluster.submitted) == 2)
    assert cluster.submitted[-1].because == "unpublished" and handle.note == "job 2 submitted (again: unpublished)"
    assert cluster.job.log.read_text().count("submitted again") == 1


def test_a_failure_tells_what_was_printed_past_the_log(cluster: Cluster) -> None:
    handle = _handle(cluster)
    handle.poll()
    output = cluster.job.scratch / "slurm-1.txt"
    output.write_text("== attempt 1, restart 0, on n1 ==\nImportError: libx.so\n")
    cluster.row("1", "FAILED")
    _ended(cluster.job, 1, "1", 1)
    assert _poll(handle, lambda: False) == 1
    assert "ImportError: libx.so" in handle.why and "==" not in handle.why and f"output:  {output}" in handle.why
    cluster.job.log.write_text("2026-01-01 00:00:00 I slurm job 1: begins on n1\n2026-01-01 00:00:01 E wrong sha256\n")
    assert "ImportError" not in handle._why(waiting.failures.Failure("data", "x", "y"), "1", 1), "the log tells it"


def test_trouble_with_files_is_waited_out(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = _handle(cluster)
    handle.poll()

    def stale(scratch: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "newest", stale)
        assert _poll(handle) is None and "Stale file handle" in handle.note
    _publish(cluster.job)
    assert _poll(handle, lambda: False) == 0


def test_a_job_that_was_cancelled_while_it_was_submitted_is_not_the_next_ones(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts.make(cluster.job.scratch, 1, "asked", "")
    (cluster.job.scratch / "cancelled").touch()
    cluster.row("1", "PENDING", 1)
    monkeypatch.setattr(attempts, "is_mine", lambda attempt: False)
    cluster.submitted.append(attempts.read(cluster.job.scratch, 1))
    handle = _handle(cluster)
    assert _poll(handle) is None
    cluster.row("1", "CANCELLED")
    assert _poll(handle, lambda: len(cluster.submitted) == 2) is None
    assert not (cluster.job.scratch / "cancelled").exists()


def test_a_cancel_reaches_a_job_that_is_just_being_submitted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver was stopped within sbatch: the queue shows the job a moment later."""
    made, looks, asked = cluster.job, [], []  # type: tuple[Job, list[bool], list[str]]
    attempts.make(made.scratch, 1, "asked", "")
    published = "cd" * 32
    (made.places.scratch / published).mkdir()
    (made.places.store / published).mkdir(parents=True)
    (made.places.store / published / "manifest.json").write_text("{}")

    def rows(names: list[str]) -> dict[str, Row]:
        looks.append((made.scratch / "cancelled").exists())
        if len(looks) == 3:
            cluster.row("7", "RUNNING", 1)
            cluster.row("8", "PENDING", 1)
            cluster.rows["8"] = replace(cluster.rows["8"], workdir="/another/clone")
        elif len(looks) == 4:
            cluster.row("7", "COMPLETED")
        return dict(cluster.rows)

    monkeypatch.setattr(queue, "rows", rows)
    monkeypatch.setattr(queue, "ask_to_save", lambda row: asked.append(row.job_id))
    runner = SlurmRunner(site(poll_s=0.01), made.places)
    told = runner.cancel([made.fingerprint, published])
    assert told == {made.fingerprint: "job 7 saved its state and ended"} and asked == ["7"] and looks == [True] * 4
    assert not (made.places.scratch / published / "cancelled").exists()
    assert runner.view([made.fingerprint]) == {}
    monkeypatch.setattr(queue, "rows", lambda names: None)
    assert runner.view([made.fingerprint]) is None, "a SLURM that is silent has not lost the job"
