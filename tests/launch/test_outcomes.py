"""`pirepro compare` and `pirepro verify --statistical` in a workspace with results whose truth is known."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pi_repro.cli import app
from pi_repro.errors import PireproError
from tests.analysis import synthetic_results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with three seeds, and a second experiment with one arm and two seeds of the same runs."""
    root = tmp_path_factory.mktemp("outcomes")
    (root / "specs").mkdir()
    for name in ("data", "models"):
        shutil.copytree(ROOT / "specs" / name, root / "specs" / name)
    demo = (ROOT / "specs" / "demo.yaml").read_text(encoding="utf-8").replace("seeds: [0, 1]", "seeds: [0, 1, 2]")
    (root / "specs" / "demo.yaml").write_text(demo)
    (root / "specs" / "again.yaml").write_text(
        demo.replace("name: demo\n", "name: again\n").replace("[0, 1, 2]", "[1, 2]")
    )
    (root / "specs" / "enabled.yaml").write_text("experiments:\n  - specs/demo.yaml\n  - specs/again.yaml\n")
    shutil.copy(ROOT / "dvc.yaml", root)
    shutil.copy(ROOT / "requirements.lock", root)
    epochs = (0, 16)
    synthetic_results.write_suite(root / "data" / "demo-suite")
    synthetic_results.write_results(root / "results" / "demo", epochs=epochs)
    synthetic_results.write_results(root / "results" / "again", seeds=(1, 2), epochs=epochs)
    return root


def pirepro(workspace: Path, *arguments: str, status: int = 0) -> str:
    """What a command says; run in this process, for a process of its own takes seconds to import what it needs."""
    with contextlib.chdir(workspace):
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    if isinstance(done.exception, PireproError):
        assert done.exception.exit_status == status, done.exception
        return f"{done.output}{done.exception}"
    assert done.exit_code == status and isinstance(done.exception, SystemExit | None), (done.output, done.exception)
    return done.output


def test_two_arms(workspace: Path) -> None:
    out = pirepro(workspace, "compare", "demo/concept", "demo/random")
    assert "demo/concept minus demo/random, last checkpoint, seeds 0, 1, 2" in out
    assert "Hand-written digits (at chance)" in out and "mean, all counted sets" in out
    assert "wins: " in out and "gated: " in out and "image→text R@1" in out


def test_two_experiments_arm_by_arm(workspace: Path) -> None:
    out = pirepro(workspace, "compare", "demo", "again")
    for arm in synthetic_results.ARMS:
        assert f"demo/{arm} minus again/{arm}, last checkpoint, seeds 1, 2" in out
    assert "wins: 0 of 9 counted sets, 0 lost, 9 tied" in out, "the same runs"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compare", "demo/p", "demo/random"), "did you mean 'demo/pi'"),
        (("compare", "demoo", "again"), "did you mean 'demo'"),
        (("compare", "pi", "demo/random"), "demo/pi, again/pi"),
        (("compare", "demo/pi", "again"), "an arm is compared with an arm"),
        (("compare", "demo", "demo"), "name its arms"),
        (("verify", "demo", "--statistical"), "--reference or --record"),
        (("verify", "demo", "--reference", "x.json"), "--reference or --record"),
        (("verify", "demo", "--statistical", "--reference", "x.json"), "no such file"),
        (("verify", "demo", "--statistical", "--reference", "x.json", "--steps", "3"), "computes again"),
        (("verify", "demo", "--statistical", "--reference", "x.json", "--record", "y.json"), "either"),
        (("verify", "pretrain@demo-pi-s0", "--statistical", "--reference", "x.json"), "evaluate@demo-pi-s0"),
        (("verify", "demmo", "--statistical", "--reference", "x.json"), "did you mean 'demo'"),
        (("verify", "evaluate@demo-pi-s0", "--statistical", "--record", "x.json"), "all runs of an experiment"),
    ],
)
def test_requests_that_are_wrong(workspace: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in pirepro(workspace, *arguments, status=2)


def test_references(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    assert f"wrote {file}" in pirepro(workspace, "verify", "demo", "--statistical", "--record", str(file))
    same = pirepro(workspace, "verify", "demo", "--statistical", "--reference", str(file))
    assert "demo: statistically the same" in same and "equivalent" in same
    one = pirepro(workspace, "verify", "evaluate@demo-pi-s1", "--statistical", "--reference", str(file))
    assert "demo: one run, inside" in one
    assert "too few seeds" in pirepro(workspace, "verify", "again", "--statistical", "--record", "x.json", status=3)
    content = json.loads(file.read_text())
    for row in content["arms"]["pi"].values():
        row["values"] = [value + 0.5 for value in row["values"]]
    file.write_text(json.dumps(content))
    far = pirepro(workspace, "verify", "report@demo", "--statistical", "--reference", str(file), status=3)
    assert "demo: different" in far
    assert "outside" in pirepro(
        workspace, "verify", "evaluate@demo-pi-s1", "--statistical", "--reference", str(file), status=3
    )


def test_missing_results(workspace: Path, tmp_path: Path) -> None:
    for name in ("specs", "data", "dvc.yaml", "requirements.lock"):
        (tmp_path / name).symlink_to(workspace / name)
    assert "results are missing" in pirepro(tmp_path, "compare", "demo/pi", "demo/random", status=3)
