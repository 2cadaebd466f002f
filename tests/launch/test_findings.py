"""The doctor's judgement of what a job saw on a site: each thing that can be wrong is told, and nothing else."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import pytest

from pi_repro.launch.container import Image
from pi_repro.launch.slurm.findings import Trip, checks
from pi_repro.launch.slurm.queue import Row
from pi_repro.spec.site import Site

SITE = Site.model_validate(
    {"name": "a", "interface": "ib0", "runtime": {"kind": "apptainer", "image": "/i.sif"}, "minutes": {}}
)
IMAGE = Image("sha256:" + "0" * 64, "1" * 64, "sif", "2" * 64, "/i.sif")
ANSWER: dict[str, Any] = {
    "token": "t",
    "heard": {"time": 1000.2, "received": 1000.4},
    "clock": {"sent": 1000.0, "login": 1000.2, "received": 1000.4},
    "lock": "seen",
    "folders": {"scratch": "writable", "data_root": "writable"},
    "host": "h",
    "interfaces": ["lo", "ib0"],
    "node": "n1",
    "python": platform.python_version(),
    "executable": "/opt/venv/bin/python",
    "torch": {"version": "2", "devices": ["A100"]},
    "cuda_visible": "0",
    "devices": ["A100, 550"],
    "image": {"digest": IMAGE.digest, "problem": None},
}
TRIP = Trip("7", True, 3.0, True, ANSWER, Row("7", "x", "COMPLETED"), (), True, ("GPU 0: A100",), True)

#: what differs in the answer -> (the check that is not good, whether it is an error, what it says).
WRONG: list[tuple[dict[str, Any], str, bool, str]] = [
    ({"image": {"digest": IMAGE.digest, "problem": "a file differs"}}, "image", True, "a file differs"),
    ({"image": {"digest": None, "problem": None}}, "image", True, "not told"),
    ({"python": "3.9.2"}, "Python", True, "3.9.2"),
    ({"torch": {"problem": "no module"}, "cuda_visible": "0"}, "torch", True, "no module"),
    ({"torch": {"version": "2", "devices": []}}, "GPU used", True, "torch in the job sees none"),
    ({"cuda_visible": None}, "GPU given", False, "CUDA_VISIBLE_DEVICES"),
    ({"heard": None, "clock": None}, "shared files", True, "does not see"),
    ({"folders": {"store": "missing"}}, "folder store", True, "missing"),
    ({"folders": {"data_root": "read-only"}}, "folder data_root", False, "read-only"),
    ({"folders": {"data_root": "missing"}}, "folder data_root", True, "missing"),
    ({"lock": "not seen"}, "file locks", True, "each host sees its own"),
    ({"lock": "No locks available"}, "file locks", False, "No locks available"),
    ({"clock": {"sent": 1030.0, "login": 1000.2, "received": 1030.4}}, "clock", False, "ahead by 30 s"),
    ({"clock": {"sent": 0.0, "login": 1000.2, "received": 0.4}}, "clock", True, "behind by 1000 s"),
    ({"interfaces": ["lo"]}, "interface", True, "the node has lo"),
]


def test_where_all_is_well_nothing_is_wrong() -> None:
    assert all(check.good for check in checks(TRIP, SITE, IMAGE))
    # Of several interfaces a host needs one.
    several = SITE.model_copy(update={"interface": "eth9, ib0"})
    assert all(check.good for check in checks(TRIP, several, IMAGE))


@pytest.mark.parametrize(("change", "what", "needed", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_each_fault_is_told(change: dict[str, Any], what: str, needed: bool, said: str) -> None:
    bad = [check for check in checks(replace(TRIP, answer={**ANSWER, **change}), SITE, IMAGE) if not check.good]
    check = next(check for check in bad if check.what == what)
    assert check.needed is needed and said in check.found and check.todo
    # What follows from a fault may be told beside it, but no second error.
    assert [other.what for other in bad if other.needed and other.what not in (what, "GPU used")] == []


def test_a_slow_file_system_is_no_wrong_clock() -> None:
    late = {"sent": 1000.0, "login": 1000.2, "received": 1060.0}
    clock = next(c for c in checks(replace(TRIP, answer={**ANSWER, "clock": late}), SITE, IMAGE) if c.what == "clock")
    assert clock.good


def test_a_job_without_answer_is_told_with_what_it_said() -> None:
    said = ("2026-01-01 00:00:00 E slurm job 7: module load x failed", "== attempt 1, restart 0, on n1 ==")
    (check,) = checks(replace(TRIP, answer=None, said=said, row=None), SITE, IMAGE)
    assert "module load x failed" in check.found and "attempt" not in check.found
    waiting = replace(TRIP, answer=None, ended=False, waited_s=None, row=Row("7", "x", "PENDING", "Priority"))
    (check,) = checks(waiting, SITE, IMAGE)
    assert "did not begin" in check.found and "Priority" in check.found


@pytest.mark.parametrize(("says", "answers"), [(True, False), (False, True)])
def test_accounting_that_is_not_as_the_site_says_is_a_note(says: bool, answers: bool) -> None:
    site = SITE.model_copy(update={"accounting": says})
    bad = [check for check in checks(replace(TRIP, accounted=answers), site, IMAGE) if not check.good]
    assert [check.what for check in bad] == ["sacct"] and not bad[0].needed
