"""Provenance: everything that can alter bits, nobody's name, nothing of this machine's folders."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pi_repro.provenance import capture

PAYLOAD = {"environment": "py3.11-abc", "inputs": {"start": "0" * 64}}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with a package and a lock, as the code's workspace."""
    root = tmp_path / "checkout"
    (root / "pi_repro").mkdir(parents=True)
    (root / "pi_repro" / "step.py").write_text("LR = 1\n")
    (root / "requirements.lock").write_text("numpy==0.0.1 \\\n    --hash=sha256:aa\nno-such-package==1.0 \\\n")
    (root / "notes.md").write_text("mine\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
        person = ["-c", "user.name=Ada Example", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", "-C", str(root), *person, *command], check=True)
    return root


def test_a_record_tells_what_ran_and_names_nobody(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capture.IMAGE, "sha256:" + "1" * 64)
    monkeypatch.setenv(capture.DEV, "1")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_USER", "ada")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node-17")
    typed = capture.typed(["/opt/bin/pirepro", "run", str(checkout / "specs" / "x.yaml")], checkout)
    monkeypatch.setenv(capture.COMMAND, typed)
    found = capture.record("draw@x", PAYLOAD, checkout, time.time() - 7.2, processes=4, attempts=3)
    assert found["argv"] == "pirepro run specs/x.yaml" and found["command"] == "pirepro stage draw@x"
    assert found["image"] == "sha256:" + "1" * 64 and found["slurm"] == {"SLURM_JOB_ID": "4711"}
    assert found["dev"] is True and found["attempts"] == 3
    assert found["devices"] == {"kind": "cpu process", "count": 4}
    assert found["device_hours"] == pytest.approx(4 * 7.2 / 3600, abs=2e-4)
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["packages"]["torch"]
    assert found["threads"]["OMP_NUM_THREADS"] == "1" and found["cores"] >= 1
    text = json.dumps(found)
    for secret in (str(checkout), str(Path.home()) + "/", "Ada", "node-17", "/opt", os.fspath(sys.prefix)):
        assert secret not in text
    words = set(text.replace('"', " ").replace(",", " ").split())
    assert not words & {socket.gethostname(), getpass.getuser()}


def test_the_digest_of_a_changed_checkout_follows_the_change(checkout: Path) -> None:
    clean = capture.git_state(checkout)
    assert not clean["dirty"] and "diff" not in clean and len(clean["commit"]) == 40
    (checkout / "notes.md").write_text("no code\n")
    assert capture.git_state(checkout) == clean
    states = []
    for text in ("LR = 2\n", "LR = 3\n"):
        (checkout / "pi_repro" / "step.py").write_text(text)
        states.append(capture.git_state(checkout))
    (checkout / "pi_repro" / "step.py").write_text("LR = 2\n")
    assert capture.git_state(checkout) == states[0] and states[0]["dirty"]
    (checkout / "pi_repro" / "new.py").write_text("import os\n")
    states.append(capture.git_state(checkout))
    assert len({state["diff"] for state in states}) == 3
    assert {state["commit"] for state in states} == {clean["commit"]}


def test_without_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert capture.git_state(tmp_path) == {"commit": None, "dirty": False}


def test_what_is_not_the_locked_version_is_named(checkout: Path) -> None:
    import numpy

    found = capture.differs_from_lock((checkout / "requirements.lock").read_text())
    assert found == {"numpy": numpy.__version__, "no-such-package": None}
    assert capture.differs_from_lock(f"numpy=={numpy.__version__} \\\n") == {}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["/v/bin/pirepro", "run", "specs/demo.yaml", "--parallel", "2"], "pirepro run specs/demo.yaml --parallel 2"),
        (["/v/lib/pi_repro/__main__.py", "stage", "draw@x"], "pirepro stage draw@x"),
        (["pirepro", "run", "/ws/specs/a b.yaml"], "pirepro run 'specs/a b.yaml'"),
        (["pirepro", "evaluate", "--weights=/home/ada/w.safetensors"], "pirepro evaluate --weights=w.safetensors"),
        (["pirepro", "run", "../../ada/x.yaml"], "pirepro run x.yaml"),
    ],
)
def test_a_command_line_keeps_no_folder_of_this_machine(arguments: list[str], wanted: str) -> None:
    assert capture.typed(arguments, Path("/ws")) == wanted


@pytest.mark.parametrize(
    ("report", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (a@b)\nGCC", "580.95.05"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n", "535.129.03"),
    ],
)
def test_the_driver_is_read_from_its_own_report(report: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(report)
    assert capture.driver_version(tmp_path / "version") == version
    assert capture.driver_version(tmp_path / "absent") is None
