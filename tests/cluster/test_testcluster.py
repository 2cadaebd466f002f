"""The private cluster is what launcher's tests take it for."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.cluster.conftest import Cluster, until


def test_two_nodes_with_two_gpus_each(cluster: Cluster) -> None:
    cluster.idle()
    job = cluster.submit(
        "srun bash -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'", "--nodes=2", "--gpus-per-node=2", "--ntasks=2"
    )
    cluster.wait(job)
    first, second = sorted(cluster.output(job).split("\n")[:2])
    assert first.split()[0] != second.split()[0]
    assert {first.split()[1], second.split()[1]} == {"0,1"}
    assert cluster.accounted(job)[0]["state"] == "COMPLETED"


def test_preempted_job_is_told_first_and_comes_back(cluster: Cluster) -> None:
    cluster.idle()
    low = cluster.submit(
        "trap 'echo told; scontrol requeue $SLURM_JOB_ID' USR2; echo restart=$SLURM_RESTART_COUNT;"
        " [ $SLURM_RESTART_COUNT ] || { sleep 300 & wait; wait; }",
        "--gpus-per-node=2",
        "--nodes=3",
        "--signal=B:USR2@30",
        "--requeue",
    )
    cluster.wait(low, "RUNNING")
    until(lambda: "restart=" in cluster.output(low), 20, "the script to begin")
    high = cluster.submit("true", "--partition=high", "--gpus-per-node=2", "--nodes=3")
    cluster.wait(high)
    cluster.wait(low)
    lines = [line for line in cluster.output(low).splitlines() if not line.startswith("slurmstepd")]
    assert lines == ["restart=", "told", "restart=1"]
    assert cluster.restarts(low) == 1


def test_job_on_two_nodes_begins_anew_when_one_dies_and_comes_back(cluster: Cluster) -> None:
    cluster.idle()
    job = cluster.submit(
        "echo on=$SLURMD_NODENAME; [ $SLURM_RESTART_COUNT ] || { srun sh -c 'echo task; sleep 300'; echo end; }",
        "--nodes=2",
        "--ntasks=2",
        "--requeue",
    )
    until(lambda: cluster.output(job).count("task") == 2, 60, "both tasks to run")
    first = int(cluster.output(job).split("on=n")[1][0])
    cluster.kill_node(first + 1)
    cluster.start_node(first + 1)
    cluster.wait(job)
    assert cluster.output(job).count("on=") == 2
    assert cluster.restarts(job) == 1
    assert [row["state"] for row in cluster.accounted(job)] == ["NODE_FAIL", "COMPLETED"]


def test_restarted_daemons_leave_a_job_alone(cluster: Cluster, tmp_path: Path) -> None:
    cluster.idle()
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.2; done"
    job = cluster.submit(f"echo on=$SLURMD_NODENAME; {wait}; echo restarts=$SLURM_RESTART_COUNT")
    until(lambda: "on=n" in cluster.output(job), 30, "the script to begin")
    cluster.restart_controller()
    node = int(cluster.output(job).split("on=n")[1])
    cluster.stop_node(node)
    cluster.start_node(node)
    (tmp_path / "go").touch()
    cluster.wait(job)
    assert cluster.output(job).splitlines()[1:] == ["restarts="]


def test_without_accounting_and_nothing_left_after_down(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster("--nodes", "1", "--gpus", "1", "--no-accounting")
    assert cluster.run("srun", "--gpus=1", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0\n"
    assert "disabled" in subprocess.run(["sacct"], env=cluster.environment, capture_output=True, text=True).stderr
    job = cluster.submit(
        "trap '' TERM; setsid sleep 500 & srun bash -c 'trap \"\" TERM; sleep 500'; wait", "--ntasks=2"
    )
    own = subprocess.Popen(["srun", "sleep", "500"], env=cluster.environment, stderr=subprocess.DEVNULL)
    cluster.wait(job, "RUNNING")
    assert len(_of(cluster.folder)) > 5
    cluster.down()
    assert own.wait(20) != 0
    assert _of(cluster.folder) == []


def _of(folder: Path) -> list[str]:
    """Command lines of live processes that name a cluster's folder in arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words + variables:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def test_a_starting_database_lets_other_databases_files_be(start_cluster: Callable[..., Cluster]) -> None:
    """mariadbd begins by removing the #sql files of its tmpdir: were that /tmp, clusters would break each other."""
    with tempfile.NamedTemporaryFile(prefix="#sql-temptable-", dir="/tmp", delete=False) as other:
        path = Path(other.name)
    start_cluster("--nodes", "1", "--gpus", "1")
    assert path.exists()
    path.unlink()
