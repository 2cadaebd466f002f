"""Processes that somebody else started: who they are, how they find each other, who was lost."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import write_json
from pi_repro.launch import job as jobs
from pi_repro.launch import network, peers, rollcall, worker
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.rollcall import Attendance, RollCall
from pi_repro.launch.store import Store
from pi_repro.provenance import image
from pi_repro.provenance.determinism_env import threads_of_step
from pi_repro.spec.experiment import Resources
from pi_repro.stages.context import Processes, StageContext

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")
LOG = logging.getLogger("pirepro.test")
TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
SLURM = {"PIREPRO_JOB_LAUNCHER": "slurm", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
ALL, OWN = {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "1"}
TOLD = peers.TO_BE_SAID


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({**SLURM, "PIREPRO_JOB_LAUNCHER": ""}, None),  # a person's own srun or salloc
        (SLURM, Processes(3, 4, 1, TOLD)),
        ({**SLURM, **ALL}, Processes(3, 4, 1, TOLD)),
        ({**SLURM, **OWN}, Processes(3, 4, 0, TOLD)),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "GPU-3f2a"}, Processes(3, 4, 0, TOLD)),
        (TORCHRUN, Processes(3, 4, 1, None)),
        ({**TORCHRUN, **OWN}, Processes(3, 4, 0, None)),
        ({**SLURM, **TORCHRUN, "RANK": "2"}, Processes(2, 4, 1, None)),  # torchrun in a step
        # Those that the first starts share what it sees.
        ({**TORCHRUN, **OWN, "PIREPRO_MEET": "/x"}, Processes(3, 4, 1, "/x")),
    ],
)
def test_who_a_process_is_and_which_gpu_it_takes(environ: dict[str, str], wanted: Processes | None) -> None:
    assert peers.here(environ) == wanted


def test_threads_of_mode_fast_are_those_of_the_node_that_computes() -> None:
    step = {"PIREPRO_JOB_LAUNCHER": "slurm", "SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "64"}
    assert threads_of_step("fast", step) == {"OMP_NUM_THREADS": "6", "MKL_NUM_THREADS": "6"}
    assert threads_of_step("exact", step) == threads_of_step("fast", {}) == {}


def test_the_site_s_interface_is_taken_or_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.INTERFACE, "ib7,lo")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with network.listen(one_host=False) as found:
        assert found.getsockname()[0] == "127.0.0.1"
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    network.choose_interfaces("127.0.0.1")
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == os.environ.pop("NCCL_SOCKET_IFNAME") == "lo"
    monkeypatch.setenv(network.INTERFACE, "ib7")
    with pytest.raises(StateError, match="lacks the network interface") as error:
        network.listen(one_host=False)
    assert "ib7" in str(error.value) and "lo" in str(error.value)


def test_a_name_that_is_only_a_loopback_is_no_address_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(network.INTERFACE, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("127.0.1.1", 0))])
    assert network.candidates(one_host=True) == ["127.0.0.1"]
    found = network.candidates(one_host=False)
    assert "127.0.1.1" not in found and found[-1] == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("192.0.2.77", 0))])
    assert network.candidates(one_host=False)[0] == "192.0.2.77"
    with network.listen(one_host=False) as listening:  # not an address of this host: the next one
        assert listening.getsockname()[0] != "192.0.2.77"


def _step(monkeypatch: pytest.MonkeyPatch, restart: int = 0, **more: str) -> None:
    step = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": str(restart)}
    for name, value in {**SLURM, **step, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1", **more}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rate = {"startup_s": 0, "per_second": 1, "source": "x"}
    amounts = {"gpus": 0, "parallel": 1, "workers": 0, "prefetch": 1, "checkpoint_every": 1}
    power = {"device_watts": 1, "grid_g_per_kwh": 0}
    rates = {"align": rate, "pretrain": rate, "evaluate": rate}
    resources = Resources.model_validate({**amounts, **power, "rates": rates})
    places = Places(ROOT, tmp_path / "scratch", tmp_path / "store", tmp_path / "downloads", None)
    payload = {"environment": "e", "inputs": {}, "settings": {}}
    return Job("fake@x", "fake", "ab" * 32, payload, {}, resources, places, 2)


def test_what_an_earlier_attempt_said_is_not_taken(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch, restart=0)
    first = RollCall(job, Processes(0, 2, 0, TOLD), LOG)
    first.start()
    said = json.loads((job.scratch / rollcall.READY).read_text())
    _step(monkeypatch, restart=1)
    later = threading.Timer(0.5, lambda: write_json(job.scratch / rollcall.READY, {**said, "attempt": "slurm 12.0.1"}))
    begun = time.monotonic()
    later.start()
    ready = rollcall.wait_for_first(job, lambda: False)
    assert ready is not None and ready.attempt == "slurm 12.0.1" and time.monotonic() - begun > 0.4
    assert ready.meet == first.processes.rendezvous and ready.meet.startswith("tcp://127.0.0.1:")
    first.end(0)


def test_one_that_is_asked_to_stop_gives_the_first_a_chance_to_come(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch)
    monkeypatch.setattr(rollcall, "_STOPPING_S", 0.3)
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        rollcall.wait_for_first(job, lambda: True)
    assert time.monotonic() - begun > 0.3


def test_strangers_at_the_door_are_nobody(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch)
    first = RollCall(job, Processes(0, 2, 0, TOLD), LOG)
    first.start()
    ready = rollcall.wait_for_first(job, lambda: False)
    assert ready is not None
    for line in (b"GET / HTTP/1.1\r\n", b"\xff\xfe\n", b"0 1 n2\n", f"{ready.word} 7 n2\n".encode()):
        with socket.create_connection(ready.roll) as stranger:
            stranger.sendall(line)
    with pytest.raises(StateError, match="process 1 of 2 was lost: it never came"):
        first.raise_if_lost(0.3)
    with Attendance(ready, 1, LOG):
        pass
    first.raise_if_lost(0.3)
    first.end(0)


# Whole processes -------------------------------------------------------------------------------------------


def _stage(context: StageContext) -> None:
    """A stage that does what its settings say of a rank, "do" -> [of the first, of the second]."""
    what = context.settings["do"][context.processes.rank]
    if what == "kill":
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        time.sleep(60)
    if what == "late stop":  # once the other's loss is known
        log, end = context.scratch.parent / "log.txt", time.monotonic() + 20
        while "was lost" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.02)
    if what in ("stop", "late stop"):
        raise Interrupted("stopped")
    if what == "refuse":
        raise RequestError("wrong")
    if context.processes.rank == 0:
        (context.out / "x").write_text("x")


def _work(path: Path, rank: int) -> None:
    os.environ.update({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURMD_NODENAME": f"n{rank + 1}"})
    module = ModuleType("pi_repro.stages.fake")
    module.run = _stage  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    worker.MODULES["fake"] = "fake"
    rollcall._NOTICE_S = 1.0
    status = worker.main(path)
    if rank:
        time.sleep(0.5)  # an interpreter with torch in it takes its time
    (path.parent / f"ended-{rank}").write_text(str(time.monotonic_ns()))
    os._exit(status)


def _statuses(job: Job, *do: str, size: int = 2) -> list[int | None]:
    """Exit statuses of the processes of a job that srun started."""
    path = jobs.write(Job(**{**vars(job), "payload": {**job.payload, "settings": {"do": do}}, "processes": size}))
    running = [FORK.Process(target=_work, args=(path, rank)) for rank in range(2)]
    for each in running:
        each.start()
    for each in running:
        each.join(30)
        assert not each.is_alive()
    return [each.exitcode for each in running]


@pytest.mark.parametrize(
    ("do", "statuses", "said"),
    [
        (("work", "work"), [0, 0], "published"),
        (("stop", "stop"), [130, 0], "stopped"),
        (("wait", "kill"), [3, -9], "process 1 of 2, on n2, was lost: it ended without a word"),
        (("wait", "refuse"), [2, 2], "process 1 of 2 failed"),
        (("late stop", "kill"), [3, -9], "process 1 of 2 was lost"),  # srun asks who is left to end
        (("kill", "wait"), [-9, 3], "the first process was lost"),
    ],
)
def test_all_end_and_the_log_says_why(
    job: Job, monkeypatch: pytest.MonkeyPatch, do: tuple[str, str], statuses: list[int], said: str
) -> None:
    _step(monkeypatch)
    assert _statuses(job, *do) == statuses
    assert said in job.log.read_text()
    if do in (("work", "work"), ("stop", "stop")):
        ends = [int((job.scratch / f"ended-{rank}").read_text()) for rank in range(2)]
        assert ends[0] > ends[1], "srun kills those that are left when the first has ended"
    assert (Store(job.places.store).get(job.fingerprint) is not None) is (do == ("work", "work"))


def test_a_job_that_slurm_queued_again_says_so_and_counts(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch)
    assert _statuses(job, "stop", "stop") == [130, 0]
    _step(monkeypatch, restart=1)
    assert _statuses(job, "work", "work") == [0, 0]
    begins = [line for line in job.log.read_text().splitlines() if "begins, fingerprint" in line]
    assert len(begins) == 2 and "restart" not in begins[0] and "restart 1 of SLURM job 12" in begins[1]
    published = Store(job.places.store).get(job.fingerprint)
    assert published is not None and published.provenance["attempts"] == 2


def test_more_tasks_than_can_share_are_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch)
    assert _statuses(job, "work", "work", size=1) == [2, 2]


def test_an_image_that_is_not_the_promised_one_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(expected: str) -> None:
        raise StateError("another image", given=expected)

    monkeypatch.setattr(image, "check", check)
    _step(monkeypatch, **{image.EXPECTED: "cd" * 32})
    assert _statuses(job, "work", "work") == [3, 3]
    assert "cd" * 32 in job.log.read_text() and not (job.scratch / "out").exists()
