"""verify at work: the same bits again, a planted nondeterminism found, a stretch in a fresh clone."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Workspace, commit

pytestmark = pytest.mark.full

STAGE = "pretrain@demo-tiny-random-s0"
#: What a stretch needs: the training's own output, and its two inputs.
OUTS = "artifacts/demo-tiny/draw-s0 data/tiny-pairs artifacts/demo-tiny/random-s0/pretrain"
TENSOR = "visual.transformer.resblocks.1.mlp.c_fc.weight"

#: Loaded by every Python that has its folder on PYTHONPATH; it changes a module when that is imported.
SITECUSTOMIZE = """
import importlib.abc, importlib.util, sys

class Planter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "pi_repro.training.optimizer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), plant(module))
        return spec

def flip(tensor):
    import torch
    tensor.detach().view(-1).view(torch.int32)[0] ^= 1

def plant(module):
    calls = {"step": 0, "norm": 0}
    step, norm = module.Optimizer.step, module.norm

    def planted_step(self, gradient, lr):
        calls["step"] += 1
        step(self, gradient, lr)
        if PLACE == "weight" and calls["step"] == CALL:
            flip(self.parameters[TENSOR])

    def planted_norm(gradient):
        calls["norm"] += 1
        if PLACE == "gradient" and calls["norm"] == CALL:
            gradient[TENSOR].detach().mul_(1.25)
        return norm(gradient)

    module.Optimizer.step, module.norm = planted_step, planted_norm

sys.meta_path.insert(0, Planter())
"""


def _planted(monkeypatch: pytest.MonkeyPatch, folder: Path, place: str, call: int) -> None:
    """From now on the call-th update of a training goes wrong: a weight after it, or a gradient in it."""
    folder.mkdir()
    head = f"PLACE, CALL, TENSOR = {place!r}, {call}, {TENSOR!r}\n"
    (folder / "sitecustomize.py").write_text(head + SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_stage_computed_again_is_identical_and_leaves_nothing(workspace: Workspace) -> None:
    scratch, store = workspace.root / ".pirepro/scratch", workspace.root / ".pirepro/store"
    before = workspace.digests(), sorted(scratch.iterdir()), sorted(store.iterdir())
    output = workspace.run("pirepro", "verify", STAGE)
    assert re.search(rf"started\s+{STAGE}", output) and f"{STAGE}: identical" in output
    assert (workspace.digests(), sorted(scratch.iterdir()), sorted(store.iterdir())) == before
    for stage in ("initialize@demo-tiny-pi-s0", "evaluate@demo-tiny-pi-s0", "report@demo-tiny"):
        assert f"{stage}: identical" in workspace.run("pirepro", "verify", stage)
    assert sorted(scratch.iterdir()) == before[1]


@pytest.mark.parametrize(
    "place, call, options, update, cause",
    [
        ("weight", 6, (), 6, "the optimizer's step"),
        ("weight", 3, ("--from-step", "4", "--steps", "4"), 7, "the optimizer's step"),
        ("gradient", 5, (), 5, "the backward pass"),
    ],
)
def test_a_planted_nondeterminism_is_found_at_its_update_and_tensor(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    call: int,
    options: tuple[str, ...],
    update: int,
    cause: str,
) -> None:
    """One bit of one weight after an update; one gradient between backward pass and step."""
    before = workspace.digests()
    _planted(monkeypatch, tmp_path / "planted", place, call)
    kept = tmp_path / "kept"
    output = workspace.run("pirepro", "verify", STAGE, *options, "--keep", str(kept), status=3)
    assert f"{STAGE}: different bits" in output
    assert f"first difference: update {update}\n" in output
    assert cause in output
    assert re.search(rf"tensors: 1 of \d+ differ after it: {re.escape(TENSOR)}\n", output)
    # Results were committed after the run, so the commit differs, and nothing else.
    assert re.findall(r"^    (\S+)  .* -> ", output, flags=re.MULTILINE) == ["git.commit"]
    assert f"--from-step {4 if update > 4 else 0} --steps" in output
    assert workspace.digests() == before
    (rerun,) = (kept / "store").glob("*/out/curves.csv") if not options else [None]
    if rerun:
        output = workspace.run("pirepro", "diff", STAGE, str(rerun.parent), status=3)
        assert f"first difference: update {update}\n" in output and TENSOR in output


def test_diff_says_what_two_arms_do_differently(workspace: Workspace) -> None:
    output = workspace.run("pirepro", "diff", STAGE, "pretrain@demo-tiny-pi-s0", status=3)
    assert "first difference: update 1\n" in output and "the forward pass" in output
    assert "inputs.start" in output and "inputs.pairs" not in output
    assert "identical" in workspace.run("pirepro", "diff", STAGE, "artifacts/demo-tiny/random-s0/pretrain")


def test_a_stretch_is_verified_in_a_fresh_clone_after_a_pull(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("dvc", "remote", "add", "-d", "-f", "shelf", str(tmp_path / "shelf"))
    workspace.run("dvc", "push")
    commit(workspace, "remote")
    subprocess.run(["git", "clone", "-q", str(workspace.root), str(tmp_path / "clone")], check=True)
    clone = Workspace(tmp_path / "clone")
    stretch = ("pirepro", "verify", STAGE, "--from-step", "4", "--steps", "3")
    assert f"dvc pull {OUTS}" in clone.run(*stretch, status=3)
    clone.run("dvc", "pull", *OUTS.split())
    output = clone.run(*stretch)
    assert f"{STAGE}: identical" in output and "updates 5 to 7" in output
    assert re.findall(r"started\s+(\S+)", output) == [STAGE]
    # Nothing was taken into the store, and git sees no change.
    assert not (clone.root / ".pirepro" / "store").exists()
    assert clone.run("git", "status", "--porcelain") == ""


def test_a_verification_that_was_stopped_goes_on_where_it_is_told_to(workspace: Workspace, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = workspace.start("pirepro", "verify", STAGE, log=log)
    while not list((workspace.root / ".pirepro/scratch").glob("verify-*/scratch/*/work/ledger.jsonl")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    (clean,) = (workspace.root / ".pirepro/scratch").glob("verify-*")
    assert f"--keep {clean}" in log.read_text()
    assert f"{STAGE}: identical" in workspace.run("pirepro", "verify", STAGE, "--keep", str(clean))
    (log,) = clean.glob("scratch/*/log.txt")
    assert "resumed from update" in log.read_text()


def test_requests_that_cannot_be_met_end_with_2(workspace: Workspace) -> None:
    output = workspace.run("pirepro", "verify", STAGE, "--from-step", "7", "--steps", "1", status=2)
    assert "given:   7" in output and "allowed: 0 or 4" in output
    output = workspace.run("pirepro", "verify", STAGE, "--from-step", "4", "--steps", "5", status=2)
    assert "allowed: 1 to 4 from step 4, of 8 in all" in output
    output = workspace.run("pirepro", "verify", "report@demo-tiny", "--steps", "1", status=2)
    assert STAGE in output
    assert "neither a stage nor a folder" in workspace.run("pirepro", "diff", STAGE, "nowhere", status=2)
