"""What a person plausibly gets wrong around a run: one message that says where and what to type, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pi_repro.cli import app
from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.launch import places, record, stages
from pi_repro.plan.graph import build
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]

CONFLICT = "schema: '2.0'\nstages:\n<<<<<<< HEAD\n  a@b:\n    cmd: x\n=======\n  a@b:\n    cmd: y\n>>>>>>> other\n"
LOCKS = {
    "a conflict": CONFLICT,
    "no text": "stages: \udcff",
    "a list": "- a\n",
    "a number of stages": "stages: 5\n",
    "an entry that is none": "stages:\n  a@b: 5\n",
    "deps that are none": "stages:\n  a@b:\n    deps: 5\n",
    "outs without paths": "stages:\n  a@b:\n    outs:\n    - md5: x\n",
    "params that are none": "stages:\n  a@b:\n    params:\n      params.json: 5\n",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "ws"
    shutil.copytree(ROOT / "specs", root / "specs")
    for name in ("dvc.yaml", "dvc.lock", "requirements.lock"):
        shutil.copyfile(ROOT / name, root / name)
    monkeypatch.chdir(root)
    return root


def _refused(*words: str) -> PireproError:
    error = CliRunner().invoke(app, list(words)).exception
    assert isinstance(error, PireproError), repr(error)
    return error


@pytest.mark.parametrize("text", LOCKS.values(), ids=LOCKS)
def test_a_damaged_dvc_lock_is_named(workspace: Path, text: str) -> None:
    (workspace / "dvc.lock").write_text(text, errors="surrogateescape")
    with pytest.raises(StateError, match="damaged") as error:
        record.recorded(places.find())
    assert str(workspace / "dvc.lock") in str(error.value)
    assert "git checkout HEAD dvc.lock" in str(error.value)


def test_a_conflict_in_dvc_lock_stops_every_command_that_reads_it(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(CONFLICT)
    for words in (["status"], ["explain", "report@demo"], ["run", "specs/demo.yaml", "--dry-run"]):
        error = _refused(*words)
        assert isinstance(error, StateError) and f"{workspace / 'dvc.lock'}:" in str(error), words


def test_a_dvc_lock_as_dvc_writes_it_is_read(workspace: Path) -> None:
    assert "report@demo" in record.recorded(places.find())
    (workspace / "dvc.lock").write_text("")
    assert record.recorded(places.find()) == {}


@pytest.mark.parametrize("variable", ["PIREPRO_SCRATCH", "PIREPRO_STORE", "PIREPRO_DOWNLOADS", "PIREPRO_DATA_ROOT"])
def test_a_place_that_is_no_folder_is_named_by_its_variable(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    file = workspace / "file"
    file.touch()
    (workspace / "circle").symlink_to("circle")
    for value in (file, file / "below", workspace / "circle", "~nobody-of-this-name/x"):
        monkeypatch.setenv(variable, str(value))
        error = _refused("status")
        assert error.where == variable and error.given == str(value), value
        assert isinstance(error, RequestError) and f"unset {variable}" in str(error)
    monkeypatch.setenv(variable, str(workspace / "not" / "yet"))
    assert workspace / "not" / "yet" in vars(places.find()).values()


def test_until_names_the_kinds_and_the_nearest(workspace: Path) -> None:
    error = _refused("run", "specs/demo-tiny.yaml", "--dry-run", "--until", "evaluat")
    assert error.where == "--until" and error.given == "evaluat" and error.todo == "did you mean 'evaluate'?"
    assert error.allowed is not None and error.allowed.startswith("fetch, draw, ") and "joint" not in error.allowed
    assert "enable" not in str(_refused("run", "specs/demo-tiny.yaml", "--dry-run", "--until", "zzz"))
    loaded = load(workspace / "specs" / "demo-tiny.yaml")
    part = stages.chosen(build([loaded]), loaded, "draw")
    assert {stage.kind for stage in part.stages} == {"draw"}
