"""Which cluster a command concerns, whose jobs are stopped, and how a log is followed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pi_repro.errors import RequestError, StateError
from pi_repro.launch import cancel, cluster, heartbeat, inspect, logs, writer
from pi_repro.launch import job as jobs
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import sites
from pi_repro.plan.graph import Plan, build
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]
STAGE = "fetch@tiny-pairs"
RANDOM = "pretrain@demo-tiny-random-s0"
#: Holds a job's lease until it is told to stop.
WORKER = """
import signal, sys
from pathlib import Path
from pi_repro.launch.lease import Lease
lease = Lease(Path(sys.argv[1]))
assert lease.acquire()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("in", flush=True)
signal.pause()
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.delenv(sites.VARIABLE, raising=False)
    (tmp_path / "requirements.lock").write_text("x==1\n")
    own = tmp_path / ".pirepro"
    return Places(tmp_path, own / "scratch", own / "store", own / "downloads", None)


def site(places: Places, name: str, **fields: str) -> None:
    folder = places.workspace / "slurm" / "sites"
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"name": name, "runtime": {"kind": "none"}, **fields}
    (folder / f"{name}.yaml").write_text(json.dumps(lines))


def job(places: Places, name: str = STAGE, fingerprint: str = "f" * 64) -> Job:
    made = Job(name, name.split("@")[0], fingerprint, {}, {}, _plan()[1], places)
    jobs.write(made)
    return made


def _plan() -> tuple[Plan, object]:
    loaded = load(ROOT / "specs" / "demo-tiny.yaml")
    return build([loaded]), loaded.experiment.resources


