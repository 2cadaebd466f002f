"""Jobs on a real SLURM: one a fingerprint, whatever is killed, and nothing of a site reaches a shell."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi_repro.launch.job import Job, job_of
from pi_repro.launch.places import Places
from pi_repro.launch.runner import LocalRunner
from pi_repro.launch.slurm import attempts, queue
from pi_repro.launch.slurm.runner import SlurmRunner
from pi_repro.launch.slurm.waiting import SlurmHandle
from pi_repro.launch.store import Store
from pi_repro.plan import params
from pi_repro.plan.graph import build
from pi_repro.plan.resolve import resolve
from pi_repro.spec import site as sites
from pi_repro.spec.fingerprint import environment_id
from tests.e2e.conftest import ROOT

from .conftest import BUSY, Cluster, ClusteredWorkspace, until
from .waiter import job as stand_in
from .waiter import site as stand_in_site

BAD = "a; touch canary $(touch canary) `touch canary` '\" \\ # b"


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An idle cluster, which this process knows, and a folder."""
    cluster.idle()
    _enter(cluster, monkeypatch)
    return tmp_path


def _enter(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)


def _runner(folder: Path, steps: int = 12, **fields: Any) -> SlurmRunner:
    return SlurmRunner(stand_in_site(folder, steps, **fields), stand_in(folder, "").places)


def _start(runner: SlurmRunner, job: Job) -> SlurmHandle:
    handle = runner.start(job)
    assert isinstance(handle, SlurmHandle)
    return handle


def _end(handle: SlurmHandle, seconds: float = 120, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Poll to the end; returns the status."""
    end = time.monotonic() + BUSY * seconds
    while (status := handle.poll()) is None:
        assert time.monotonic() < end, f"waited {seconds} s in vain: {handle.note}"
        meanwhile()
        time.sleep(0.1)
    return status


def _at_step(handle: SlurmHandle, step: int) -> str:
    """Wait until the stand-in is so far; returns the job's number."""
    until(lambda: handle.poll() is None and (handle.job.scratch / "work" / str(step)).exists(), 60, f"step {step}")
    attempt = attempts.newest(handle.job.scratch)
    assert attempt and attempt.job
    return attempt.job


def _log(job: Job) -> str:
    return job.log.read_text()


def _went_on(job: Job) -> bool:
    """Whether its last start found steps of the one before."""
    starts = [line.split()[-1] for line in _log(job).splitlines() if line.startswith("begins after step")]
    return len(starts) > 1 and starts[0] == "0" and int(starts[-1]) > 0


@pytest.mark.timeout(1200)
def test_fifty_races_give_fifty_jobs(cluster: Cluster, folder: Path) -> None:
    """Two who wait begin together: one job a fingerprint, which both see published."""
    (folder / "site.json").write_text(stand_in_site(folder, 0).model_dump_json())
    names = [f"{number:02}" * 32 for number in range(50)]
    command = [sys.executable, "-m", "tests.cluster.waiter", str(folder / "site.json"), str(folder), *names]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=1000)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    until(lambda: len([row for row in cluster.sacct() if row["name"] in names]) >= 50, 20, "sacct")
    assert sorted(row["name"] for row in cluster.sacct() if row["name"] in names) == names


def test_who_waits_is_killed_and_another_attaches(cluster: Cluster, folder: Path) -> None:
    job = stand_in(folder, "ab" * 32)
    (folder / "site.json").write_text(stand_in_site(folder, 8).model_dump_json())
    (folder / "0-other").touch()
    command = [sys.executable, "-m", "tests.cluster.waiter", str(folder / "site.json"), str(folder), job.fingerprint]
    process = subprocess.Popen(command, cwd=ROOT)
    until(lambda: (job.scratch / "work" / "2").exists(), 60, "a step")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _end(_start(_runner(folder, 8), job)) == 0
    assert len(cluster.squeue("--states=all", f"--name={job.fingerprint}")) == 1
    assert _log(job).count("begins after step") == 1


