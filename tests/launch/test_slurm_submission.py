"""What sbatch is given: the layout of a job, the lines that submitit writes, and no other job's environment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import RequestError
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import submission
from pi_repro.launch.slurm.submission import TrapExecutor, ask_of, parameters
from pi_repro.spec.experiment import Resources
from pi_repro.spec.site import Site


def site(**fields: Any) -> Site:
    return Site.model_validate({"name": "here", "here": (), "runtime": {"kind": "none"}, **fields})


def job(folder: Path, kind: str = "pretrain", gpus: int = 0, processes: int = 1) -> Job:
    resources = {"gpus": gpus, "parallel": 1, "workers": 0, "prefetch": 1, "checkpoint_every": 1}
    figures = {"device_watts": 1.0, "grid_g_per_kwh": 0.0, "rates": {}}
    places = Places(folder, folder / "scratch", folder / "store", folder / "downloads", None)
    payload = {"settings": {"mode": "exact"}}
    allowed = Resources.model_validate({**resources, **figures})
    return Job(f"{kind}@x-s0", kind, "ab" * 32, payload, {}, allowed, places, processes)


def _lines(folder: Path, asked: Job, at: Site, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setattr(TrapExecutor, "affinity", classmethod(lambda cls: 2))
    executor = TrapExecutor(folder, at)
    executor.update_parameters(**parameters(ask_of(asked, at, 3, ("n1", "n2")), at))
    text = executor._make_submission_file_text("the body\n", "")
    assert "\nthe body\n" in text and "srun" not in text and "submitit" not in text.split("# command")[0]
    return {
        "".join(shlex.split(line.removeprefix("#SBATCH --")))
        for line in text.splitlines()
        if line.startswith("#SBATCH --")
    }


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b"
    lines = _lines(folder, job(folder), site(cpu_partition="c p", signal_s=200, minutes={"pretrain": 5}), monkeypatch)
    assert {
        *("job-name=" + "ab" * 32, "dependency=singleton", "requeue", "open-mode=append", "signal=B:USR2@150"),
        *("partition=c p", "exclude=n1,n2", "comment=pirepro pretrain@x-s0 #3", "time=5", "ntasks=1"),
        f"output={tmp_path}/a b/scratch/{'ab' * 32}/slurm-%j.txt",
    } <= lines
    assert not any(line.startswith(("error", "wckey", "gres", "mem")) for line in lines)


@pytest.mark.parametrize(
    ("gpus", "a_node", "layout"),
    [(1, 8, (1, 1)), (8, 8, (1, 8)), (16, 8, (2, 8)), (8, 6, (2, 4)), (8, 3, (3, 3)), (2, 1, (2, 1))],
)
def test_one_task_a_gpu(tmp_path: Path, gpus: int, a_node: int, layout: tuple[int, int]) -> None:
    at = site(gpus_per_node=a_node, gpu_type="h200", memory_per_gpu_gb=50, cpus_per_gpu=12)
    ask = ask_of(job(tmp_path, gpus=gpus, processes=gpus), at, 1)
    assert (ask.nodes, ask.tasks_per_node, ask.gpus, ask.tasks) == (*layout, layout[1], gpus)
    given = parameters(ask, at)
    assert (given["gres"], given["mem"], given["cpus_per_task"]) == (
        *(f"gpu:h200:{layout[1]}", f"{50 * 1024 * layout[1]}M", 12),
    )


def test_only_stages_that_compute_get_gpus(tmp_path: Path) -> None:
    at = site(partition="gpu", cpu_partition="cpu", tasks_per_node=2, memory_per_process_gb=3)
    for kind in ("draw", "report"):
        given = parameters(ask_of(job(tmp_path, kind, gpus=4), at, 1), at)
        assert "gres" not in given and given["partition"] == "cpu"
    ask = ask_of(job(tmp_path, processes=4), at, 1)
    assert (ask.nodes, ask.tasks_per_node, ask.gpus, ask.memory_gb) == (2, 2, 0, 6)


def test_the_submitters_environment_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrapExecutor, "affinity", classmethod(lambda cls: 2))
    strange = {"SBATCH_TIMELIMIT", "SBATCH_PARTITION", "SLURM_NTASKS", "PIREPRO_PARENT", "RANK", "MASTER_ADDR"}
    strange |= {"NVIDIA_TF32_OVERRIDE", "MKL_CBWR"}
    for name in (*strange, "SBATCH_ACCOUNT", "SLURM_CONF", "RANKING"):
        monkeypatch.setenv(name, "x")
    words = TrapExecutor(tmp_path, site(partition="p"))._make_submission_command(tmp_path / "job.sh")
    assert words[0] == "env" and words[-2:] == ["sbatch", str(tmp_path / "job.sh")]
    dropped = set(words[2:-2:2])
    assert strange <= dropped
    assert not dropped & {"SBATCH_ACCOUNT", "SLURM_CONF", "RANKING"}, (
        "the site names no account: the person's own counts"
    )


@pytest.mark.parametrize("name", ["50%j", "a\\b", "a\nb"])
def test_a_folder_that_is_a_pattern_to_slurm_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="can't write"):
        submission.submit(tmp_path / "attempts", site(), ask_of(job(tmp_path / name), site(), 1), "true")


#: SLURM says this of every limit, whichever is broken.
_POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Unable to contact slurm controller (connect failure)", submission.Later),
        ("Socket timed out on send/recv operation", submission.Later),
        (f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {_POLICY}", submission.Later),
        (f"AssocGrpSubmitJobsLimit\nsbatch: error: {_POLICY}", submission.Later),
        (f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {_POLICY}", RequestError),
        ("Invalid partition name specified", RequestError),
    ],
)
def test_what_may_pass_is_told_from_what_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]
) -> None:
    for name, text in (
        ("srun", ""),
        ("sbatch", f"cat >&2 <<'END'\nsbatch: error: Batch job submission failed: {said}\nEND\nexit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(error, match=said[:20]):
        submission.submit(tmp_path / "attempts", site(), ask_of(job(tmp_path), site(), 1), "true")
    assert not list((tmp_path / "attempts").iterdir()), "a script that was not taken is not kept"
