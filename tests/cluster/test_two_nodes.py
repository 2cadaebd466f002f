"""One training on several nodes of a real SLURM cluster: the bits of one process, and no silent loss.

The worker is started by srun as a batch script of the launcher starts it; the launcher's own tests are elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pi_repro.launch.progress import read as progress
from pi_repro.provenance.determinism_env import ENVIRONMENT
from tests.e2e.conftest import make_workspace

from .conftest import BUSY, Cluster, until

STAGE = "pretrain@demo-tiny-random-s0"


@dataclass
class Training:
    """A job of two processes, and what one process alone published of it."""

    file: Path
    store: Path
    digest: str

    @property
    def log(self) -> str:
        """Of this and earlier attempts."""
        return (self.file.parent / "log.txt").read_text()

    def forget(self) -> None:
        """As if it had never run."""
        shutil.rmtree(self.store, ignore_errors=True)
        for name in ("work", "log.txt", "out", "progress.json"):
            path = self.file.parent / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def published(self) -> str:
        """Digest of what is published."""
        return str(json.loads((self.store / "manifest.json").read_text())["digest"])

    def provenance(self) -> dict[str, object]:
        """Of what is published."""
        return dict(json.loads((self.store / "provenance.json").read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Computed by one process, without SLURM."""
    workspace = make_workspace(tmp_path_factory.mktemp("two-nodes") / "ws")
    workspace.edit("demo-tiny.yaml", "epochs: 4\n    batch: 64", "epochs: 40\n    batch: 64")
    workspace.edit("demo-tiny.yaml", "publish_states: [4]", "publish_states: [40]")
    workspace.edit("demo-tiny.yaml", "checkpoint_every: 4", "checkpoint_every: 10")
    workspace.run("pirepro", "plan", "--write")
    workspace.run("pirepro", "run", "specs/demo-tiny.yaml", "--until", STAGE)
    jobs = (workspace.root / ".pirepro" / "scratch").glob("*/job.json")
    job = next(path for path in jobs if json.loads(path.read_text())["name"] == STAGE)
    job.write_text(json.dumps({**json.loads(job.read_text()), "processes": 2}))
    store = workspace.root / ".pirepro" / "store" / job.parent.name
    found = Training(job, store, "")
    return Training(job, store, found.published())


@pytest.fixture
def training(finished: Training, cluster: Cluster) -> Iterator[Training]:
    """Not run yet, on an idle cluster."""
    cluster.idle()
    finished.forget()
    yield finished
    cluster.idle()


def _srun(cluster: Cluster, training: Training, *layout: str, **more: str) -> subprocess.Popen[str]:
    """The step that a batch script starts."""
    ours = {"PIREPRO_JOB_LAUNCHER": "slurm", "PIREPRO_STALL_MINUTES": "2", **more}
    words = ("srun", *layout, "--cpus-per-task=1", "--kill-on-bad-exit=1", "--export=ALL")
    return subprocess.Popen(
        [*words, sys.executable, "-m", "pi_repro.launch.worker", str(training.file)],
        cwd=training.file.parents[3],
        env={**cluster.environment, **ENVIRONMENT, **ours},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for(update: int, training: Training, process: subprocess.Popen[str]) -> None:
    """Wait until a training is so far."""

    def under_way() -> bool:
        assert process.poll() is None, process.communicate()[0]
        state = progress(training.file.parent)
        return state is not None and state.done >= update

    until(under_way, 180, f"update {update}")


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        (("--nodes=2", "--ntasks=2", "--ntasks-per-node=1"), {"PIREPRO_IFACE": "lo"}),
        (("--nodes=1", "--ntasks=2"), {}),
    ],
    ids=["two-nodes", "two-tasks"],
)
def test_any_layout_gives_the_bits_of_one_process(
    training: Training, cluster: Cluster, layout: tuple[str, ...], more: dict[str, str]
) -> None:
    process = _srun(cluster, training, *layout, **more)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output + training.log
    assert "process 0 of 2 computes 2 of the 4 micro-batches" in training.log
    assert training.published() == training.digest
    slurm = training.provenance()["slurm"]
    assert isinstance(slurm, dict) and slurm["SLURM_NTASKS"] == "2"


def test_killed_and_asked_to_stop_it_ends_in_the_same_bits(training: Training, cluster: Cluster) -> None:
    """Three attempts: a task dies; all are asked to save; one task ends it. The interface is found by itself."""
    process = _srun(cluster, training, "--nodes=2", "--ntasks=2")
    _wait_for(20, training, process)
    os.kill(_tasks(training)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=BUSY * 60)
    assert process.returncode == 137, output
    assert re.search(r"process 1 of 2, on n\d, was lost", training.log)
    assert not _tasks(training)

    before = len(training.log)
    (training.file.parent / "progress.json").unlink()  # else it tells how far the killed one was
    process = _srun(cluster, training, "--nodes=2", "--ntasks=2", SLURM_RESTART_COUNT="1")
    _wait_for(40, training, process)
    process.send_signal(signal.SIGUSR2)  # srun hands it to every task
    output, _ = process.communicate(timeout=BUSY * 60)
    assert process.returncode == 130, output
    assert "Killed" not in output and "lost" not in training.log[before:]
    assert re.search(r"begins, fingerprint .*; restart 1 of SLURM job \d+", training.log)

    process = _srun(cluster, training, "--nodes=1", "--ntasks=1")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    resumed = [int(update) for update in re.findall(r"resumed from update (\d+)", training.log)]
    assert len(resumed) == 2 and 0 < resumed[0] < resumed[1]
    assert training.published() == training.digest and training.provenance()["attempts"] == 3


def _tasks(training: Training) -> dict[int, int]:
    """Rank -> process id, of the processes that compute this job."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = dict(row.partition(b"=")[::2] for row in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if words[1:3] == [b"-m", b"pi_repro.launch.worker"] and str(training.file).encode() in words:
            found[int(environ.get(b"SLURM_PROCID", b"-1"))] = int(folder.name)
    return found
