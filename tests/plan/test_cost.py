"""Cost: parameters against open_clip itself, every formula against arithmetic written out here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pi_repro.plan.bill import Estimate, human_bytes
from pi_repro.plan.cost import estimate, stage_cost
from pi_repro.plan.graph import build
from pi_repro.plan.parameters import parameter_count
from pi_repro.plan.schedule import makespan
from pi_repro.spec.experiment import Experiment, Resources
from pi_repro.spec.loading import Loaded, load
from pi_repro.spec.training import Pretrain

ROOT = Path(__file__).parents[2]
OWN_MODELS = sorted((ROOT / "specs" / "models").glob("*.json"))


@pytest.fixture(scope="module")
def paper() -> Loaded:
    return load(ROOT / "specs" / "pi_vs_random.yaml")


@pytest.fixture(scope="module")
def cost(paper: Loaded) -> Estimate:
    return estimate(paper.experiment, paper.cards, paper.model["architecture"])


def _real_count(config: dict[str, Any]) -> int:
    import torch
    from open_clip.model import CLIP

    with torch.device("meta"):
        model = CLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-B-32-quickgelu", "ViT-S-32-alt", "ViT-H-14"])
def test_parameters_equal_open_clip(name: str) -> None:
    import open_clip

    config = open_clip.get_model_config(name)
    assert parameter_count(config) == _real_count(config)


@pytest.mark.parametrize("path", OWN_MODELS, ids=lambda path: path.stem)
def test_parameters_of_our_own_models(path: Path) -> None:
    config = json.loads(path.read_text())
    assert parameter_count(config) == _real_count(config)


def test_parameters_of_vit_b_32_are_those_of_its_state_dict() -> None:
    import open_clip

    model = open_clip.create_model("ViT-B-32")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert size == 4 * 151_277_313 == 4 * (parameter_count(open_clip.get_model_config("ViT-B-32")) or 0)


@pytest.mark.parametrize("name", ["RN50", "convnext_base", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32"])
def test_a_model_that_is_not_counted_gives_none(name: str) -> None:
    import open_clip

    assert parameter_count(open_clip.get_model_config(name)) is None


def test_stages_are_those_of_the_plan(paper: Loaded, cost: Estimate) -> None:
    plan = build([paper])
    assert {stage.name for stage in plan.stages if stage.kind != "fetch"} == {stage.name for stage in cost.stages}
    for stage in cost.stages:
        parents = {name for names in plan.parents[stage.name].values() for name in names}
        assert set(stage.after) == {name for name in parents if not name.startswith("fetch@")}, stage.name
    order = [stage.name for stage in cost.stages]
    assert all(order.index(before) < order.index(stage.name) for stage in cost.stages for before in stage.after)


def test_pretraining_by_hand(cost: Estimate) -> None:
    stage = cost.stage("pretrain@pi-vs-random-pi-s42")
    assert stage is not None
    updates = 32 * (15_051_515 // 4096)
    assert updates == 117_568
    assert stage.samples == updates * 4096 == 481_558_528
    assert stage.devices == 8
    assert stage.seconds == pytest.approx(300 + 481_558_528 / (8 * 786))
    weights = 605_109_252
    assert stage.output_bytes == 33 * weights + 3 * 3 * weights + updates * 2_900
    # open_clip's published rate gives about 170 A100-hours for 32 epochs (ANCHORS 4).
    assert stage.device_hours == pytest.approx(170, rel=0.02)


def test_alignment_by_hand(cost: Estimate) -> None:
    initialize, finetune = (
        cost.stage(f"{kind}-s43") for kind in ("initialize@pi-vs-random-pi", "finetune@pi-vs-random-posthoc")
    )
    assert initialize is not None and finetune is not None
    assert initialize.samples == 32 * 18 * 768  # 576 updates (FACTS 1.2)
    assert initialize.devices == 8
    assert finetune.samples == 64 * 868 * 16
    assert finetune.devices == 1  # a batch of one micro-batch cannot be split
    assert finetune.after == ("pretrain@pi-vs-random-random-s43",)


def test_evaluation_by_hand(cost: Estimate) -> None:
    images = 419_108 + 3 * (1_720 + 1_824)
    arms = {"random": 33, "pi": 33, "posthoc": 5}
    for arm, checkpoints in arms.items():
        stage = cost.stage(f"evaluate@pi-vs-random-{arm}-s44")
        assert stage is not None
        assert stage.samples == checkpoints * images
        assert stage.seconds == pytest.approx(120 + stage.samples / (8 * 1200))


def test_totals_energy_and_carbon(cost: Estimate) -> None:
    alone = sum(stage.seconds_alone for stage in cost.stages) / 3600
    assert cost.one_device.wall_hours == cost.one_device.device_hours == pytest.approx(alone)
    for budget in (cost.machine, cost.cluster, cost.one_device):
        assert budget.kwh == pytest.approx(budget.device_hours * 0.5)
        assert budget.kg_co2e == pytest.approx(budget.kwh * 0.4)
    chain = [
        "pretrain@pi-vs-random-random-s42",
        "finetune@pi-vs-random-posthoc-s42",
        "evaluate@pi-vs-random-posthoc-s42",
    ]
    other = ["initialize@pi-vs-random-pi-s42", "pretrain@pi-vs-random-pi-s42", "evaluate@pi-vs-random-pi-s42"]
    seconds = {stage.name: stage.seconds for stage in cost.stages}
    longest = max(sum(seconds[name] for name in names) for names in (chain, other))
    assert cost.cluster.wall_hours == pytest.approx(longest / 3600)
    assert cost.cluster.wall_hours < cost.machine.wall_hours < cost.one_device.wall_hours
    assert cost.machine.wall_hours == pytest.approx(sum(stage.seconds for stage in cost.stages) / 3600)


def test_disk_and_download(paper: Loaded, cost: Estimate) -> None:
    assert cost.output_bytes == sum(stage.output_bytes for stage in cost.stages)
    assert cost.data_bytes == sum(card.disk_bytes for card in paper.cards.values())
    labels = sum(source.bytes or 0 for source in paper.cards["zeroshot-29-2"].sources)  # of ReaL; images are unknown
    assert cost.download_bytes == 1507 * 745_000_000 + labels
    assert {card.name: len(card.unknown) for card in cost.data} == {
        "nights": 2,
        "yfcc15m": 0,
        "zeroshot-29-2": 31,
    }
    assert cost.scratch_bytes == 6 * 605_109_252 + max(stage.output_bytes for stage in cost.stages)


def test_rows_say_it_all(cost: Estimate) -> None:
    text = "\n".join(" ".join(row) for row in cost.rows())
    for part in ("GPU-hours", "kWh", "kg CO2e", "on one GPU", "download", "unknown size", "files", "scratch"):
        assert part in text


def test_what_is_not_stated_is_named(paper: Loaded) -> None:
    resources = paper.experiment.resources.model_copy(update={"rates": {}})
    experiment = paper.experiment.model_copy(update={"resources": resources})
    unknown = estimate(experiment, paper.cards, {"embed_dim": 1}).unknown
    assert any("weights" in text for text in unknown)
    assert all(any(rate in text for text in unknown) for rate in ("align", "pretrain", "evaluate"))


@pytest.mark.parametrize(
    ("gpus", "micro", "devices"),
    [(0, 512, 1), (1, 512, 1), (8, 512, 8), (16, 512, 8), (8, 4096, 1)],
)
def test_a_device_has_one_micro_batch_at_least(paper: Loaded, gpus: int, micro: int, devices: int) -> None:
    pretrain = Pretrain.model_validate(paper.experiment.science.pretrain.model_dump() | {"micro_batch": micro})
    resources: Resources = paper.experiment.resources.model_copy(update={"gpus": gpus})
    assert stage_cost("pretrain@x", pretrain, "pretrain", 10**6, resources, 0).devices == devices


def test_accumulation_makes_updates_larger(paper: Loaded) -> None:
    pretrain = paper.experiment.science.pretrain.model_copy(update={"accumulation": 6})
    cost = stage_cost("pretrain@x", pretrain, "pretrain", 15_051_515, paper.experiment.resources, 0)
    assert cost.samples == 32 * (15_051_515 // 24_576) * 24_576


def test_overrides_of_an_arm_count(paper: Loaded) -> None:
    content = paper.experiment.model_dump(mode="json")
    content["science"]["arms"]["pi"]["override"] = {"initialize": {"epochs": 8, "keep_epochs": [8]}}
    cost = estimate(Experiment.model_validate(content), paper.cards, paper.model["architecture"])
    stage = cost.stage("initialize@pi-vs-random-pi-s42")
    assert stage is not None and stage.samples == 8 * 18 * 768


@pytest.mark.parametrize(("slots", "expected"), [(1, 11.0), (2, 6.0), (None, 5.0)])
def test_makespan(slots: int | None, expected: float) -> None:
    tasks = [("a", 2.0, ()), ("b", 3.0, ("a",)), ("c", 5.0, ()), ("d", 1.0, ("elsewhere",))]
    assert makespan(tasks, slots) == expected


def test_makespan_of_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        makespan([("a", 1.0, ("b",)), ("b", 1.0, ("a",))], 2)


def test_makespan_of_nothing() -> None:
    assert makespan([], None) == 0.0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_122_715_000_000, "1.12 TB")]
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_planning_loads_no_torch() -> None:
    code = "import pi_repro.plan.cost, pi_repro.launch.requirements, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_probes_by_hand() -> None:
    loaded = load(ROOT / "specs" / "controls.yaml")
    cost = estimate(loaded.experiment, loaded.cards, loaded.model["architecture"])
    stage = cost.stage("probe@controls-random-s42")
    assert stage is not None
    checkpoints = 7  # 0, 1, 4, 8, 16, 24 and the last
    features, linear = 4_096 * (checkpoints + 2), (10_000 + 6_300 + 8_000) * checkpoints
    sharpness = 2_048 * (1 + 10 * 3 + 3 + 4)
    assert stage.samples == features + linear + sharpness
    assert (stage.devices, stage.after) == (1, ("pretrain@controls-random-s42",))
    other = cost.stage("probe@controls-pi-s42")
    assert other is not None and other.after == ("pretrain@controls-pi-s42", "probe@controls-random-s42")
    report = cost.stage("report@controls")
    assert report is not None and "probe@controls-pi-s42" in report.after
