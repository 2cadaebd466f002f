"""`pirepro package` on a finished experiment: checked, valid, the same twice, and enough to compute it again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pi_repro.launch import archive

from ..launch.crate_validator import issues
from .conftest import Workspace, commit

pytestmark = pytest.mark.full

SPEC = "specs/demo-tiny.yaml"


def _unpacked(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as packed:
        packed.extractall(folder)
    return folder


def test_a_crate_is_valid_checked_and_the_same_twice(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("one", "two"):
        workspace.run("pirepro", "package", SPEC, str(tmp_path / f"{name}.zip"))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    folder = _unpacked(tmp_path / "one.zip", tmp_path / "crate")
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    digests = {row["name"]: row["sha256"] for row in graph if "sha256" in row}
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == set(sums) | {"SHA256SUMS", "ro-crate-metadata.json"}
    for name, digest in sums.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    assert digests["dvc.lock"] == sums["dvc.lock"]
    made = workspace.digests()
    for name in files:
        if name.startswith(("results/", "reports/", "artifacts/", "data/")):
            assert sums[name] == made[name]
    assert not [name for name in files if name.startswith("data/") and not name.endswith("/card.json")]
    assert not [name for name in files if "/weights/" in name or "/states/" in name]
    for path in (folder / "manifests").iterdir():
        listed, record = json.loads(path.read_text()), json.loads((folder / "provenance" / path.name).read_text())
        assert (listed["digest"], listed["fingerprint"]) == (record["outputs"], record["fingerprint"])
    # The validator looks at every file: of a crate without one it says that, and nothing else.
    files["params.json"].unlink()
    archive.write_zip(folder, tmp_path / "less.zip")
    (issue,) = issues(tmp_path / "less.zip", tmp_path)
    assert "params.json" in issue
    workspace.run("pirepro", "package", SPEC, str(tmp_path / "whole"), "--weights")
    whole = {path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.safetensors")}
    assert {name for name in made if "/weights/" in name} <= whole


def test_the_code_in_a_crate_computes_the_same_identities(workspace: Workspace, tmp_path: Path) -> None:
    """Unpacked without git's history: every fingerprint is the published one, so the store has every stage."""
    workspace.run("pirepro", "package", SPEC, str(tmp_path / "crate"))
    (code,) = (tmp_path / "crate" / "code").iterdir()
    root = _unpacked(code, tmp_path / "code")
    store = {**workspace.environment, "PIREPRO_STORE": str(workspace.root / ".pirepro" / "store")}
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    command = [sys.executable, "-m", "pi_repro", "run", SPEC]
    done = subprocess.run(command, cwd=root, env=store, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published already" in done.stderr and "started" not in done.stderr
    for name in ("results", "reports"):
        subprocess.run(["diff", "-r", str(tmp_path / "crate" / name), str(root / name)], check=True)


def test_an_anonymous_crate_names_nobody_or_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("dvc", "remote", "add", "-d", "lab", "ssh://shelf.example.org/srv")
    commit(workspace, "a remote")
    citation = workspace.root / "CITATION.cff"
    citation.write_text(citation.read_text() + "repository-code: https://shelf.example.org/pi_repro\n")
    # The code that ran is what is packed: compute one stage with the commit that has the remote.
    workspace.run("pirepro", "run", SPEC, "--until", "draw", "--force")
    workspace.run("pirepro", "run", SPEC)
    workspace.run("pirepro", "package", SPEC, str(tmp_path / "crate"), "--anonymous")
    ids = workspace.run("git", "rev-list", "--all").split()
    secrets = [*ids, "t@example.org", str(workspace.root), "shelf.example.org", "The pi_repro authors"]
    for path in (tmp_path / "crate").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [secret for secret in secrets if secret.encode() in content], path
    archives = list((tmp_path / "crate" / "code").glob("*.zip"))
    assert len(archives) == 2  # draw ran with the later commit
    for packed in archives:
        with zipfile.ZipFile(packed) as content:
            assert "remote" not in content.read(".dvc/config").decode()
    record = json.loads((tmp_path / "crate" / "provenance" / "report@demo-tiny.json").read_text())
    assert record["git"]["commit"] == "commit-1" and record["slurm"] == {}
    workspace.edit("demo-tiny.yaml", "# The demo's shape", "# t@example.org: the demo's shape")
    commit(workspace, "signed")
    output = workspace.run("pirepro", "package", SPEC, str(tmp_path / "other"), "--anonymous", status=3)
    assert f"{SPEC}:1" in output and "t@example.org" in output and not (tmp_path / "other").exists()


def test_damaged_or_missing_is_refused_by_name(workspace: Workspace, tmp_path: Path) -> None:
    victim = next((workspace.root / ".pirepro" / "store").glob("*/out/curves.csv"))
    victim.write_text(victim.read_text().replace("0", "1", 1))
    output = workspace.run("pirepro", "package", SPEC, str(tmp_path / "x.zip"), status=3)
    assert "curves.csv" in output and "damaged" in output
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5, 10]", "recall_k: [1, 5]")
    output = workspace.run("pirepro", "package", SPEC, str(tmp_path / "x.zip"), status=3)
    assert "evaluate@demo-tiny-pi-s0" in output and f"pirepro run {SPEC}" in output
    assert not list(tmp_path.glob("*.zip*")) and not list(tmp_path.glob(".x*"))
