"""Every arm and switch from the command line to the report, with a check of what makes it that arm."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from .conftest import Workspace

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

Tensors = dict[str, np.ndarray]


class Arms:
    """What the arms of a run left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def told(self, arm: str, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{arm}-s0" / stage / "training.json").read_text())
        return found

    def weights(self, arm: str, stage: str, *, epoch: int | None = None) -> Tensors:
        told = self.told(arm, stage)
        file = told["last"] if epoch is None else f"weights/epoch-{epoch:04d}.safetensors"
        return load_file(self.folder / f"{arm}-s0" / stage / file)

    @property
    def drawn(self) -> Tensors:
        return load_file(self.folder / "draw-s0/weights/epoch-0000.safetensors")


def changed(before: Tensors, after: Tensors) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def is_image(name: str) -> bool:
    return name.startswith("visual.")


Check = Callable[[Workspace, Arms], None]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@check
def every_arm_is_judged_and_reported(ran: Workspace, _: Arms) -> None:
    spec = ran.run("pirepro", "validate", "specs/demo-tiny-controls.yaml")
    names = spec.split("arms:")[1].split("(baseline")[0].replace("\n", " ").split(",")
    assert len(names) == 19
    for name in names:
        assert (ran.root / "results/demo-tiny-controls" / f"{name.strip()}-s0" / "evaluation.json").is_file(), name
    assert (ran.root / "reports/demo-tiny-controls/index.html").is_file()
    assert "up to date" in ran.run("dvc", "status")


@check
def all_arms_of_a_seed_start_from_one_draw(_: Workspace, arms: Arms) -> None:
    drawn = arms.drawn
    for arm, stage in (("random", "pretrain"), ("joint", "joint"), ("longer", "pretrain"), ("shuffled", "initialize")):
        assert not changed(drawn, arms.weights(arm, stage, epoch=0)), arm
    for arm in ("pi", "shuffled", "pixels", "blind", "fractals", "concept", "frozen-pi", "fraction-p10"):
        learned = arms.weights(arm, "initialize")
        assert changed(drawn, learned) and all(map(is_image, changed(drawn, learned))), arm
        assert not changed(learned, arms.weights(arm, "pretrain", epoch=0)), arm


@check
def each_arm_sees_the_data_it_names_and_learns_other_weights_from_it(_: Workspace, arms: Arms) -> None:
    sources = {"pi": "tiny-triplets", "blind": "tiny-triplets", "fractals": "tiny-fractals", "concept": "tiny-concepts"}
    assert {arm: arms.told(arm, "initialize")["data"]["name"] for arm in sources} == sources
    learned = [arms.weights(arm, "initialize") for arm in (*sources, "shuffled", "pixels", "flipped-p25")]
    assert all(changed(one, other) for one, other in itertools.combinations(learned, 2))
    # One stage 1 for both: whatever differs between them afterwards is the frozen tower's doing.
    assert not changed(learned[0], arms.weights("frozen-pi", "initialize"))


@check
def labels_are_what_each_arm_says(_: Workspace, arms: Arms) -> None:
    labels = {arm: arms.told(arm, "initialize")["data"]["labels"] for arm in ("shuffled", "pixels", "flipped-p25")}
    count = labels["shuffled"]["of"]
    assert abs(labels["shuffled"]["agree_with_votes"] / count - 0.5) < 4 * 0.5 / count**0.5
    # Half of these triplets go against pixel error, by construction.
    assert labels["pixels"]["agree_with_votes"] == count / 2
    assert labels["flipped-p25"]["agree_with_votes"] == count - round(count / 4)
    assert "labels" not in arms.told("pi", "initialize")["data"]
    assert arms.told("fraction-p10", "initialize")["data"]["drawn"] == round(count / 10)


@check
def compute_matched_arms_make_equally_many_updates(_: Workspace, arms: Arms) -> None:
    pi = arms.told("pi", "initialize")["updates"], arms.told("pi", "pretrain")["updates"]
    for arm in ("shuffled", "pixels", "blind", "fractals", "concept", "flipped-p25", "fraction-p10"):
        assert (arms.told(arm, "initialize")["updates"], arms.told(arm, "pretrain")["updates"]) == pi, arm
    assert arms.told("longer", "pretrain")["updates"] == sum(pi)
    assert arms.told("length-e1", "initialize")["updates"] == pi[0] / 2
    assert arms.told("joint", "joint")["updates"] == pi[1]


@check
def a_frozen_text_tower_does_not_move_a_bit(_: Workspace, arms: Arms) -> None:
    for arm in ("frozen", "frozen-pi"):
        moved = changed(arms.drawn, arms.weights(arm, "pretrain"))
        assert {name for name in moved if not is_image(name)} == {"logit_scale"}, arm
    assert any(not is_image(name) for name in changed(arms.drawn, arms.weights("pi", "pretrain")) - {"logit_scale"})


@check
def post_hoc_arms_change_what_they_adapt_alone(_: Workspace, arms: Arms) -> None:
    before = arms.weights("random", "pretrain")
    qkv = {
        f"visual.transformer.resblocks.{block}.attn.in_proj_{kind}" for block in (0, 1) for kind in ("weight", "bias")
    }
    matrices = {name for name in qkv if name.endswith("weight")}
    assert changed(before, arms.weights("posthoc", "finetune")) == qkv
    assert changed(before, arms.weights("grid-lora-lr1e-3", "finetune")) == matrices
    assert changed(before, arms.weights("grid-full-lr1e-3", "finetune")) == set(filter(is_image, before))
    assert changed(arms.weights("pi", "pretrain"), arms.weights("posthoc-from-pi", "finetune")) == qkv


@check
def captions_are_swapped_for_exactly_a_share_of_the_pairs(_: Workspace, arms: Arms) -> None:
    about = arms.told("noise-random-p25", "pretrain")["data"]
    assert about["captions_of_others"] == round(about["count"] / 4)


@check
def the_joint_arm_lowers_both_losses(_: Workspace, arms: Arms) -> None:
    file = arms.folder / "joint-s0/joint/ledger.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in (lines[0], lines[-1]):
        assert line["loss"] == line["loss_clip"] + line["loss_auxiliary"]
    assert lines[-1]["loss_clip"] < lines[0]["loss_clip"]


@check
def any_stage_of_the_new_arms_verifies(ran: Workspace, _: Arms) -> None:
    assert "identical" in ran.run("pirepro", "verify", "joint@demo-tiny-controls-joint-s0", "--processes", "2")


@check
def the_lineage_s_switches_run_and_its_weights_are_never_exported(ran: Workspace, _: Arms) -> None:
    ran.run("pirepro", "run", "specs/demo-tiny-lineage.yaml", "--until", "pretrain")
    folder = ran.root / "artifacts/demo-tiny-lineage"
    drawn = load_file(folder / "draw-s0/weights/epoch-0000.safetensors")
    assert drawn["logit_scale"] == pytest.approx(np.log(100))
    assert drawn["visual.positional_embedding"].std() == pytest.approx(0.01, rel=0.2)
    lines = [json.loads(line) for line in (folder / "random-s0/pretrain/ledger.jsonl").read_text().splitlines()]
    assert lines[-1]["lr"] > 0.8 * max(line["lr"] for line in lines)  # the cosine has hardly begun
    output = ran.run("pirepro", "export", str(folder / "pi-s0/pretrain"), str(ran.root / "exported"), status=2)
    assert "no twin" in output and "Traceback" not in output


def test_every_arm_is_what_it_says(workspace: Workspace, subtests: pytest.Subtests) -> None:
    """One test, so that workers which share the tests do not each run all arms."""
    workspace.run("pirepro", "disable", "specs/demo-tiny.yaml")
    workspace.run("pirepro", "run", "specs/demo-tiny-controls.yaml")
    arms = Arms(workspace.root / "artifacts/demo-tiny-controls")
    for one in CHECKS:
        with subtests.test(one.__name__):
            one(workspace, arms)
