"""A training of minutes that is preempted, killed, loses its controller and its node, and runs into its limit."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Workspace, commit, make_workspace

from .conftest import Cluster, ClusteredWorkspace, until

SPEC = "specs/demo-tiny.yaml"
STAGE = "pretrain@demo-tiny-random-s0"
#: Three minutes or more of one core, two updates an epoch.
EPOCHS = 750


def _only_a_long_training(workspace: Workspace) -> None:
    path = workspace.root / SPEC
    spec: dict[str, Any] = yaml.safe_load(path.read_text())
    science = spec["science"]
    science["arms"] = {"random": science["arms"]["random"]}
    science["pretrain"] |= {"epochs": EPOCHS, "publish_states": [2 * EPOCHS], "checksum_every": 50}
    spec["resources"]["checkpoint_every"] = 40
    path.write_text(yaml.safe_dump(spec))
    workspace.run("pirepro", "plan", "--write")
    commit(workspace, "a long training")


class Trial:
    """The training, as its log and SLURM tell it."""

    def __init__(self, workspace: ClusteredWorkspace) -> None:
        self.cluster: Cluster = workspace.cluster
        self.scratch: Path = until(lambda: self._folder(workspace.root), 240, f"the job of {STAGE}")

    @staticmethod
    def _folder(root: Path) -> Path | None:
        jobs = root.glob(".pirepro/scratch/*/job.json")
        return next((path.parent for path in jobs if json.loads(path.read_text())["name"] == STAGE), None)

    @property
    def log(self) -> str:
        path = self.scratch / "log.txt"
        return path.read_text() if path.exists() else ""

    @property
    def row(self) -> dict[str, str]:
        """Its live job, when it has one; there are never two."""
        rows = [row for row in self.cluster.squeue() if row["name"] == self.scratch.name]
        assert len(rows) <= 1, "two live jobs of one fingerprint"
        return rows[0] if rows else {"state": "none"}

    def goes_on(self, more: int = 60) -> None:
        """Wait until it runs and has done some updates more, past a checkpoint."""

        def done() -> int:
            try:
                return int(json.loads((self.scratch / "progress.json").read_text())["done"])
            except (FileNotFoundError, ValueError):
                return -1

        until(lambda: self.row["state"] == "RUNNING" and done() >= 0, 180, "it to run")
        begun = done()
        until(lambda: done() >= begun + more, 180, f"{more} updates more than {begun}")

    def resumes_after(self, event: Callable[[], object], said: str, seconds: float = 240) -> None:
        """Do something to it: its log says what happened, and then that it goes on from a checkpoint."""
        mark, begun = len(self.log), time.monotonic()
        event()
        found = until(
            lambda: re.search(rf"(?:{said})(?:.|\n)*resumed from update (\d+)", self.log[mark:]),
            seconds,
            f"{said!r} and a resumption in the log; after {mark} characters it says {self.log[mark:]!r}",
        )
        assert int(found[1]) > 0
        print(f"{said!r}: resumed from update {found[1]} after {time.monotonic() - begun:.0f} s")
        self.goes_on()


@pytest.mark.timeout(2400)
def test_whatever_happens_it_goes_on_and_ends_in_the_same_bits(clustered: ClusteredWorkspace, tmp_path: Path) -> None:
    """Preempted, killed in two ways, without its controller, without its node, out of time."""
    cluster, undisturbed = clustered.cluster, make_workspace(tmp_path / "undisturbed")
    for workspace in (clustered, undisturbed):
        _only_a_long_training(workspace)
    log, command = tmp_path / "driver.txt", ("pirepro", "run", SPEC, "--until", "pretrain")
    driver = clustered.start(*command, "--slurm", log=log)
    reference = undisturbed.start(*command, log=tmp_path / "undisturbed.txt")
    tried = Trial(clustered)
    tried.goes_on()

    def preempt() -> None:
        cluster.submit("sleep 1", "--partition=high", f"--nodelist={tried.row['node']}", "--exclusive")

    def kill_its_process() -> None:
        os.kill(json.loads((tried.scratch / "lease.json").read_text())["pid"], signal.SIGKILL)

    def lose_its_node() -> None:
        node = int(tried.row["node"][1:])
        cluster.kill_node(node)
        cluster.start_node(node)

    def shorten_its_limit() -> None:
        elapsed = cluster.run("squeue", "--noheader", f"--jobs={tried.row['id']}", "--format=%M").strip()
        minutes = int(elapsed.split(":")[-2]) + 1
        pid, said = json.loads((tried.scratch / "lease.json").read_text())["pid"], tried.log.count("asked to save")
        cluster.run("scontrol", "update", f"jobid={tried.row['id']}", f"timelimit={minutes}")
        os.kill(pid, signal.SIGSTOP)  # a fast machine's training would end before its time does
        try:
            until(lambda: tried.log.count("asked to save") > said, 120, "its time to be up")
        finally:
            os.kill(pid, signal.SIGCONT)

    tried.resumes_after(preempt, r"asked to save(?:.|\n)*its state is saved; requeued")
    driver.kill()
    driver.wait()
    job = tried.row["id"]
    driver = clustered.start(*command, "--slurm", log=log)
    until(lambda: log.read_text().count(f"started   {STAGE}") == 2, 60, "the second driver to attach")
    assert {row["id"] for row in clustered.jobs() if row["name"] == tried.scratch.name} == {job}
    # SLURM asks a batch job to save before it ends its steps; the kernel, below, asks nothing.
    tried.resumes_after(lambda: cluster.run("scancel", "--signal=KILL", tried.row["id"]), "requeued|submitted again")
    tried.resumes_after(kill_its_process, "killed by signal 9; requeued")
    before = tried.log.count("begins on")
    cluster.restart_controller()
    tried.goes_on()
    tried.resumes_after(lose_its_node, r"restart [1-9]|submitted again")
    tried.resumes_after(shorten_its_limit, r"asked to save(?:.|\n)*its state is saved; requeued")
    cluster.run("scontrol", "update", f"jobid={tried.row['id']}", "timelimit=60")
    assert tried.log.count("begins on") >= before + 2

    assert driver.wait(900) == 0, log.read_text()[-3000:]
    assert "failed" not in log.read_text()
    assert reference.wait(900) == 0
    assert undisturbed.digests() == clustered.digests()