def test_a_submitter_killed_around_sbatch(cluster: Cluster, folder: Path) -> None:
    """Before it: the next one submits. After it, before the number is noted: the next one finds the job."""
    for number, submits in enumerate((False, True)):
        job = stand_in(folder, f"e{number}" * 32)
        code = f"""if True:
            import os, pathlib, signal
            from tests.cluster import waiter
            folder = pathlib.Path({str(folder)!r})
            runner = waiter.SlurmRunner(waiter.site(folder, 2), waiter.job(folder, "").places)
            submit = runner.submit
            def killed(*given):
                {submits} and submit(*given)
                os.kill(os.getpid(), signal.SIGKILL)
            runner.submit = killed
            runner.start(waiter.job(folder, {job.fingerprint!r}))
        """
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
        attempt = attempts.newest(job.scratch)
        assert attempt and attempt.job is None
        assert _end(_start(_runner(folder, 2), job), 60) == 0
        assert len(cluster.squeue("--states=all", f"--name={job.fingerprint}")) == 1


def test_preempted_it_saves_and_goes_on(cluster: Cluster, folder: Path) -> None:
    job = stand_in(folder, "cd" * 32)
    handle = _start(_runner(folder), job)
    number = _at_step(handle, 3)
    cluster.submit("sleep 2", "--partition=high", "--nodes=3", "--exclusive")
    assert _end(handle) == 0 and _went_on(job)
    assert cluster.restarts(int(number)) == 1 and "asked to save" in _log(job) and "requeued" in _log(job)


def test_killed_it_goes_on(cluster: Cluster, folder: Path) -> None:
    """Its step, its srun, the whole job: each is started again by SLURM or by who waits."""
    job = stand_in(folder, "de" * 32)
    handle = _start(_runner(folder, 20, requeues=5), job)
    number = _at_step(handle, 2)
    cluster.run("scancel", "--signal=KILL", f"{number}.0")
    until(lambda: handle.poll() is None and "killed by signal 9; requeued" in _log(job), 30, "a requeue")
    number = _at_step(handle, 6)
    cluster.run("scancel", "--signal=KILL", number)
    assert _end(handle) == 0 and _went_on(job)


def test_its_node_dies(cluster: Cluster, folder: Path) -> None:
    job = stand_in(folder, "ef" * 32)
    handle = _start(_runner(folder, 15), job)
    number = _at_step(handle, 3)
    node = next(row["node"] for row in cluster.squeue() if row["id"] == number)
    cluster.kill_node(int(node[1:]))
    assert _end(handle, 200) == 0 and _went_on(job)


def test_the_controller_restarts_while_all_wait(cluster: Cluster, folder: Path) -> None:
    job = stand_in(folder, "fe" * 32)
    handle = _start(_runner(folder, 60), job)
    _at_step(handle, 3)
    cluster.stop_controller()
    try:
        until(lambda: handle.poll() is None and "does not answer" in handle.note, 60, "a note")
    finally:
        cluster.start_controller()
    assert _end(handle) == 0 and _log(job).count("begins after step") == 1


def test_cancelled_it_saves_and_a_new_start_goes_on(cluster: Cluster, folder: Path) -> None:
    job, runner = stand_in(folder, "ba" * 32), _runner(folder, 8)
    handle = _start(runner, job)
    _at_step(handle, 2)
    assert runner.view([job.fingerprint, "00" * 32]).keys() == {job.fingerprint}
    assert "saved its state" in runner.cancel([job.fingerprint])[job.fingerprint]
    assert _end(handle) == 130 and runner.view([job.fingerprint]) == {}
    assert _end(_start(runner, job)) == 0 and _went_on(job)


def test_another_clone_s_jobs_of_the_same_names_are_let_be(cluster: Cluster, folder: Path) -> None:
    here, there = folder / "a", folder / "b"
    runners = [_runner(clone, 200) for clone in (here, there)]
    job, other = stand_in(here, "bc" * 32), stand_in(there, "bc" * 32)
    for path in (here, there):
        path.mkdir()
    handle = _start(runners[0], job)
    number = _at_step(handle, 2)
    attempts.make(other.scratch, 1, "asked", "")  # and its submitter vanished
    (other.scratch / "attempts" / "0001.json").write_text("{}")
    assert runners[1].view([other.fingerprint]) == {} and runners[0].view([job.fingerprint]) != {}
    told = runners[1].cancel([other.fingerprint])
    assert "stop as it begins" in told[other.fingerprint] and cluster.states()[int(number)] == "RUNNING"
    second = _start(runners[1], other)
    until(lambda: second.poll() is None and " submitted" in second.note, 60, "a submission")
    assert attempts.newest(other.scratch).number == 2 and not (other.scratch / "cancelled").exists()  # type: ignore[union-attr]
    until(lambda: second.poll() is None and "pending (Dependency)" in second.note, 30, "the queue")
    assert "taken out of the queue" in runners[1].cancel([other.fingerprint])[other.fingerprint]
    assert _end(second) == 130 and cluster.states()[int(number)] == "RUNNING"
    assert "saved its state" in runners[0].cancel([job.fingerprint])[job.fingerprint]


