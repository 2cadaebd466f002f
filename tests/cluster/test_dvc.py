"""DVC and the driver on a cluster: `dvc repro` has nothing to do after a run, and dispatches by itself."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

from tests.cluster.conftest import BUSY, SITE, ClusteredWorkspace, until

SPEC = "specs/demo-tiny.yaml"
PRETRAIN = "pretrain@demo-tiny-random-s0"


def longer(workspace: ClusteredWorkspace) -> None:
    """Pretraining takes some seconds, so that it is seen while it runs."""
    workspace.edit("demo-tiny.yaml", "epochs: 4\n    batch: 64", "epochs: 30\n    batch: 64")
    workspace.edit("demo-tiny.yaml", "publish_states: [4]", "publish_states: [30]")
    workspace.run("pirepro", "plan", "--write")


def submissions(workspace: ClusteredWorkspace) -> Counter[str]:
    """How many jobs each fingerprint has had."""
    return Counter(row["name"] for row in workspace.jobs())


def paused(workspace: ClusteredWorkspace, log: Path) -> tuple[str, int]:
    """Wait for the pretraining to run in SLURM, some updates on, and stop its clock; its fingerprint and process."""

    def running() -> Path | None:
        for job in workspace.root.glob(".pirepro/scratch/*/job.json"):
            if f'"name": "{PRETRAIN}"' in job.read_text() and (job.parent / "progress.json").is_file():
                return job.parent
        return None

    try:
        folder = until(running, 240, f"{PRETRAIN} to begin")
    except AssertionError:
        raise AssertionError(log.read_text()) from None
    process = json.loads((folder / "lease.json").read_text())["pid"]
    os.kill(process, signal.SIGSTOP)
    return folder.name, process


def test_a_run_in_the_background_leaves_dvc_with_nothing_to_do(clustered: ClusteredWorkspace) -> None:
    said = clustered.run("pirepro", "run", SPEC, "--slurm", "--detach")
    process = int(said.split()[1])
    for command in (("pirepro", "run", SPEC, "--slurm"), ("pirepro", "stage", PRETRAIN), ("pirepro", "gc")):
        refused = clustered.run(*command, status=3)
        assert f"process {process} on" in refused and "Traceback" not in refused
    assert f"process {process} on" in clustered.run("dvc", "repro", status=255)
    until(lambda: "job " in clustered.run("pirepro", "status"), 60, "what SLURM says of a stage")
    said = clustered.run("pirepro", "attach")
    assert "Perceptual" in said and "queue" in said, said
    # Recorded in several steps, while others ran.
    assert said.count("recording") > 1 and said.rindex("recording") > said.rindex("published"), said
    before = submissions(clustered)
    assert len(before) == 9 and set(before.values()) == {1}, "12 stages; the three fetches run here"
    begun_again = clustered.run("dvc", "repro")
    assert "Running stage" not in begun_again and "up to date" in begun_again
    assert "started" not in clustered.run("pirepro", "run", SPEC, "--slurm")
    assert submissions(clustered) == before
    assert "ended, with status 0" in clustered.run("pirepro", "attach")
    assert "published" in clustered.run("pirepro", "logs", PRETRAIN)


def test_dvc_repro_dispatches_and_after_a_kill_attaches(clustered: ClusteredWorkspace, tmp_path: Path) -> None:
    longer(clustered)
    clustered.run("pirepro", "site", "use", SITE)
    log, repro = tmp_path / "log.txt", ("dvc", "repro", PRETRAIN)
    first = clustered.start(*repro, log=log)
    fingerprint, worker = paused(clustered, log)
    refused = clustered.run("pirepro", "run", SPEC, "--slurm", status=3)
    assert "`pirepro stage`" in refused and f"dispatching to {SITE}" in refused
    assert "is busy" in clustered.run(*repro, status=255), "a second dvc repro"
    # Of the first only DVC dies, of the second all: its waiter and the first one's, too.
    first.kill()
    first.wait()
    second = clustered.start(*repro, log=log)
    until(lambda: log.read_text().count(f"started   {PRETRAIN}") == 2, 60, "the second to attach")
    os.killpg(second.pid, signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    second.wait()
    assert any(row["name"] == fingerprint for row in clustered.cluster.squeue()), "the job died with its waiters"
    os.kill(worker, signal.SIGCONT)
    assert "Running stage" in clustered.run(*repro)
    assert submissions(clustered)[fingerprint] == 1
    assert (clustered.root / "artifacts/demo-tiny/random-s0/pretrain").is_dir()
    assert "up to date" in clustered.run(*repro)


def test_ctrl_c_leaves_jobs_and_cancel_stops_them(clustered: ClusteredWorkspace, tmp_path: Path) -> None:
    longer(clustered)
    log, command = tmp_path / "log.txt", ("pirepro", "run", SPEC, "--slurm", "--until", PRETRAIN)
    driver = clustered.start(*command, log=log)
    fingerprint, worker = paused(clustered, log)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(BUSY * 60) == 130
    assert "go on in SLURM: 1" in log.read_text() and "pirepro cancel" in log.read_text()
    follower = clustered.start("pirepro", "logs", PRETRAIN, "-f", log=tmp_path / "followed.txt")
    assert [row["state"] for row in clustered.cluster.squeue() if row["name"] == fingerprint] == ["RUNNING"]
    stopping = clustered.start("pirepro", "cancel", log=tmp_path / "cancelled.txt")
    until(lambda: (clustered.root / ".pirepro/scratch" / fingerprint / "cancelled").is_file(), 60, "the cancellation")
    os.kill(worker, signal.SIGCONT)
    assert stopping.wait(BUSY * 60) == 0 and "saved its state" in (tmp_path / "cancelled.txt").read_text()
    assert not clustered.cluster.squeue()
    assert follower.wait(BUSY * 60) == 3, "it ended without being published"
    clustered.run(*command)
    assert "resumed from update" in clustered.run("pirepro", "logs", PRETRAIN)


def test_changed_code_is_refused_without_dev(clustered: ClusteredWorkspace) -> None:
    with (clustered.root / "pi_repro" / "__init__.py").open("a") as file:
        file.write("# changed\n")
    refused = clustered.run("pirepro", "run", SPEC, "--slurm", status=2)
    assert "--dev" in refused and not clustered.cluster.squeue()
    clustered.run("pirepro", "run", SPEC, "--slurm", "--dev", "--until", "draw")
    provenance = next((clustered.root / "provenance").glob("draw@*.json")).read_text()
    assert '"dev": true' in provenance and '"dirty": true' in provenance


def test_without_a_site_is_said_how_to_get_one(clustered: ClusteredWorkspace) -> None:
    assert SITE in clustered.run("pirepro", "run", SPEC, "--slurm", "--site", "moon", status=2)
    (clustered.root / "slurm" / "sites" / f"{SITE}.yaml").unlink()
    assert "pirepro site init" in clustered.run("pirepro", "run", SPEC, "--slurm", status=2)
