"""Attempts: whoever makes number n submits it; who died while doing so is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pi_repro.launch.slurm import attempts


def _maker(scratch: Path, **changed: Any) -> attempts.Attempt:
    path = scratch / "attempts" / "0001.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "maker": {**content["maker"], **changed}}))
    return attempts.read(scratch, 1)


def test_one_of_many_makes_a_number(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: attempts.make(tmp_path, 1, "asked", "p"), range(32)))
    assert sum(attempt is not None for attempt in made) == 1
    attempts.record(tmp_path, 1, job="17")
    assert attempts.make(tmp_path, 2, "node", "p", ["n1"])
    first, second = attempts.read(tmp_path, 1), attempts.newest(tmp_path)
    assert first.job == "17"
    assert second and (second.number, second.excluded, second.job, second.refused) == (2, ("n1",), None, None)


def test_a_maker_that_is_gone_is_known(tmp_path: Path) -> None:
    assert attempts.newest(tmp_path) is None
    attempts.make(tmp_path, 1, "asked", "p")
    assert attempts.is_mine(attempts.read(tmp_path, 1))
    assert attempts.maker_lives(attempts.read(tmp_path, 1)) is True
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has waited for it: still a number
    assert attempts.maker_lives(_maker(tmp_path, pid=child.pid, began="1")) is False
    child.wait()
    assert attempts.maker_lives(_maker(tmp_path, pid=os.getpid(), began="1")) is False, "another process of that number"
    assert attempts.maker_lives(_maker(tmp_path, boot="earlier")) is None, "or a machine of the same name"
    assert attempts.maker_lives(_maker(tmp_path, host="elsewhere")) is None
    (tmp_path / "attempts" / "0001.json").write_text('{"mak')  # just being written
    assert attempts.maker_lives(attempts.read(tmp_path, 1)) is None


def test_only_failures_in_a_row_at_the_same_point_are_alike(tmp_path: Path) -> None:
    for number, (because, progress) in enumerate([("node", "a"), ("asked", "a"), ("node", "b"), ("node", "b")], 1):
        assert attempts.make(tmp_path, number, because, progress)
    for number, refused in ((5, "no such node"), (6, "")):  # neither became a job
        assert attempts.make(tmp_path, number, "node", "b")
        attempts.record(tmp_path, number, refused=refused)
    assert [attempts.alike(tmp_path, "node", "b"), attempts.alike(tmp_path, "node", "a")] == [2, 0]
