"""Sites on a real SLURM: written from what the cluster tells, examined by a job, never read by a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi_repro.launch.doctor import Check
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import examine, probe, sites
from pi_repro.terminal import site as terminal
from tests.cluster.conftest import ROOT, Cluster, until


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Folders of a test on the cluster's login node; jobs run this checkout's code."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    for name in ("SCRATCH", "STORE", "DOWNLOADS", "DATA_ROOT", "SITE"):
        monkeypatch.delenv(f"PIREPRO_{name}", raising=False)
    return Places(ROOT, tmp_path / "scratch", tmp_path / "store", tmp_path / "downloads", None)


def _examined(here: Places, site: Path, patience_s: float = 60) -> dict[str, Check]:
    return {check.what: check for check in examine.examine(str(site), here, patience_s=patience_s)}


def test_what_init_writes_passes_the_doctor(cluster: Cluster, here: Places, tmp_path: Path) -> None:
    path = terminal.init(tmp_path, "mine", yes=True)
    site = sites.load("mine", tmp_path)
    assert (site.partition, site.gpus_per_node, site.cpus_per_gpu, site.accounting) == ("low", 2, 2, True)
    found = _examined(here, path)
    assert [check for check in found.values() if check.needed and not check.good] == []
    # Each was really looked at.
    assert {"Python", "torch", "GPU given", "shared files", "file locks", "clock", "scontrol", "sacct"} <= set(found)
    assert found["scontrol"].good and found["sacct"].good and found["GPU given"].good
    # Nothing is left.
    assert not any(here.scratch.iterdir())
    until(lambda: not cluster.squeue(), 30, "the queue to be empty")


def test_no_value_of_a_site_reaches_a_shell(cluster: Cluster, here: Places, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    nasty = f"a b'\"; $(touch {canary}) `touch {canary}` | touch {canary} &"
    folder = tmp_path / f"s ' \" ; $(touch {canary.name}) `touch {canary.name}`"
    site = cluster.site(tmp_path, environment={"X": nasty}, scratch=str(folder), interface=nasty, reservation=None)
    found = _examined(here, site)
    assert found["job"].good and found["shared files"].good and not found["interface"].good, found
    # SLURM would fill a pattern in.
    pattern = _examined(here, cluster.site(tmp_path, scratch=f"{folder}%j"))["job"]
    assert not pattern.good and "patterns" in pattern.found and "scratch" in pattern.todo
    for field in ("account", "qos", "constraint", "reservation", "gpu_type"):
        _examined(here, cluster.site(tmp_path, **{field: nasty}), patience_s=2)
    found = _examined(here, cluster.site(tmp_path, modules=[nasty]))
    assert not found["job"].good and "module load" in found["job"].found
    found = _examined(here, cluster.site(tmp_path, runtime={"kind": "none", "python": nasty}))
    assert not found["job"].good and "No such file" in found["job"].found, found
    left = [path for folder in (tmp_path, ROOT, Path.cwd(), cluster.folder) for path in folder.glob("canary*")]
    assert not left
    until(lambda: not cluster.squeue(), 30, "the queue to be empty")


def test_a_job_that_waits_too_long_is_told_and_taken_back(cluster: Cluster, here: Places, tmp_path: Path) -> None:
    blocker = cluster.submit("sleep 600", "--nodes=3", "--exclusive")
    try:
        cluster.wait(blocker, "RUNNING")
        job = _examined(here, cluster.site(tmp_path), patience_s=3)["job"]
        assert not job.good and "did not begin" in job.found
        assert [row["id"] for row in cluster.squeue()] == [str(blocker)]
    finally:
        cluster.idle()


def test_a_partition_that_is_not_there_is_told_before_any_job(cluster: Cluster, here: Places, tmp_path: Path) -> None:
    partition = _examined(here, cluster.site(tmp_path, partition="hihg"))["partition"]
    assert not partition.good and "low, high" in partition.todo


def test_the_probe_asks_this_cluster(cluster: Cluster, here: Places) -> None:
    found = probe.probe(here.workspace)
    assert [part.name for part in found.partitions] == ["low", "high"]
    assert all((part.nodes, part.gpus, part.cpus) == (3, 2, 4) for part in found.partitions)
    assert found.accounting
