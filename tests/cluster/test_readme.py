"""README's ten minutes, line by line, on a cluster that it does not know."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

from tests.e2e.conftest import ROOT, Workspace

from .conftest import ClusteredWorkspace

#: A name for the commit that README makes.
PERSON = {f"GIT_{role}_{field}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def lines() -> list[str]:
    """The section's first block of commands, without what stands beside them."""
    section = (ROOT / "README.md").read_text().partition("## On your cluster in ten minutes\n")[2]
    block = re.search(r"(?:^    .+\n)+", section, re.MULTILINE)
    assert block
    return [re.sub(r"\s+# .*", "", line).strip() for line in block[0].splitlines()]


def test_ten_minutes_word_by_word(clustered: ClusteredWorkspace, finished: Workspace, tmp_path: Path) -> None:
    make_env, *commands = lines()
    # The tests' own environment is that one.
    assert make_env == "make env && . .venv/bin/activate"
    assert [command.split()[1] for command in commands] == ["site", "doctor", "add", "site", "run"]
    clustered.run("git", "rm", "-q", "-f", "slurm/sites/testcluster.yaml")
    # Of this machine's images none is proposed: what runs is the environment.
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\nrunroot = "{tmp_path}/run"\n')
    script = tmp_path / "typed.sh"
    script.write_text("\n".join(["set -e", *commands]))
    person, terminal = pty.openpty()
    os.write(person, b"\n" * 40)  # Enter at every question
    done = subprocess.run(
        ["bash", script],
        cwd=clustered.root,
        env={**clustered.environment, **PERSON, "CONTAINERS_STORAGE_CONF": str(storage)},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    os.close(person)
    os.close(terminal)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert clustered.digests() == finished.digests()
    assert len(clustered.jobs()) > 9, "the doctor's and nine stages'"
    assert "Running stage" not in clustered.run("dvc", "repro")
