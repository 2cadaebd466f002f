"""Shipped specs and cards: valid, complete, and equal to what is known of the paper's experiment.

The tables here were written from the project's facts, not from the YAML files.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi_repro.plan.cost import estimate
from pi_repro.spec import extending
from pi_repro.spec.card import AT_FIRST_FETCH, Card
from pi_repro.spec.experiment import Experiment
from pi_repro.spec.loading import load, load_card

SPECS = Path(__file__).parents[2] / "specs"
EXPERIMENTS = sorted(path for path in SPECS.glob("*.yaml") if path.name not in ("enabled.yaml", "claims.yaml"))
CARDS = sorted((SPECS / "data").glob("*.yaml"))

# clip_benchmark's name, classes, test images, family
CLASSIFICATION = """
imagenet1k                            1000 50000 ImageNet
imagenetv2                            1000 10000 ImageNet-OOD
imagenet_sketch                       1000 50889 ImageNet-OOD
imagenet-a                             200  7500 ImageNet-OOD
imagenet-r                             200 30000 ImageNet-OOD
imagenet-o                             200  2000 ImageNet-OOD
objectnet                              113 18574 ImageNet-OOD
vtab/caltech101                        102  6085 VTAB
vtab/cifar100                          100 10000 VTAB
vtab/cifar10                            10 10000 VTAB
vtab/clevr_count_all                     8 15000 VTAB
vtab/clevr_closest_object_distance       6 15000 VTAB
vtab/dtd                                47  1880 VTAB
vtab/eurosat                            10  5400 VTAB
vtab/flowers                           102  6149 VTAB
vtab/pets                               37  3669 VTAB
vtab/pcam                                2 32768 VTAB
vtab/resisc45                           45  6300 VTAB
vtab/svhn                               10 26032 VTAB
vtab/kitti_closest_vehicle_distance      4   711 Domain & Small
cars                                   196  8041 Fine-grained & Specialty
fgvc_aircraft                          100  3333 Fine-grained & Specialty
food101                                101 25250 Fine-grained & Specialty
country211                             211 21100 Fine-grained & Specialty
mnist                                   10 10000 Domain & Small
stl10                                   10  8000 Domain & Small
gtsrb                                   43 12630 Domain & Small
renderedsst2                             2  1821 Domain & Small
voc2007                                 20 14976 Domain & Small
"""
RETRIEVAL = {"flickr30k": 1000, "mscoco_captions": 5000}
#: Open on the hub under another maker's name; all others are clip-benchmark/wds_<id>.
ELSEWHERE = {"food101": "djghosh/wds_food101_test"}


@pytest.fixture(scope="module")
def paper() -> Experiment:
    return load(SPECS / "pi_vs_random.yaml").experiment


@pytest.fixture(scope="module")
def suite() -> Card:
    return load_card(SPECS / "data" / "zeroshot-29-2.yaml")


def _table() -> dict[str, tuple[int, int, str]]:
    rows = [line.split(maxsplit=3) for line in CLASSIFICATION.strip().splitlines()]
    return {name.replace("/", "-"): (int(classes), int(n), family) for name, classes, n, family in rows}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_spec_is_valid_and_its_cards_exist(path: Path) -> None:
    loaded = load(path)
    assert set(loaded.arms) == set(loaded.experiment.science.arms)
    for name in loaded.cards:
        assert (SPECS / "data" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_card_is_valid(path: Path) -> None:
    card = load_card(path)
    assert len({source.name for source in card.sources}) == len(card.sources)
    assert len({entry.id for entry in card.sets}) == len(card.sets)
    sources = {source.name for source in card.sources}
    assert {entry.source for entry in card.sets if entry.source} <= sources
    assert all(source.how_to for source in card.sources if source.access != "open")


@pytest.mark.parametrize("path", [*EXPERIMENTS, *CARDS], ids=lambda path: path.stem)
def test_plain_yaml_readers_see_the_same(path: Path) -> None:
    """5e-4 is text to YAML 1.1; a spec writes 5.0e-4, so every reader agrees."""
    data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "extends" in data:
        data = extending.laid_over(yaml.safe_load((SPECS / data["extends"]).read_text(encoding="utf-8")), data)
    model = Card if path in CARDS else Experiment
    ours: Any = load_card(path) if path in CARDS else load(path).experiment
    assert model.model_validate(data) == ours


@pytest.mark.parametrize("path", [*EXPERIMENTS, *CARDS], ids=lambda path: path.stem)
def test_no_file_names_this_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(^|[\s'\"])/(work|tmp|home|root|farm)/", text)


def test_the_suite_has_29_and_2_sets_as_published(suite: Card) -> None:
    classification = [entry for entry in suite.sets if entry.task == "classification"]
    retrieval = [entry for entry in suite.sets if entry.task == "retrieval"]
    assert (len(classification), len(retrieval)) == (29, 2)
    assert {entry.id: (entry.classes, entry.n, entry.family) for entry in classification} == _table()
    assert {entry.id: entry.n for entry in retrieval} == RETRIEVAL
    assert suite.count == sum(n for _, n, _ in _table().values()) + sum(RETRIEVAL.values())


def test_the_five_families_of_the_paper(suite: Card) -> None:
    families = {
        "ImageNet": 1,
        "ImageNet-OOD": 6,
        "VTAB": 12,
        "Fine-grained & Specialty": 4,
        "Domain & Small": 6,
        "Retrieval": 2,
    }
    found = [entry.family for entry in suite.sets]
    assert {family: found.count(family) for family in found} == families


def test_26_sets_have_a_top_5(suite: Card) -> None:
    few = {entry.id for entry in suite.sets if entry.classes and entry.classes < 5}
    assert few == {"vtab-kitti_closest_vehicle_distance", "vtab-pcam", "renderedsst2"}
    assert all("Top-5 is undefined" in entry.note for entry in suite.sets if entry.id in few)


def test_the_headline_is_top_1(suite: Card) -> None:
    assert {entry.metric for entry in suite.sets if entry.task == "classification"} == {"acc1"}


def test_sets_at_chance_and_shared_categories_are_marked(suite: Card) -> None:
    chance = {entry.id for entry in suite.sets if "chance level" in entry.note}
    assert chance == {
        "mnist",
        "vtab-svhn",
        "vtab-pcam",
        "renderedsst2",
        "vtab-clevr_count_all",
        "vtab-clevr_closest_object_distance",
        "vtab-kitti_closest_vehicle_distance",
    }
    shared = {entry.id for entry in suite.sets if entry.note.startswith("Category names are shared")}
    assert shared == {"imagenet1k", "vtab-cifar10", "vtab-cifar100", "vtab-flowers", "food101"}


def test_no_source_of_the_suite_is_invented(suite: Card) -> None:
    by_name = {source.name: source for source in suite.sources}
    for entry in suite.sets:
        assert entry.source is not None
        source = by_name[entry.source]
        assert source.locator == ELSEWHERE.get(entry.id, f"clip-benchmark/wds_{entry.id}")
        assert (source.kind, source.revision, source.digest, source.bytes) == (
            "wds",
            AT_FIRST_FETCH,
            AT_FIRST_FETCH,
            None,
        )


def test_known_revision_and_unknown_digest_of_yfcc() -> None:
    card = load_card(SPECS / "data" / "yfcc15m.yaml")
    (source,) = card.sources
    assert source.locator == "Kaichengalex/YFCC15M"
    assert source.revision == "fc79df6bae9cbceac054a5d2598c168dfd8fe39b"
    assert source.digest == AT_FIRST_FETCH
    assert card.settings["captions"] == "undeclared"
    assert card.settings["holdout"] == 10_000
    assert card.count == 15_061_515 - 10_000
    assert any("caption" in warning for warning in card.warnings)


def test_nights_counts() -> None:
    card = load_card(SPECS / "data" / "nights.yaml")
    assert card.settings["splits"] == {"train": 13_900, "val": 1_720, "test": 1_824}
    assert sum(card.settings["splits"].values()) == 17_444
    assert card.count == 13_900
    assert card.settings["min_votes"] == 6


def test_stage_1_is_that_of_the_lineage(paper: Experiment) -> None:
    align = paper.science.initialize
    assert align is not None
    assert (align.epochs, align.batch, align.schedule.warmup_updates, align.precision) == (
        32,
        768,
        150,
        "bf16",
    )
    assert (align.optimizer.name, align.optimizer.lr, align.optimizer.betas) == ("adamw", 5e-4, (0.9, 0.98))
    assert (align.optimizer.eps, align.optimizer.weight_decay, align.optimizer.clip_norm) == (1e-8, 0.1, None)
    assert align.objective.options == {"margin": 0.05, "distance": "cosine"}
    assert align.augmentation.kind == "resize"
    assert align.keep_epochs == (32,)


def test_stage_2_is_that_of_the_lineage_where_it_is_known(paper: Experiment) -> None:
    pretrain = paper.science.pretrain
    assert (pretrain.epochs, pretrain.schedule.warmup_updates, pretrain.precision) == (32, 2500, "bf16")
    assert (pretrain.optimizer.lr, pretrain.optimizer.weight_decay, pretrain.optimizer.betas) == (
        5e-4,
        0.1,
        (0.9, 0.98),
    )
    assert (pretrain.augmentation.kind, pretrain.augmentation.scale) == ("mocov2", (0.2, 1.0))
    assert pretrain.keep_epochs == tuple(range(33))


def test_posthoc_trains_query_key_and_value_of_the_image_tower_alone(paper: Experiment) -> None:
    import open_clip
    import torch

    finetune, arm = paper.science.finetune, paper.science.arms["posthoc"]
    assert finetune is not None
    assert (arm.start, arm.stages) == ("random", ("finetune",))
    assert (finetune.optimizer.name, finetune.optimizer.lr, finetune.optimizer.weight_decay) == (
        "adam",
        1e-5,
        0.0,
    )
    assert (finetune.epochs, finetune.batch) == (64, 16)
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32"))
    patterns = finetune.adapter.options["pattern"]
    assert isinstance(patterns, tuple)
    trained = [name for name, _ in model.named_parameters() if any(re.fullmatch(str(p), name) for p in patterns)]
    assert trained == [
        f"visual.transformer.resblocks.{block}.attn.in_proj_{part}"
        for block in range(12)
        for part in ("weight", "bias")
    ]


def test_the_clean_recipe(paper: Experiment) -> None:
    science = paper.science
    assert science.seeds == (42, 43, 44)
    assert set(science.arms) == {"random", "pi", "posthoc"} and science.baseline == "random"
    assert science.model.logit_scale_init == math.log(1 / 0.07)
    assert science.model.logit_scale_max == 100
    assert science.evaluate.recall_k == (1, 5, 10)
    assert all("override" not in arm.model_fields_set for arm in science.arms.values())


@pytest.mark.parametrize("name", ["controls", "demo-controls", "demo-tiny-controls"])
def test_compute_matched_arms_make_as_many_updates_as_pi(name: str) -> None:
    loaded = load(SPECS / f"{name}.yaml")
    costs = estimate(loaded.experiment, loaded.cards, loaded.model["architecture"]).stages
    seed = loaded.experiment.science.seeds[0]

    def updates(arm: str) -> dict[str, int]:
        found = {}
        for stage, settings in loaded.arms[arm].items():
            samples = next(
                cost.samples for cost in costs if cost.name.endswith(f"-{arm}-s{seed}") and cost.kind == stage
            )
            found[stage] = samples // (settings.batch * getattr(settings, "accumulation", 1))
        return found

    pi, random = updates("pi"), updates("random")
    assert pi["pretrain"] == random["pretrain"]
    assert updates("longer") == {"pretrain": sum(pi.values())}
    # demo-concepts is larger than demo-triplets.
    for arm in ("shuffled", "pixels", "blind", "fractals", *(["concept"] if name != "demo-controls" else [])):
        assert updates(arm) == pi, arm


def test_the_lineage_differs_in_its_quirks_and_in_nothing_else(paper: Experiment) -> None:
    lineage = load(SPECS / "pi_vs_random_lineage.yaml").experiment.science
    model = {"initialization": "lineage", "text_pooling": "mean", "logit_scale_init": lineage.model.logit_scale_init}
    assert lineage.model == paper.science.model.model_copy(update=model)
    assert math.exp(lineage.model.logit_scale_init) == pytest.approx(100)
    pretrain = paper.science.pretrain
    assert lineage.pretrain == pretrain.model_copy(
        update={
            "batch": 1024 * 6,
            "accumulation": 6,
            "micro_batch": 768,
            "schedule": pretrain.schedule.model_copy(update={"horizon": "micro_batches"}),
            "publish_states": lineage.pretrain.publish_states,
        }
    )
    assert (lineage.initialize, lineage.finetune) == (paper.science.initialize, paper.science.finetune)
    assert (lineage.arms, lineage.seeds) == (paper.science.arms, paper.science.seeds)
