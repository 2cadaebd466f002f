"""The batch script, run by a real bash; srun and scontrol are stand-ins here, the real ones in tests/cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pi_repro.launch.slurm.script import Script

#: srun that runs its command, and scontrol that notes the requeue and ends the script, as SLURM does.
_STAND_INS = {
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "scontrol": 'echo "$@" >>"$NOTES/scontrol"\n'
    "(while sleep 0.2; kill -TERM $PPID 2>/dev/null; do :; done) >/dev/null &",
}


class Bench:
    """A job's folder and what runs its script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch, self.published = folder / "scratch $(touch canary)' x", folder / "store" / "manifest.json"
        for made in ("attempts", "work"):
            (self.scratch / made).mkdir(parents=True)
        (folder / "work").symlink_to(self.scratch / "work")
        (self.scratch / "attempts" / "0001.json").touch()
        for name, text in _STAND_INS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)

    def start(self, does: str, restarts: int = 0, **changed: object) -> subprocess.Popen[str]:
        script = Script(1, self.scratch, self.published, ["bash", "-c", does], tasks=1, cpus=1, requeues=5)
        (self.folder / "job.sh").write_text(replace(script, **changed).text())  # type: ignore[arg-type]
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": "n1",
            "SLURM_RESTART_COUNT": str(restarts),
            "NOTES": str(self.folder),
            "WORK": str(self.folder / "work"),
        }
        words = ["bash", str(self.folder / "job.sh")]
        return subprocess.Popen(words, env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def run(self, does: str, restarts: int = 0, **changed: object) -> int:
        process = self.start(does, restarts, **changed)
        process.communicate(timeout=20)
        return process.returncode

    @property
    def requeued(self) -> int:
        notes = self.folder / "scontrol"
        return notes.read_text().count("requeue 7") if notes.exists() else 0

    @property
    def ended(self) -> dict[str, object]:
        return dict(json.loads((self.scratch / "ended.json").read_text()))

    @property
    def log(self) -> str:
        return (self.scratch / "log.txt").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_stages_own_status_is_the_scripts(bench: Bench) -> None:
    assert bench.run("exit 3") == 3
    assert bench.ended | {"time": 0} == {
        **{"attempt": 1, "job": "7", "status": 3, "alike": 0, "final": 0},
        **{"restarts": 0, "node": "n1", "time": 0},
    }
    assert bench.requeued == 0 and "begins on n1" in bench.log


def test_what_is_published_or_cancelled_or_another_attempts_does_not_run(bench: Bench) -> None:
    (bench.scratch / "cancelled").touch()
    assert bench.run("touch $WORK/ran") == 130 and bench.ended["status"] == 130
    (bench.scratch / "attempts" / "0010.json").touch()
    (bench.scratch / "ended.json").unlink()
    assert bench.run("touch $WORK/ran") == 75
    assert not (bench.scratch / "ended.json").exists(), "it is the newer one's to say how it ended"
    bench.published.parent.mkdir()
    bench.published.touch()
    assert bench.run("touch $WORK/ran") == 0
    assert not list((bench.scratch / "work").iterdir())


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_request_to_save_reaches_the_processes_and_requeues(bench: Bench, number: int) -> None:
    command = "trap 'touch $WORK/saved; exit 130' USR2; touch $WORK/ready; while :; do sleep 0.05; done"
    process = bench.start(command)
    _until(bench.scratch / "work" / "ready")
    for _ in range(3):  # SLURM may ask more than once
        process.send_signal(number)
    process.communicate(timeout=20)
    assert (bench.scratch / "work" / "saved").exists() and bench.requeued == 1
    assert bench.log.count("asked to save") == 1 and "its state is saved; requeued" in bench.log
    assert not (bench.scratch / "ended.json").exists(), "it has not ended"


def test_a_request_before_it_can_hear_requeues_too(bench: Bench) -> None:
    process = bench.start("touch $WORK/ready; sleep 20")  # USR2 kills it
    _until(bench.scratch / "work" / "ready")
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=20)
    assert bench.requeued == 1 and not (bench.scratch / "attempts" / "deaths.txt").exists()


