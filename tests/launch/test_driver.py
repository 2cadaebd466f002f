"""What the driver does with jobs that go on without it, and what it says of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pi_repro.errors import Interrupted, StateError
from pi_repro.launch import driver, record, worker, workspace
from pi_repro.launch.driver import Driver, Running, Watcher
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.runner import LocalHandle
from pi_repro.launch.store import Published, Store
from pi_repro.plan.graph import Plan, build
from pi_repro.plan.resolve import resolve
from pi_repro.spec.fingerprint import environment_id
from pi_repro.spec.loading import load
from pi_repro.terminal import live

ROOT = Path(__file__).parents[2]


@dataclass
class Queued:
    """A job in a queue, of which nothing is known but what a test says."""

    status: int | None = None
    note: str = "job 7 pending (Priority)"
    why: str = ""

    def poll(self) -> int | None:
        return self.status

    def stop(self) -> None:
        raise AssertionError("a job that outlives the driver was stopped")


@dataclass
class Cluster:
    """Queues everything, but fetches here."""

    outlives: bool = True
    handle: Queued = field(default_factory=Queued)
    local: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def start(self, job: Job) -> Queued | LocalHandle:
        self.started.append(job.name)
        if job.name == "fetch@tiny-pairs" and not self.local:
            self.local.append(subprocess.Popen(["sleep", "60"]))
            return LocalHandle(self.local[0])
        return self.handle


@pytest.fixture
def plan() -> Plan:
    return build([load(ROOT / "specs" / "demo-tiny.yaml")])


@pytest.fixture
def places(tmp_path: Path) -> Places:
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    own = tmp_path / ".pirepro"
    return Places(tmp_path, own / "scratch", own / "store", own / "downloads", None)


def publish(plan: Plan, name: str, places: Places) -> Published:
    """Put something into the store under a stage's fingerprint."""
    stage, store = plan.stage(name), Store(places.store)
    resolved = resolve(stage, {}, {}, environment_id(places.workspace), store.digest)
    out = places.scratch / "aside"
    out.mkdir(parents=True)
    (out / "index.json").write_text(name)
    assert resolved.fingerprint and resolved.payload
    return store.publish(resolved.fingerprint, resolved.payload, out, {"git": None})