def test_without_accounting(start_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: Any) -> None:
    """What a job did is known from what it wrote and from scontrol."""
    plain = start_cluster("--no-accounting", "--nodes", "1")
    _enter(plain, monkeypatch)
    try:
        job = stand_in(tmp_path, "aa" * 32)
        handle = _start(_runner(tmp_path, 8, accounting=False), job)
        number = _at_step(handle, 2)
        assert queue.ended(number, accounting=True) is not None, "scontrol tells where sacct does not"
        plain.run("scancel", "--signal=KILL", f"{number}.0")
        assert _end(handle) == 0 and _went_on(job)
        failing = replace(job, fingerprint="bb" * 32)
        runner = _runner(tmp_path, accounting=False, runtime={"kind": "template", "command": ["bash", "-c", "exit 3"]})
        handle = _start(runner, failing)
        assert _end(handle, 30) == 3 and "data" in handle.why
    finally:
        plain.down()


def test_hostile_values_stay_values(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces, quotes, semicolons and substitutions reach the job's environment and SLURM as they are."""
    monkeypatch.chdir(folder)
    bad = folder / BAD.replace("\\", "")
    bad.mkdir()
    job = replace(stand_in(bad, "dd" * 32), name=f"draw@{BAD}")
    seen = bad / "seen"
    words = ["bash", "-c", 'printf %s "$1" >"$0"', str(seen), BAD]
    runner = SlurmRunner(
        stand_in_site(bad, 1, runtime={"kind": "template", "command": words}, environment={"X": BAD}), job.places
    )
    handle = _start(runner, job)
    until(lambda: handle.poll() is None and seen.exists() and seen.read_text(), 60, "the job")
    assert seen.read_text() == BAD
    number = next(row["id"] for row in cluster.squeue("--states=all", f"--name={job.fingerprint}"))
    assert cluster.run("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%k").strip().endswith("#1")
    assert f"draw@{BAD} #1" in cluster.run("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%k")
    assert (job.scratch / f"slurm-{number}.txt").exists(), "its output lies where it should"
    runner.cancel([job.fingerprint], patience_s=0)
    for field in ("partition", "constraint", "reservation"):
        other = _start(_runner(folder, 1, **{field: BAD}), stand_in(folder, field.encode().hex()[:16] * 4))
        assert _end(other, 30) == 2 and "SLURM refuses" in other.why, field
    assert not [path for path in (*folder.rglob("canary"), *ROOT.glob("canary")) if path.is_file()]


def test_a_real_stage_gives_the_bits_of_this_machine(
    clustered: ClusteredWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked to save while it begins, requeued, and published with the bits of a local run."""
    _enter(clustered.cluster, monkeypatch)
    monkeypatch.chdir(clustered.root)
    site = sites.load(clustered.root / "slurm" / "sites" / "testcluster.yaml")
    digests = []
    for where in ("slurm", "local"):
        own = tmp_path / where
        places = Places(clustered.root, own / "scratch", own / "store", own / "downloads", None)
        stage = build(params.load_enabled(clustered.root)).stage("draw@demo-tiny-s0")
        resolved = resolve(stage, {}, {}, environment_id(clustered.root), Store(places.store).digest)
        job = job_of(resolved, {}, {}, places)
        if where == "slurm":
            handle = _start(SlurmRunner(site, places), job)
            until(lambda handle=handle: handle.poll() is None and " on n" in handle.note, 30, "its start")
            clustered.cluster.submit("sleep 1", "--partition=high", "--nodes=3", "--exclusive")
            assert _end(handle) == 0, handle.why
            assert "asked to save" in _log(job) and "restart 1" in _log(job)
        else:
            local = LocalRunner().start(job)
            assert until(lambda local=local: local.poll() is not None, 120, "the local run") and local.poll() == 0
        digests.append(Store(places.store).digest(job.fingerprint))
    assert digests[0] and digests[0] == digests[1]
