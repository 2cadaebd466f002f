"""A real private SLURM cluster for the tests (slurm/testcluster), and workspaces that know it as a site."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import ROOT, Workspace, commit, finished, make_workspace

__all__ = ["finished"]  # a fixture

SCRIPT = ROOT / "slurm" / "testcluster" / "cluster.sh"
SITE = "testcluster"
HERE = Path(__file__).parent
#: How much slower than a quiet machine one may be that runs three clusters and builds an image.
BUSY = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a cluster or a container, and says so."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")


@dataclass(frozen=True)
class Cluster:
    """The cluster of a folder: what a test asks of it and does to it."""

    folder: Path

    @classmethod
    def up(cls, folder: Path, *options: str) -> Cluster:
        """Start one; nodes are n1, n2, ... with 4 CPUs and 2 GPUs each."""
        cluster = cls(folder)
        cluster._script("up", *options)
        return cluster

    def down(self) -> None:
        """Cancel all jobs and end all processes."""
        self._script("down")

    @property
    def environment(self) -> dict[str, str]:
        """For subprocesses: SLURM's commands, and ours, find this cluster."""
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**mine, "PATH": path, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def run(self, *words: str, status: int = 0) -> str:
        """Run a command; returns what it printed."""
        done = subprocess.run(
            words, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == status, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, script: str, *options: str) -> int:
        """Queue a bash script, its output in <folder>/<job id>.out; returns the job's id."""
        path = self.folder / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        fixed = ("--parsable", "--open-mode=append", f"--output={self.folder}/%j.out")
        return int(self.run("sbatch", *fixed, *options, str(path)).split(";")[0])

    def output(self, job: int) -> str:
        """What a submitted script has printed so far."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def squeue(self, *options: str) -> list[dict[str, str]]:
        """Rows of squeue: id, name, state, reason, node; finished jobs are there only with `--states=all`."""
        table = self.run("squeue", "--noheader", "--array", "--format=%A|%j|%T|%r|%N", *options)
        return [
            dict(zip(("id", "name", "state", "reason", "node"), row.split("|"), strict=True)) for row in _rows(table)
        ]

    def states(self) -> dict[int, str]:
        """State of each job that the controller remembers (those that ended less than an hour ago too)."""
        return {int(row["id"]): row["state"] for row in self.squeue("--states=all")}

    def sacct(self, job: int | None = None) -> list[dict[str, str]]:
        """Accounting's rows, one a run of a job (a requeued job has several)."""
        only = () if job is None else (f"--jobs={job}",)
        names = ("id", "name", "state", "exit", "start", "end", "node")
        fields = "--format=JobIDRaw,JobName%80,State,ExitCode,Start,End,NodeList"
        table = self.run(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--duplicates",
            "--starttime=now-1days",
            *only,
            fields,
        )
        return [dict(zip(names, row.split("|"), strict=True)) for row in _rows(table)]

    def accounted(self, job: int) -> list[dict[str, str]]:
        """Accounting's rows of a job, once it knows of the end, which comes some seconds late."""
        alive = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING")
        return list(until(lambda: (rows := self.sacct(job)) and rows[-1]["state"] not in alive and rows, 30, "sacct"))

    def restarts(self, job: int) -> int:
        """How often a job was requeued."""
        found = re.search(r"Restarts=(\d+)", self.run("scontrol", "show", "job", str(job)))
        assert found
        return int(found[1])

    def wait(self, job: int, *wanted: str, seconds: float = 60) -> str:
        """Wait until a job is in one of these states (COMPLETED if none is given); returns it."""
        wanted = wanted or ("COMPLETED",)
        until(lambda: self.states().get(job) in wanted, seconds, f"job {job} to be {' or '.join(wanted)}")
        return self.states()[job]

    def idle(self) -> None:
        """Cancel every job, bring every node back: what a test may begin with."""
        jobs = [row["id"] for row in self.squeue()]
        if jobs:
            self.run("scancel", *jobs)
        until(lambda: not self.squeue(), 60, "the queue to be empty")
        for number in self.nodes():
            self.start_node(number)
        until(lambda: set(_rows(self.run("sinfo", "-h", "-N", "-o", "%T"))) == {"idle"}, 60, "all nodes to be idle")

    def nodes(self) -> list[int]:
        """Numbers of the nodes: 1, 2, ..."""
        return [int(name[1:]) for name in sorted(set(_rows(self.run("sinfo", "-h", "-N", "-o", "%N"))))]

    def stop_node(self, number: int) -> None:
        """End node n<number>'s daemon; its jobs go on."""
        self._script("stop-node", str(number))

    def kill_node(self, number: int) -> None:
        """Node n<number> dies: its daemon and all that runs on it."""
        self._script("kill-node", str(number))

    def start_node(self, number: int) -> None:
        """Start a node's daemon, if it doesn't run, and return the node to service."""
        self._script("start-node", str(number))

    def stop_controller(self, signal: str = "TERM") -> None:
        """End slurmctld; with KILL it can't save its state, and forgets jobs that are younger than some 10 s."""
        self._script("stop-ctld", signal)

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self._script("start-ctld")

    def restart_controller(self, signal: str = "TERM") -> None:
        """Stop, start."""
        self.stop_controller(signal)
        self.start_controller()

    def site(self, workspace: Path, **overrides: Any) -> Path:
        """Write slurm/sites/testcluster.yaml into a workspace; keyword arguments replace a site's fields."""
        fields: dict[str, Any] = {
            "name": SITE,
            "partition": "low",
            "gpus_per_node": 2,
            "cpus_per_gpu": 1,
            "signal_s": 30,
            "poll_s": 0.5,
            "stall_minutes": 2,
            "here": ["fetch"],
            "accounting": "accounting_storage/none" not in (self.folder / "etc" / "slurm.conf").read_text(),
            "interface": "lo",
            "runtime": {"kind": "none"},
        }
        path = workspace / "slurm" / "sites" / f"{SITE}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**fields, **overrides}, sort_keys=False))
        return path

    def logs(self) -> str:
        """Last lines of the daemons' logs, for a failed test to show."""
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted((self.folder / "log").iterdir()))

    def _script(self, verb: str, *words: str) -> str:
        done = subprocess.run(
            ["bash", SCRIPT, verb, self.folder, *words], capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"cluster.sh {verb} {words} failed:\n{done.stdout}{done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class ClusteredWorkspace(Workspace):
    """A workspace whose commands find a cluster."""

    cluster: Cluster
    #: The newest job before this workspace: fingerprints of other tests are the same.
    since: int

    def jobs(self) -> list[dict[str, str]]:
        """Rows of squeue of the jobs since this workspace was made, those that ended less than an hour ago too."""
        return [row for row in self.cluster.squeue("--states=all") if int(row["id"]) > self.since]

    @property
    def environment(self) -> dict[str, str]:
        """As a user's shell on the login node."""
        return {**self.cluster.environment, "PIREPRO_DOWNLOADS": super().environment["PIREPRO_DOWNLOADS"]}


def _rows(table: str) -> list[str]:
    return [row.strip() for row in table.splitlines() if row.strip()]


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until a condition holds, for as many seconds of a quiet machine; returns what it returned."""
    end = time.monotonic() + BUSY * seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return value


def require(*programs: str) -> None:
    """Skip without these; under CI=true, where root can install them, a missing one is a failure."""
    missing = [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"no {', '.join(missing)} here: as root, `bash slurm/testcluster/cluster.sh install`")


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters with options of cluster.sh; all are taken down in the end."""
    require("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch")
    started: list[Cluster] = []

    def start(*options: str) -> Cluster:
        # Not pytest's own folders: sockets' paths are limited to some hundred characters.
        folder = Path(tempfile.mkdtemp(prefix="testcluster-"))
        started.append(Cluster(folder))
        return Cluster.up(folder, *options)

    yield start
    for cluster in started:
        cluster.down()
        shutil.rmtree(cluster.folder)


@pytest.fixture(scope="session")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """The session's cluster: n1 to n3, with accounting. Tests run serially and leave it `idle`."""
    return start_cluster()


@pytest.fixture
def clustered(cluster: Cluster, tmp_path: Path) -> ClusteredWorkspace:
    """A workspace with demo-tiny enabled, nothing run yet, and the site `testcluster` (not chosen yet)."""
    cluster.idle()
    made = make_workspace(tmp_path / "ws")
    cluster.site(made.root)
    commit(made, "site")
    return ClusteredWorkspace(made.root, cluster, max(cluster.states(), default=0))
