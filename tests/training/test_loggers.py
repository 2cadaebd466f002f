"""Curves beside a training: refused where not installed, never in the outputs, whole after a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi_repro.errors import StateError
from pi_repro.files import path_digest
from pi_repro.spec.experiment import Experiment
from pi_repro.stages import align
from pi_repro.stages.context import StageContext
from pi_repro.training import loggers

from . import samples

ROOT = Path(__file__).parents[2]
CHILD = """
import itertools
import json
import logging
import os
import sys
from pathlib import Path
sys.path.append(os.environ["INSTALLED"])
logging.basicConfig(level=logging.INFO)
from tests.training import conftest, samples
from pi_repro.errors import Interrupted
from pi_repro.stages import pretrain

folder, start, pairs, names, calls = sys.argv[1:]
asked = itertools.count(1)
inputs = {"start": Path(start), "pairs": Path(pairs)}
context = samples.context("pretrain", {"pretrain": samples.pretrain()}, inputs, Path(folder), workers=1,
                          should_stop=lambda: next(asked) == int(calls), loggers=json.loads(names))
try:
    pretrain.run(context)
except Interrupted:
    print("interrupted")
"""

READ = """
import json
import os
import sys
sys.path.append(os.environ["INSTALLED"])
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""


@pytest.fixture
def make(start: Path, triplets: Path, tmp_path: Path) -> Callable[..., StageContext]:
    def context(**changes: Any) -> StageContext:
        inputs = {"start": start, "triplets": triplets}
        return samples.context("initialize", {"align": samples.align()}, inputs, tmp_path / "run", **changes)

    return context


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make a package unimportable, whether this environment has it or not."""
    monkeypatch.delitem(sys.modules, loggers.MODULES[name][0], raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_refused_before_the_first_update(
    name: str, make: Callable[..., StageContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, name)
    context = make(loggers=[name])
    with pytest.raises(StateError, match="not installed") as caught:
        align.run(context)
    assert caught.value.where == "resources.loggers"
    assert "pip install" in str(caught.value) and "[loggers]" in str(caught.value)
    assert not list(context.out.iterdir()) and not (context.scratch / "ledger.jsonl").exists()


def test_the_package_itself_is_imported_only_when_asked_for(make: Callable[..., StageContext]) -> None:
    before = set(sys.modules)
    opened = loggers.Loggers(make())
    opened.add({"update": 1, "loss": 1.0, "lr": 0.1, "grad_norm_bits": "3ff0000000000000"})
    opened.close()
    assert not {name.partition(".")[0] for name in set(sys.modules) - before} & {"tensorboard", "wandb"}


def test_a_folder_left_by_wandb_is_no_package(
    make: Callable[..., StageContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left" / "wandb").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "left")])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(StateError, match="not installed"):
        loggers.Loggers(make(loggers=["wandb"]))
    sys.modules.pop("wandb", None)


def test_curves_lie_beside_all_scratch_or_where_the_user_says(
    make: Callable[..., StageContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = make()
    monkeypatch.delenv(loggers.FOLDER, raising=False)
    # <root>/scratch/<fingerprint>/work, as the worker makes it: `gc` looks at what is in <root>/scratch.
    assert loggers.folder_of(context) == context.scratch.parents[2] / "logs" / "initialize@test-arm-s3"
    monkeypatch.setenv(loggers.FOLDER, str(tmp_path / "curves"))
    assert loggers.folder_of(context) == tmp_path / "curves" / "initialize@test-arm-s3"


def test_loggers_are_resources_and_absent_by_default() -> None:
    spec = yaml.safe_load((ROOT / "specs" / "demo-tiny.yaml").read_text())
    spec["resources"]["loggers"] = ["tensorboard"]
    assert Experiment.model_validate(spec).resources.loggers == ("tensorboard",)
    assert samples.resources().loggers == ()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extra's packages in a folder of their own, to stand last on the path: this environment's own come first."""
    folder = tmp_path_factory.mktemp("loggers")
    uv = Path(sys.executable).with_name("uv")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["loggers"]
    command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package registry can be reached: {done.stderr.strip()[-300:]}")
    return folder


@pytest.mark.full
def test_loggers_alter_no_byte_and_a_resumed_curve_is_whole(
    installed: Path, start: Path, pairs: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "INSTALLED": str(installed),
        loggers.FOLDER: str(tmp_path / "curves"),
    }
    environment.pop("WANDB_MODE", None)

    def run(folder: str, names: list[str], calls: int = 0) -> str:
        arguments = [str(tmp_path / folder), str(start), str(pairs), json.dumps(names), str(calls)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("plain", [])
    assert not (tmp_path / "curves").exists()
    assert "interrupted" in run("logged", ["tensorboard", "wandb"], calls=7)
    said = run("logged", ["tensorboard", "wandb"])
    assert "resumed from update 7" in said and "left out" not in said
    assert path_digest(tmp_path / "logged/out") == path_digest(tmp_path / "plain/out")

    folder = tmp_path / "curves" / "pretrain@test-arm-s3"
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2
    read = subprocess.run(
        [sys.executable, "-c", READ, str(folder)], env=environment, check=True, capture_output=True, text=True
    )
    curves = json.loads(read.stdout.splitlines()[-1])
    header, *rows = (tmp_path / "plain/out/curves.csv").read_text().splitlines()
    columns = {name: [row.split(",")[number] for row in rows] for number, name in enumerate(header.split(","))}
    assert set(curves) == {"loss", "lr", "grad_norm", "logit_scale"}
    for name, points in curves.items():
        assert [step for step, _ in points] == [int(update) for update in columns["update"]]
        assert [value for _, value in points] == pytest.approx([float(cell) for cell in columns[name]], rel=1e-6)