def test_a_request_at_the_moment_of_its_start_reaches_it(bench: Bench) -> None:
    stat = bench.folder / "bin" / "stat"  # the last that the script runs before
    stat.write_text(f'#!/bin/bash\nkill -USR2 $PPID\nexec {shutil.which("stat")} "$@"\n')
    stat.chmod(0o755)
    process = bench.start("trap 'exit 130' USR2; for _ in {1..300}; do sleep 0.05; done")
    process.communicate(timeout=20)
    assert bench.requeued == 1 and "asked to save" in bench.log


def test_a_request_during_a_cancel_ends_it(bench: Bench) -> None:
    process = bench.start("trap 'exit 130' USR2; touch $WORK/ready; while :; do sleep 0.05; done")
    _until(bench.scratch / "work" / "ready")
    (bench.scratch / "cancelled").touch()
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=20)
    assert (process.returncode, bench.requeued, bench.ended["status"]) == (130, 0, 130)


def test_a_killed_stage_goes_on_unless_it_dies_at_one_point(bench: Bench) -> None:
    for restarts in range(2):
        bench.run("kill -KILL $$", restarts)
    (bench.scratch / "work" / "step-1").touch()  # progress
    for restarts in range(2, 4):
        bench.run("touch $WORK/.aside-$$; kill -KILL $$", restarts)
    assert bench.requeued == 4
    assert bench.run("kill -KILL $$", 4) == 137 and bench.requeued == 4
    assert (bench.ended["alike"], bench.ended["final"]) == (3, 1) and "3 times at the same point" in bench.log


def test_requeues_are_bounded(bench: Bench) -> None:
    assert bench.run("exit 130", restarts=5) == 130
    assert bench.requeued == 0 and bench.ended["final"] == 1 and "allows 5 requeues" in bench.log


def test_a_lease_that_stays_taken_ends_it_as_busy(bench: Bench) -> None:
    """In the last round, too, in which nothing follows the pause."""
    tries, pause = bench.scratch / "work" / "tries", bench.folder / "bin" / "sleep"
    pause.write_text(
        '#!/bin/sh\n[ "$1" = 10 ] || exec /bin/sleep "$1"\n[ "$(wc -l <"$WORK/tries")" != 60 ] || kill -USR2 $PPID\n'
    )
    pause.chmod(0o755)
    assert bench.run("echo >>$WORK/tries; exit 75") == 75 and bench.ended["status"] == 75
    assert len(tries.read_text()) == 30 and bench.requeued == 0
    bench.run("echo >>$WORK/tries; exit 75")
    assert len(tries.read_text()) == 60 and bench.requeued == 1, "asked to save during the last pause"


def test_a_node_without_scontrol_ends_it_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits submits it again; a loop would hold the GPUs."""
    tools = bench.folder / "bin"
    (tools / "scontrol").unlink()
    for name in ("bash", "flock", "mv", "sleep", "sort", "stat", "tail"):
        (tools / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tools))
    begin = time.monotonic()
    assert bench.run("exit 130") == 130 and time.monotonic() < begin + 8
    assert bench.ended["final"] == 0 and "no scontrol" in bench.log


def test_a_lost_process_is_no_fault_of_the_stage(bench: Bench) -> None:
    lost = """echo 'E pretrain: process 1 of 2 was lost' >>"$WORK/../log.txt"; exit 3"""
    bench.run(lost)
    assert bench.requeued == 1
    assert bench.run("exit 3") == 3, "an earlier start's message does not count"


def test_a_wrong_image_stops_it_with_the_message(bench: Bench) -> None:
    assert bench.run("touch $WORK/ran", prologue=["bash", "-c", "echo 'another sha256'; exit 3"]) == 3
    assert " E slurm job 7: another sha256" in bench.log and not list((bench.scratch / "work").iterdir())


def test_values_never_reach_the_shell(bench: Bench) -> None:
    bad = "a; touch canary $(touch canary) `touch canary` '\" \\ #"
    saying = 'printf "%s" "$1" >$WORK/seen'
    script = Script(
        1, bench.scratch, bench.published, ["bash", "-c", saying, "x", bad], 1, 1, 5, modules=(), prologue=("true", bad)
    )
    assert bench.run("", **vars(script)) == 0
    assert (bench.scratch / "work" / "seen").read_text() == bad
    assert not list(bench.folder.rglob("canary"))


def _until(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
