"""Killed at any moment, resumed: the same bytes in every output."""

from __future__ import annotations

import logging
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import digest_of, path_digest, read_json, write_json
from pi_repro.stages import pretrain
from pi_repro.stages.context import StageContext

from . import samples

TOTAL = 18
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for a kill: nothing of the package catches it."""


@pytest.fixture(scope="module")
def make(start: Path, pairs: Path) -> Callable[..., StageContext]:
    def context(folder: Path, **more: object) -> StageContext:
        inputs = {"start": start, "pairs": pairs}
        return samples.context("pretrain", {"pretrain": samples.pretrain()}, inputs, folder, **more)  # type: ignore[arg-type]

    return context


@pytest.fixture(scope="module")
def whole(make: Callable[..., StageContext], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the outputs of a run that nothing disturbed."""
    context = make(tmp_path_factory.mktemp("whole"), checkpoint_every=1000)
    pretrain.run(context)
    return path_digest(context.out)


def after(calls: int, error: BaseException | None = None) -> Callable[[], bool]:
    """A should_stop that says yes, or raises, at the given call."""
    left = iter(range(calls, -1, -1))

    def stop() -> bool:
        if next(left) > 1:
            return False
        if error is not None:
            raise error
        return True

    return stop


@pytest.mark.parametrize("update", [1, 4, 6, 7, 11, 12, 17, 18])
def test_a_kill_at_any_update_alters_no_byte(
    update: int, make: Callable[..., StageContext], whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        pretrain.run(make(tmp_path, should_stop=after(update, Killed())))
    caplog.set_level(logging.INFO)
    context = make(tmp_path)
    pretrain.run(context)
    assert path_digest(context.out) == whole
    said = [record.message for record in caplog.records if "resumed" in record.message]
    # Checkpoints: every 4 updates, at kept epochs (12, 18) and published states (7). The kill came after
    # the update was done and kept, and before its interval checkpoint.
    done = max((k for k in (4, 7, 8, 12, 16, 18) if k < update or (k == update and k in (7, 12, 18))), default=0)
    assert said == ([f"resumed from update {done}"] if done else [])


def test_asked_to_stop_it_saves_where_it_is(
    make: Callable[..., StageContext], whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for calls in (5, 4):
        with pytest.raises(Interrupted, match=f"update {5 if calls == 5 else 9}"):
            pretrain.run(make(tmp_path, should_stop=after(calls), checkpoint_every=1000))
    caplog.set_level(logging.INFO)
    context = make(tmp_path)
    pretrain.run(context)
    assert "resumed from update 9" in caplog.text
    assert path_digest(context.out) == whole


def killed_at(make: Callable[..., StageContext], folder: Path, update: int) -> Path:
    """The checkpoints of a run killed there."""
    with pytest.raises(Killed):
        pretrain.run(make(folder, should_stop=after(update, Killed())))
    return folder / "scratch/checkpoints"


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("way", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(
    file: str,
    way: str,
    make: Callable[..., StageContext],
    whole: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoints = killed_at(make, tmp_path, 10)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["update-000007", "update-000008"]
    victim = checkpoints / "update-000008" / file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if way == "delete":
        victim.unlink()
    else:
        victim.write_bytes(content if way == "flip" else content[: len(content) // 2])
    caplog.set_level(logging.INFO)
    context = make(tmp_path)
    pretrain.run(context)
    assert "update-000008 refused" in caplog.text and file in caplog.text
    assert "resumed from update 7" in caplog.text
    assert path_digest(context.out) == whole


@pytest.mark.parametrize("victim", ["ledger.jsonl", "kept/weights/epoch-0000.safetensors", "kept/states/update-000007"])
def test_damage_beside_the_checkpoints_begins_again(
    victim: str, make: Callable[..., StageContext], whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at(make, tmp_path, 10)
    path = tmp_path / "scratch" / victim
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(b"x" + path.read_bytes()[1:])
    context = make(tmp_path)
    pretrain.run(context)
    assert "refused" in caplog.text
    assert path_digest(context.out) == whole


def test_another_device_model_is_refused(make: Callable[..., StageContext], tmp_path: Path) -> None:
    checkpoints = killed_at(make, tmp_path, 10)
    for folder in checkpoints.iterdir():
        content = read_json(folder / "state.json")
        content["state"]["notes"]["device"] = "Another CPU"
        write_json(folder / "state.json", {**content, "sha256": digest_of(content["state"])})
    with pytest.raises(StateError, match="device model") as error:
        pretrain.run(make(tmp_path))
    assert "Another CPU" in str(error.value)


CHILD = """
import logging
import sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from tests.training import conftest, samples
from pi_repro.stages import pretrain

def progress(done, total, unit, note=""):
    Path(sys.argv[2]).write_text(str(done))

import dataclasses
inputs = {"start": Path(sys.argv[3]), "pairs": Path(sys.argv[4])}
context = samples.context("pretrain", {"pretrain": samples.pretrain()}, inputs, Path(sys.argv[1]), workers=1,
                          checkpoint_every=2)
pretrain.run(dataclasses.replace(context, progress=progress))
"""


def test_sigkill_of_a_process_at_random_updates(start: Path, pairs: Path, whole: str, tmp_path: Path) -> None:
    moments = random.Random(5)
    at = tmp_path / "done.txt"
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(at), str(start), str(pairs)]
    kills = 0
    for target in (moments.randint(3, 8), moments.randint(10, 16)):
        with subprocess.Popen(command, cwd=ROOT) as child:
            while child.poll() is None and not (at.exists() and int(at.read_text() or 0) >= target):
                time.sleep(0.001)
            kills += child.poll() is None
            child.kill()
    assert kills
    last = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(re.findall(r"resumed from update (\d+)", last.stderr)[0]) >= 8
    assert path_digest(tmp_path / "run/out") == whole
