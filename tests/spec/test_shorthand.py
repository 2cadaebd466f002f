"""A spec that extends another, and a grid of arms: shorthand for what could have been written out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pi_repro.errors import RequestError
from pi_repro.spec.loading import load

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    shutil.copytree(SPECS, tmp_path / "specs")
    return tmp_path / "specs"


def write(specs: Path, text: str) -> Path:
    path = specs / "mine.yaml"
    path.write_text(f"extends: demo-tiny.yaml\nname: mine\n{text}")
    return path


def test_what_is_not_said_is_the_other_file_s(specs: Path) -> None:
    mine = load(write(specs, "science:\n  pretrain: {epochs: 7}\n  arms: {posthoc: null}\n"))
    base = load(specs / "demo-tiny.yaml")
    science = base.experiment.science
    expected = science.model_copy(
        update={
            "pretrain": science.pretrain.model_copy(update={"epochs": 7}),
            "arms": {name: arm for name, arm in science.arms.items() if name != "posthoc"},
        }
    )
    assert mine.experiment.science == expected
    assert mine.experiment.resources == base.experiment.resources
    assert mine.bases == (specs / "demo-tiny.yaml",)


def test_a_part_of_another_name_is_replaced_whole(specs: Path) -> None:
    lora = "{name: lora, options: {rank: 2, alpha: 1.0, targets: [qkv]}}"
    mine = load(write(specs, f"science:\n  finetune:\n    adapter: {lora}\n"))
    adapter = mine.arms["posthoc"]["finetune"].adapter  # type: ignore[union-attr]
    assert adapter.name == "lora" and set(adapter.options) == {"rank", "alpha", "targets"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("science:\n  pretrain: {epoch: 7}\n", ["mine.yaml:4", "did you mean 'epochs'"]),
        ("science:\n  pretrain: {batch: 65}\n", ["65 is not micro_batch 16"]),
        ("science:\n  pretrain: {data: tiny-pear}\n", ["mine.yaml:4", "did you mean 'tiny-pairs'"]),
        ("science:\n  evaluate: null\n", ["'evaluate' is missing"]),
        ("science:\n  grids: {g: {stages: [pretrain], description: d}}\n", ["grids.g.axes"]),
        (
            "science:\n  grids:\n    g: {stages: [pretrain], description: d, axes: {a: {x: {pretrain: {epoch: 3}}}}}\n",
            ["did you mean 'epochs'"],
        ),
        (
            "science:\n  arms: {g-x: {stages: [pretrain], description: d}}\n"
            "  grids: {g: {stages: [pretrain], description: d, axes: {a: {x: {}}}}}\n",
            ["'g-x', which there is already"],
        ),
        (
            "science:\n  grids:\n    g:\n      stages: [initialize, pretrain]\n      description: d\n      axes:\n"
            "        a:\n          x: {initialize: {labels: {name: fliped}}}\n",
            ["mine.yaml:10, science.arms.g-x.override.initialize.labels.name", "did you mean 'flipped'"],
        ),
        (
            "science:\n  grids:\n    g:\n      stages: [pretrain]\n      description: d\n      axes:\n"
            "        a:\n          x: {}\n          y: {pretrain: {epochs: none}}\n",
            ["mine.yaml:11, science.arms.g-y.override.pretrain.epochs"],
        ),
        ("science:\n  grids: {g: {stages: [pretrain], description: d, axes: {a: {}}}}\n", ["grids.g.axes.a"]),
        (
            "science:\n  arms: 5\n  grids: {g: {stages: [pretrain], description: d, axes: {a: {x: {}}}}}\n",
            ["mine.yaml:4, science.arms"],
        ),
        ("science:\n  grid: {}\n", ["mine.yaml:4, science.grid", "did you mean 'grids'"]),
        ("extend: demo.yaml\n", ["mine.yaml:3, extend", "did you mean 'extends'"]),
    ],
)
def test_mistakes_are_told_where_they_stand(text: str, told: list[str], specs: Path) -> None:
    with pytest.raises(RequestError) as error:
        load(write(specs, text))
    assert all(part in str(error.value) for part in told), str(error.value)


def test_a_mistake_in_the_other_file_is_told_there(specs: Path) -> None:
    path = write(specs, "title: t\n")
    base = specs / "demo-tiny.yaml"
    base.write_text(base.read_text().replace("    epochs: 4\n", "    epochs: none\n", 1))
    line = base.read_text().splitlines().index("    epochs: none") + 1
    with pytest.raises(RequestError, match=f"demo-tiny.yaml:{line}"):
        load(path)


def test_a_mistake_in_a_grid_of_the_other_file_is_told_there(specs: Path) -> None:
    grid = "  grids: {g: {stages: [pretrain], description: d, axes: {a: {x: {pretrain: {epochs: none}}}}}}\n"
    write(specs, f"science:\n{grid}").rename(specs / "other.yaml")
    (specs / "mine.yaml").write_text("extends: other.yaml\nname: mine\n")
    with pytest.raises(RequestError, match=r"other\.yaml:4, science\.arms\.g-x\.override"):
        load(specs / "mine.yaml")


@pytest.mark.parametrize(("name", "told"), [("demo-tinny.yaml", "no such file"), ("../demo.yaml", "own folder")])
def test_what_can_t_be_extended(name: str, told: str, specs: Path) -> None:
    path = specs / "mine.yaml"
    path.write_text(f"extends: {name}\nname: mine\n")
    with pytest.raises(RequestError, match=told):
        load(path)


def test_a_circle_is_refused(specs: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (specs / f"{name}.yaml").write_text(f"extends: {other}.yaml\nname: {name}\n")
    with pytest.raises(RequestError, match="circle"):
        load(specs / "a.yaml")


def test_a_grid_is_its_arms_written_out(specs: Path) -> None:
    grid = {
        "description": "{size} at {rate}",
        "start": "random",
        "stages": ["finetune"],
        "axes": {
            "size": {"small": {"finetune": {"epochs": 1}}, "large": {"finetune": {"epochs": 3}}},
            "rate": {"lr1e-4": {"finetune": {"optimizer": {"lr": 1e-4}}}, "lr1e-3": {}},
        },
    }
    mine = load(write(specs, yaml.safe_dump({"science": {"grids": {"g": grid}}}, sort_keys=False)))
    names = [name for name in mine.arms if name.startswith("g-")]
    assert names == ["g-small-lr1e-4", "g-small-lr1e-3", "g-large-lr1e-4", "g-large-lr1e-3"]
    arm = mine.experiment.science.arms["g-large-lr1e-4"]
    assert (arm.description, arm.start) == ("large at lr1e-4", "random")
    assert arm.override == {"finetune": {"epochs": 3, "optimizer": {"lr": 1e-4}}}
    assert mine.arms["g-large-lr1e-4"]["finetune"].epochs == 3
    assert mine.arms["g-small-lr1e-3"]["finetune"].optimizer.lr == mine.arms["posthoc"]["finetune"].optimizer.lr


def test_a_joint_arm_needs_its_term_and_shares_micro_batches(specs: Path) -> None:
    arm = "  arms: {j: {stages: [joint], description: d}}\n"
    with pytest.raises(RequestError, match="no auxiliary"):
        load(write(specs, f"science:\n{arm}"))
    objective = "{name: triplet_hinge, options: {margin: 0.05, distance: cosine}}"
    term = (
        f"  auxiliary:\n    data: tiny-triplets\n    objective: {objective}\n    weight: 1.0\n    batch: 32\n"
        "    micro_batch: 16\n    augmentation: {kind: resize}\n    shuffle_block: 4\n"
    )
    with pytest.raises(RequestError, match="not 4 times"):
        load(write(specs, f"science:\n{term}{arm}"))
    mine = load(write(specs, f"science:\n{term.replace('micro_batch: 16', 'micro_batch: 8')}{arm}"))
    assert set(mine.cards) >= {"tiny-pairs", "tiny-triplets"}
    both = arm.replace("[joint]", "[pretrain, joint]")
    with pytest.raises(RequestError, match="pretrain or joint"):
        load(write(specs, f"science:\n{both}"))