def interrupting(rounds: int) -> Watcher:
    left = [rounds]

    def tick(running: dict[str, Running], done: int, total: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return Watcher(lambda *_: None, tick)


def test_ctrl_c_leaves_queued_jobs_alone_and_stops_what_runs_here(plan: Plan, places: Places) -> None:
    cluster = Cluster()
    driver = Driver(plan, places, cluster, 9, interrupting(2), keep_going=True)
    with pytest.raises(Interrupted) as stopped:
        driver.run(poll_s=0)
    roots = [stage.name for stage in plan.stages if not plan.parents[stage.name]]
    assert sorted(cluster.started) == sorted(roots) and len(roots) > 2
    assert f"go on in SLURM: {len(roots) - 1}" in str(stopped.value)
    for word in ("pirepro attach", "run the same command again", "pirepro cancel"):
        assert word in str(stopped.value)
    assert cluster.local[0].wait(5) == -signal.SIGTERM


def test_a_failure_says_why(plan: Plan, places: Places) -> None:
    cluster = Cluster(handle=Queued(137, why="job 7: out of memory\nto do:   raise memory_per_gpu_gb"))
    cluster.local.append(subprocess.Popen(["true"]))
    said = dict[str, str]()
    watcher = Watcher(lambda event, name, detail: said.update({name: detail}), lambda *_: None)
    driver = Driver(plan, places, cluster, 9, watcher, keep_going=True)
    with pytest.raises(StateError) as failed:
        driver.run(poll_s=0)
    assert "raise memory_per_gpu_gb" in said["draw@demo-tiny-s0"]
    assert "draw@demo-tiny-s0: failed" in str(failed.value) and "log.txt" in str(failed.value)
    assert "raise memory" not in str(failed.value), "told twice"
    assert len(driver.failed) == len(plan.stages), "what depends on a failure was started"
    assert cluster.local[0].wait() == 0


def test_of_a_long_failure_both_ends_are_told(places: Places) -> None:
    resources = load(ROOT / "specs" / "demo-tiny.yaml").experiment.resources
    job = Job("draw@x", "draw", "f" * 64, {}, {}, resources, places)
    job.scratch.mkdir(parents=True)
    lines = [f"2026-01-01 00:00:00 E rank {number} says" for number in range(999)]
    job.log.write_text("\n".join(lines))
    told = driver.failure(job, 1).splitlines()
    assert len(told) == 43
    assert "rank 0 says" in told[1] and "rank 998 says" in told[-2] and "959 lines more" in told[21]


def test_few_stages_run_side_by_side_on_a_machine_that_people_share(plan: Plan, places: Places) -> None:
    fetches = [stage.name for stage in plan.stages if stage.kind == "fetch"]
    cluster = Cluster()
    cluster.local.append(subprocess.Popen(["true"]))
    driving = Driver(plan, places, cluster, 9, interrupting(3), here=frozenset({"fetch"}), keep_going=True)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(driver, "_HERE", 2)
        driving.run(poll_s=0)
    assert len(fetches) == 3 and sum(name in fetches for name in cluster.started) == 2
    assert "draw@demo-tiny-s0" in cluster.started
    assert cluster.local[0].wait() == 0


def test_a_stage_that_others_snatch_for_ever_fails(plan: Plan, places: Places) -> None:
    cluster = Cluster(handle=Queued(worker.BUSY))
    cluster.local.append(subprocess.Popen(["true"]))
    said = dict[str, str]()
    watcher = Watcher(lambda event, name, detail: said.update({name: detail}), lambda *_: None)
    with pytest.raises(StateError):
        Driver(plan, places, cluster, 9, watcher, keep_going=True).run(poll_s=0)
    assert "10 times another process had it" in said["draw@demo-tiny-s0"]
    assert cluster.started.count("draw@demo-tiny-s0") == 10
    assert cluster.local[0].wait() == 0


def test_what_a_queue_says_is_a_line_when_it_changes_but_not_too_often(
    plan: Plan, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queued = Queued()
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen = live.Live(plain=True)
    job = Job("draw@x", "draw", "f" * 64, {}, {}, load(ROOT / "specs" / "demo-tiny.yaml").experiment.resources, places)
    running = {"draw@x": Running(job, queued)}
    for seconds, note in ((0, "pending"), (20, "job 7 on n1"), (12, "job 7 on n1"), (40, "job 7 on n1")):
        now[0] += seconds
        queued.note = note
        screen.watcher.tick(running, 0, 1)
    lines = [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["pending", "job 7 on n1"]


def test_dvc_is_told_of_several_stages_at_once_and_again_after_a_refusal(
    plan: Plan, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    refuse = [False]

    def dvc(names: list[str], _: Places, patience_s: float) -> None:
        if refuse[0]:
            raise StateError("DVC could not", given="Unable to acquire lock")
        calls.append(list(names))

    monkeypatch.setattr(record, "record", dvc)
    now, said = [0.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    recorder = record.Recorder(plan, places, said.append, every_s=10)
    published: dict[str, Published] = {}

    def look(seconds: float, *names: str) -> None:
        now[0] += seconds
        for name in names:
            published[name] = publish(plan, name, places)
        recorder.some(published)

    look(0)
    assert calls == []
    look(1, "fetch@tiny-pairs")
    look(2, "fetch@tiny-suite")
    look(2)
    assert calls == [["fetch@tiny-pairs"]], "a moment after the last record"
    refuse[0] = True
    look(6)
    refuse[0] = False
    look(6, "draw@demo-tiny-s0")
    look(60)
    assert said[-2] == "not yet: Unable to acquire lock"
    assert [sorted(names) for names in calls[1:]] == [["draw@demo-tiny-s0", "fetch@tiny-suite"]]
    recorder.rest(published)
    assert len(calls) == 2


def test_dvc_records_a_whole_experiment_by_its_end(plan: Plan) -> None:
    names = [stage.name for stage in plan.stages]
    report = "report@demo-tiny"
    assert record.ends_of(plan, names, names) == ([report], [])
    one = ["draw@demo-tiny-s0"]
    assert record.ends_of(plan, one, names) == ([], one), "others are let be"
    # What is not published can't be recorded, so neither can what depends on it by its name.
    lacking = [name for name in names if name != "fetch@tiny-suite"]
    assert record.ends_of(plan, [report], lacking) == ([], [report])
    ends, single = record.ends_of(plan, {*lacking} - {report}, lacking)
    assert not [name for name in ends if name.startswith(("evaluate@", "report@"))]
    reached = {stage.name for stage in plan.with_ancestors({*ends}).stages} | {*single}
    assert reached == {*lacking} - {report}


def test_an_output_that_another_dvc_removed_is_back_before_it_is_recorded(
    plan: Plan, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = plan.stage("fetch@tiny-pairs")
    out = places.workspace / stage.out
    monkeypatch.setattr(record, "record", lambda names, *_: seen.append((list(names), out.is_dir())))
    seen: list[tuple[list[str], bool]] = []
    published = {stage.name: publish(plan, stage.name, places)}
    workspace.show(stage, published[stage.name], places)
    shutil.rmtree(out)
    record.Recorder(plan, places, print).rest(published)
    assert seen == [([stage.name], True)]


def test_dvc_that_is_busy_is_waited_for(places: Places) -> None:
    """What DVC says of a lock that another command holds is heard: told to be quiet, it would not say it."""
    folder = places.workspace
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text("stages:\n  a:\n    cmd: 'touch a begun; sleep 60'\n    outs: [a]\n")
    holder = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not (folder / "begun").exists():
            assert holder.poll() is None
            time.sleep(0.05)
        with pytest.raises(StateError) as refused:
            record.record(["a"], places, patience_s=0)
        assert "wait for the other DVC command" in str(refused.value)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def test_an_interrupt_waits_for_dvc(tmp_path: Path) -> None:
    """Killed while it holds core.hardlink_lock, DVC would leave it locked for a year."""
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom pi_repro.launch.record import _to_its_end\n"
        # A test run in a shell's background is born deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "work = 'touch begun; until [ -e go ]; do sleep 0.05; done; touch done'\n"
        "_to_its_end(['sh', '-c', work], Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    (tmp_path / "go").touch()
    assert process.wait(30) != 0 and (tmp_path / "done").exists()


def test_the_lock_for_shared_folders_leaves_other_settings_alone(places: Places) -> None:
    path = places.workspace / ".dvc" / "config.local"
    path.parent.mkdir()
    path.write_text("['remote \"s3\"']\n    access_key_id = aB%c\n    profile = x\n[core]\n    remote = s3\n")
    path.chmod(0o640)
    record.lock_for_shared_folders(places)
    before = path.read_text()
    record.lock_for_shared_folders(places)
    assert path.read_text() == before and path.stat().st_mode & 0o777 == 0o640, "keys lie there"
    found = subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--local", "--list"],
        cwd=_repository(places.workspace),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert sorted(found) == [
        "core.hardlink_lock=true",
        "core.remote=s3",
        "remote.s3.access_key_id=aB%c",
        "remote.s3.profile=x",
    ]
    path.unlink()
    record.lock_for_shared_folders(places)
    assert path.stat().st_mode & 0o777 == 0o600


def _repository(folder: Path) -> Path:
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc" / "config").touch()
    return folder