def hold(made: Job) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(made.lease.path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def test_the_site_is_the_named_the_chosen_or_the_only_one(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="pirepro site init"):
        cluster.asked(None, places)
    site(places, "example")
    with pytest.raises(RequestError, match="pirepro site init"):
        cluster.asked(None, places)
    site(places, "moon", scratch="/moon/scratch")
    assert cluster.asked(None, places).places.scratch == Path("/moon/scratch")
    site(places, "mars")
    with pytest.raises(RequestError, match="--site mars, --site moon"):
        cluster.asked(None, places)
    assert cluster.asked("mars", places).name == "mars"
    sites.choose(places.workspace, "moon")
    assert cluster.asked(None, places).name == "moon"
    assert cluster.asked("mars", places).name == "mars"
    monkeypatch.setenv(sites.VARIABLE, "mars")
    chosen = cluster.chosen(places)
    assert chosen is not None and chosen.name == "mars"


def test_who_only_looks_looks_where_the_last_run_went(places: Places) -> None:
    site(places, "moon", store="/moon/store")
    assert cluster.looked_at(None, places) is None and cluster.chosen(places) is None
    cluster.remember(cluster.asked("moon", places), places)
    found = cluster.looked_at(None, places)
    assert found is not None and found.places.store == Path("/moon/store") and cluster.chosen(places) is None
    (places.workspace / "slurm" / "sites" / "moon.yaml").unlink()
    assert cluster.looked_at(None, places) is None, "a site that was removed stops nobody from looking"


def test_jobs_are_found_where_they_went_whatever_was_chosen_since(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("moon", "mars", "io"):
        site(places, name, scratch=f"/{name}/scratch")

    def seen() -> tuple[str, str]:
        looked, sent = cluster.looked_at(None, places), cluster.sent_to(None, places)
        return looked.name if looked else "", sent.name if sent else ""

    sites.choose(places.workspace, "moon")
    assert seen() == ("moon", "moon")
    cluster.remember(cluster.asked("mars", places), places)
    assert seen() == ("mars", "mars")
    with writer.driving(places, "run"):
        assert seen() == ("moon", "mars"), "a run on this machine is looked at where it works; jobs still go on"
    with writer.driving(places, "run", "mars"):
        assert seen() == ("mars", "mars")
    monkeypatch.setenv(sites.VARIABLE, "io")
    assert seen() == ("io", "io")
    named = cluster.looked_at("moon", places)
    assert named is not None and named.name == "moon"


def test_where_no_slurm_is_nothing_is_submitted(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    site(places, "moon")
    tools = places.workspace / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    for name in ("sbatch", "squeue", "scancel"):
        (tools / name).write_text("")
        (tools / name).chmod(0o755)
    with pytest.raises(StateError, match="there is no SLURM here") as refusal:
        cluster.asked("moon", places).runner()
    assert "no srun in PATH" in str(refusal.value) and "login node" in str(refusal.value)
    (tools / "srun").write_text("")
    (tools / "srun").chmod(0o755)
    cluster.asked("moon", places).runner()


def test_who_asks_for_a_site_is_named(places: Places) -> None:
    with pytest.raises(RequestError) as refusal:
        cluster.asked(None, places, "site show")
    assert str(refusal.value).startswith("site show: ")


def test_changed_code_needs_a_word(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIREPRO_DEV", raising=False)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(places.workspace))
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "x")):
        subprocess.run([*git, *words], check=True)
    cluster.refuse_changed_code(places)
    (places.workspace / "notes.txt").write_text("no code")
    cluster.refuse_changed_code(places)
    (places.workspace / "requirements.lock").write_text("x==2\n")
    with pytest.raises(RequestError, match="--dev"):
        cluster.refuse_changed_code(places)
    monkeypatch.setenv("PIREPRO_DEV", "1")
    cluster.refuse_changed_code(places)


def test_status_shows_what_the_queue_says(places: Places) -> None:
    plan, _ = _plan()
    first = {state.stage.name: state for state in inspect.states(plan, places)}
    fingerprint = first[STAGE].fingerprint
    assert fingerprint is not None
    asked: list[str] = []

    def view(fingerprints: list[str]) -> dict[str, str]:
        asked.extend(fingerprints)
        return {fingerprint: "job 7 pending (Priority)"}

    inspect.states(plan, places, view)  # type: ignore[arg-type]
    assert asked == [], "nothing was submitted: SLURM is not asked"
    (places.scratch / fingerprint / "attempts").mkdir(parents=True)
    found = {state.stage.name: state for state in inspect.states(plan, places, view)}  # type: ignore[arg-type]
    assert asked == [fingerprint]
    assert (found[STAGE].kind, found[STAGE].note) == ("queued", "job 7 pending (Priority)")
    silent = {state.stage.name: state for state in inspect.states(plan, places, lambda _: None)}
    assert {name for name, state in silent.items() if state.note == inspect.SILENT} == {STAGE}


def test_cancel_stops_this_workspace_s_processes_and_jobs_alone(
    places: Places, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(places, "moon")
    strangers = replace(places, workspace=tmp_path_factory.mktemp("other"))
    mine, other = hold(job(places, STAGE)), hold(job(strangers, STAGE, "0" * 64))
    for fingerprint, whose in (("1" * 64, places), ("2" * 64, strangers)):
        (job(whose, "draw@x", fingerprint).scratch / "attempts").mkdir()
    asked: list[list[str]] = []

    def stop(self: Cluster, fingerprints: dict[str, str]) -> dict[str, str]:
        asked.append(list(fingerprints))
        return dict.fromkeys(fingerprints, "job 7 saved its state and ended")

    monkeypatch.setattr(Cluster, "cancel", stop)
    moon = cluster.asked("moon", places)
    plan = _plan()[0]
    monkeypatch.setattr(cancel.params, "plan", lambda _: plan)
    assert cancel.cancel([RANDOM], places, moon) == {RANDOM: "no job of it runs or waits"}
    with pytest.raises(RequestError, match=f"did you mean '{RANDOM}'"):
        cancel.cancel([STAGE, RANDOM[:-1]], places, moon)
    assert mine.poll() is None and not asked, "a misspelt name stopped something"
    written = json.loads((places.scratch / ("1" * 64) / "job.json").read_text())
    del written["stretch"], written["resources"]
    (places.scratch / ("1" * 64) / "job.json").write_text(json.dumps(written))  # of another version
    told = cancel.cancel([], places, moon)
    assert asked == [["1" * 64]]
    assert told == {
        STAGE: f"process {mine.pid} was asked to save and end",
        "draw@x": "job 7 saved its state and ended",
    }
    assert mine.wait(5) == 130 and other.poll() is None
    other.send_signal(signal.SIGTERM)
    other.wait()


def test_jobs_in_the_site_s_scratch_and_here_are_stopped(
    places: Places, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on this machine may go on beside jobs that went to a cluster before."""
    far = tmp_path_factory.mktemp("far")
    site(places, "moon", scratch=str(far))
    (job(replace(places, scratch=far), "draw@x", "1" * 64).scratch / "attempts").mkdir()
    here = hold(job(places))
    monkeypatch.setattr(Cluster, "cancel", lambda self, fingerprints: dict.fromkeys(fingerprints, "ended"))
    told = cancel.cancel([], places, cluster.asked("moon", places))
    assert told == {STAGE: f"process {here.pid} was asked to save and end", "draw@x": "ended"}
    assert here.wait(5) == 130


def test_a_process_that_can_t_be_reached_is_left_alone(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(job(places))
    other = {**heartbeat.identity(), "pids": "pid:[1]"}
    with monkeypatch.context() as patched:
        patched.setattr(heartbeat, "identity", lambda: other)
        assert "another container" in cancel.cancel([], places, None)[STAGE]
    for error, said in ((ProcessLookupError, None), (PermissionError, "as the user who runs it")):

        def kill(pid: int, number: int, error: type[OSError] = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(cancel.os, "kill", kill)
            told = cancel.cancel([], places, None)
        assert said in told[STAGE] if said else told == {}
    assert held.poll() is None
    held.terminate()
    held.wait()


def test_a_driver_that_still_records_keeps_no_job_from_being_stopped(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(places, "moon")
    (job(places, "draw@x", "1" * 64).scratch / "attempts").mkdir()
    code = (
        "import signal, sys, time\nfrom pathlib import Path\nfrom pi_repro.launch import writer\n"
        "from pi_repro.launch.places import Places\nroot = Path(sys.argv[1])\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "with writer.driving(Places(root, root, root, root, None), 'run'):\n"
        "    print('in', flush=True)\n    time.sleep(60)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(places.workspace)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert driver.stdout is not None and driver.stdout.readline() == "in\n"
    monkeypatch.setattr(cancel, "_DRIVER_S", 0.2)
    monkeypatch.setattr(Cluster, "cancel", lambda self, fingerprints: dict.fromkeys(fingerprints, "ended"))
    try:
        told = cancel.cancel([], places, cluster.asked("moon", places))
    finally:
        driver.kill()
        driver.wait()
    assert "still records with DVC; it starts nothing more" in told["the driver"] and told["draw@x"] == "ended"


def test_a_log_is_followed_until_nobody_works_any_more(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LOOK_S", 0.02)
    monkeypatch.setattr(logs, "_ALIVE_S", 0.02)
    plan, _ = _plan()
    fingerprint = inspect.identified(plan, STAGE, places).fingerprint
    assert fingerprint is not None
    with pytest.raises(StateError, match="has not begun"):
        logs.show(plan, STAGE, places, print)
    with pytest.raises(StateError, match="waits for"):
        logs.show(plan, "pretrain@demo-tiny-random-s0", places, print)
    made = job(places, STAGE, fingerprint)
    worker, said = hold(made), list[str]()
    made.log.write_text("one\nhalf")

    def go_on() -> None:
        with made.log.open("a") as file:
            file.write(" a line\nlast")
        worker.send_signal(signal.SIGTERM)

    def hear(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            go_on()

    with pytest.raises(StateError, match="nobody works on"):
        logs.follow(plan, STAGE, places, None, hear)
    site(places, "moon")
    moon, answers = cluster.asked("moon", places), [None, None, {}]
    with monkeypatch.context() as patched, pytest.raises(StateError, match="nobody works on"):
        patched.setattr(Cluster, "view", lambda *_: answers.pop(0))
        logs.follow(plan, STAGE, places, moon, lambda _: None)
    assert not answers, "a SLURM that did not answer was taken for one without the job"
    assert "".join(said) == "one\nhalf a line\nlast" and said[0] == "one\n"
    worker.wait()
    (places.store / fingerprint).mkdir(parents=True)
    (places.store / fingerprint / "manifest.json").write_text('{"files": []}')
    said.clear()
    logs.follow(plan, STAGE, places, None, said.append)
    assert said == ["one\nhalf a line\nlast"]
