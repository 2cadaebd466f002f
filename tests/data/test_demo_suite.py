"""Demo suite: its sets are what the card says, share nothing where they count, and load in clip_benchmark."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pi_repro.data.demo import pairs, suite
from pi_repro.data.demo.corpus import open_corpus
from pi_repro.data.demo.digits import read_digits
from pi_repro.data.demo.settings import PairsSettings, SuiteSettings
from pi_repro.data.settings import read_settings
from pi_repro.data.shards import Shards
from pi_repro.data.sources import Download
from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest, read_json
from pi_repro.spec.card import Card, Source

from . import mini_emoji as mini
from .npm_registry import Registry, serve

CARDS = Path(__file__).parents[2] / "specs" / "data"
TEMPLATES = ["{c}", "a picture of {c}"]
SETS: dict[str, dict[str, Any]] = {
    "demo/all": {"vendors": ["noto"], "templates": TEMPLATES},
    "demo/unseen": {"vendors": ["noto"], "concepts": "held_out", "templates": TEMPLATES},
    "demo/lines": {"vendors": ["black"], "unlike": "openmoji", "match": ["animals-nature/*"], "templates": TEMPLATES},
    "demo/groups": {
        "vendors": ["noto"], "concepts": "all", "label": "group", "exclude": ["flags/*"],
        "classnames": {"animals-nature": "an animal"}, "templates": TEMPLATES,
    },
    "demo/some": {"vendors": ["noto"], "concepts": "all", "limit": 4, "templates": TEMPLATES},
    "demo/hats": {"vendors": ["noto"], "concepts": "all", "match": ["*/*hat"], "templates": TEMPLATES},
    "demo/retrieval": {"vendors": ["noto"], "captions": ["{name}", "{name}, {keywords}"]},
}  # fmt: skip


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.delenv("PIREPRO_DOWNLOADS", raising=False)
    with serve() as running:
        monkeypatch.setenv("npm_config_registry", running.url)
        yield running


@pytest.fixture
def stage(tmp_path: Path) -> mini.MiniStage:
    return mini.MiniStage(tmp_path / "out", tmp_path / "scratch" / "print")


def mini_card(registry: Registry, **changes: Any) -> Card:
    """A card whose numbers are those that come out."""
    vendors = {
        "openmoji": {"source": "openmoji", "form": "openmoji-color"},
        "black": {"source": "openmoji", "form": "openmoji-black"},
        "noto": {"source": "noto", "form": "iconify"},
    }
    # the draw takes three animals; of the other nine, the ant looks as in training (see mini_emoji)
    held, seen, lines = 3, len(mini.KEPT) - 3, 12 - 3 - 1
    groups = (len(mini.KEPT) - 2, 3)
    numbers = {
        "demo/all": (seen, seen), "demo/unseen": (held, held), "demo/lines": (lines, lines), "demo/groups": groups,
        "demo/some": (4, 4), "demo/hats": (1, 1), "demo/retrieval": (seen, None),
    }  # fmt: skip
    numbers.update(changes.pop("numbers", {}))
    counted = changes.pop("counted", {"demo/all", "demo/unseen", "demo/lines"})
    recipes = {**SETS, **changes.pop("recipes", {})}
    sets = [
        {
            "id": name,
            "title": name,
            "task": "classification" if classes else "retrieval",
            "family": "Test",
            "classes": classes,
            "n": n,
            "metric": "acc1",
            "grade": "own",
            "disjoint": name in counted,
        }
        for name, (n, classes) in numbers.items()
    ]
    sources = [mini.openmoji(registry), mini.iconify(registry, "noto", "#55")]
    settings = {"vendors": vendors, "sets": recipes, "names_from": ["noto"], **changes}
    count = sum(n for n, _ in numbers.values())
    return mini.card("suite", sources, settings, count, sets)


def test_sets_are_what_the_card_says(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry)
    suite.fetch(card, stage)
    listed = read_json(stage.out / "suite.json")
    assert listed["name"] == "mini"
    assert [row["id"] for row in listed["sets"]] == [entry.id for entry in card.sets]
    by_id = {row["id"]: row for row in listed["sets"]}
    for entry in card.sets:
        shards = Shards.open(stage.out / entry.id)
        shards.verify()
        row = by_id[entry.id]
        assert (row["n"], row["classes"]) == (shards.count, entry.classes)
        if entry.classes:
            names = (stage.out / entry.id / "classnames.txt").read_text().splitlines()
            assert len(names) == entry.classes == len(set(names))
            assert set(shards.column("label").tolist()) == set(range(entry.classes))
            assert row["chance"] == pytest.approx(1 / entry.classes)
        else:
            assert row["chance"] is None
    assert (stage.out / "demo/groups/classnames.txt").read_text().splitlines()[0] == "an animal"
    assert (stage.out / "demo/hats/classnames.txt").read_text() == "woman's hat\n"
    assert len(read_json(stage.out / "card.json")["held_out"]) == 3


def test_unseen_concepts_are_those_that_pairs_lack(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry)
    corpus = open_corpus(card, read_settings(SuiteSettings, card), stage)
    recipe = read_settings(SuiteSettings, card).sets["demo/unseen"]
    chosen = {concept.code for _, concept in suite.choose(corpus, recipe, "demo/unseen")}
    settings = {"vendors": {"openmoji": {"source": "openmoji", "form": "openmoji-color"}}, "captions": ["{name}"]}
    other = mini.card("pairs", list(card.sources), {**settings, "names_from": ["noto"], "shard_size": 9}, 1)
    training = read_settings(PairsSettings, other)
    shown = {concept.code for _, concept in pairs.pair_list(open_corpus(other, training, stage), training)}
    assert chosen and chosen.isdisjoint(shown)
    assert chosen | shown == {concept.code for concept in corpus.concepts}


def test_two_builds_give_the_same_bytes(registry: Registry, stage: mini.MiniStage, tmp_path: Path) -> None:
    card = mini_card(registry)
    suite.fetch(card, stage)
    other = mini.MiniStage(tmp_path / "elsewhere", tmp_path / "scratch" / "other")
    suite.fetch(card, other)
    assert path_digest(stage.out) == path_digest(other.out)


def test_clip_benchmark_reads_the_sets(registry: Registry, stage: mini.MiniStage) -> None:
    from clip_benchmark.datasets.builder import build_wds_dataset

    suite.fetch(mini_card(registry), stage)
    shards = Shards.open(stage.out / "demo/groups")
    theirs = build_wds_dataset("demo/groups", lambda image: image, data_dir=str(stage.out / "demo/groups"))
    assert theirs.classes == (stage.out / "demo/groups/classnames.txt").read_text().splitlines()
    assert theirs.templates == TEMPLATES
    rows = list(theirs)
    assert len(rows) == shards.count
    for number, (image, label) in enumerate(rows):
        assert label == shards.column("label")[number]
        ours = Image.open(io.BytesIO(shards.read("image", number)))
        assert image.convert("RGB").tobytes() == ours.tobytes()
    ours = Shards.open(stage.out / "demo/retrieval")
    theirs = build_wds_dataset("demo/retrieval", lambda image: image, data_dir=str(stage.out / "demo/retrieval"))
    captions = [texts for _, texts in theirs]
    assert captions == [ours.read("text", number).decode().split("\n") for number in range(ours.count)]
    assert {len(texts) for texts in captions} == {2}


def test_equal_images_are_left_out_of_a_set(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry)
    suite.fetch(card, stage)
    told = read_json(stage.out / "card.json")["sets"]["demo/lines"]["equal_images_left_out"]
    assert told == [f"black/{mini.CODES[0]}"]


def test_counted_sets_may_not_share_an_image(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry, counted={"demo/all", "demo/groups"})
    with pytest.raises(StateError, match="share an image") as caught:
        suite.fetch(card, stage)
    assert "demo/all and demo/groups" in str(caught.value.given)
    assert not stage.out.exists()


def test_other_numbers_than_the_card_promises_are_refused(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry, numbers={"demo/some": (5, 4)})
    with pytest.raises(StateError, match="promises other sets") as caught:
        suite.fetch(card, stage)
    assert "demo/some: classification, n 4, classes 4" in str(caught.value.given)
    assert not stage.out.exists()


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ({"vendors": ["nobody"], "templates": TEMPLATES}, "nobody"),
        ({"vendors": ["noto"], "templates": TEMPLATES, "unlike": "nobody"}, "nobody"),
        ({"vendors": ["noto"], "templates": ["a picture"]}, r"\{c\}"),
        ({"vendors": ["noto"], "templates": TEMPLATES, "captions": ["{name}"]}, "templates"),
        ({"vendors": ["noto"]}, "templates"),
        ({"kind": "digits", "templates": TEMPLATES}, "digits"),
        ({"vendors": ["noto"], "templates": TEMPLATES, "lable": "group"}, "lable"),
    ],
)
def test_wrong_recipes_are_named(
    registry: Registry, stage: mini.MiniStage, recipe: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RequestError, match=problem):
        suite.fetch(mini_card(registry, recipes={"demo/some": recipe}), stage)


def test_sets_without_recipe_are_named(registry: Registry, stage: mini.MiniStage) -> None:
    with pytest.raises(RequestError, match="demo/extra"):
        suite.fetch(mini_card(registry, recipes={"demo/extra": SETS["demo/all"]}), stage)


def digits_wheel(path: Path, rows: list[list[int]]) -> Download:
    text = "\n".join(",".join(str(value) for value in row) for row in rows).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/digits.csv.gz", gzip.compress(text))
    source = Source(
        name="toy", kind="pypi", locator="toy", revision="1.0", digest="recorded at first fetch", bytes=1, licence="x"
    )
    return Download(source, path, "0" * 64, path.stat().st_size)


def test_digits(tmp_path: Path) -> None:
    rows = [[(number * 7 + row) % 256] * 784 + [number] for row in range(5) for number in range(10)]
    download = digits_wheel(tmp_path / "toy.whl", rows)
    found = read_digits(download, "toy/digits.csv.gz", 3)
    assert [label for _, label, _ in found] == [number for number in range(10) for _ in range(3)]
    for key, label, png in found:
        image = Image.open(io.BytesIO(png))
        assert (image.size, image.mode) == ((28, 28), "RGB")
        assert image.getpixel((3, 4)) == ((label * 7 + int(key) // 10) % 256,) * 3
        assert int(key) % 10 == label
    with pytest.raises(StateError, match="too few"):
        read_digits(download, "toy/digits.csv.gz", 6)
    with pytest.raises(StateError, match="lacks a file"):
        read_digits(download, "toy/none", 3)


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[300] * 784 + [1]], [[1] * 784 + [10]], [[1] * 784 + [-1]]])
def test_damaged_digits(tmp_path: Path, rows: list[list[int]]) -> None:
    with pytest.raises(StateError, match="damaged"):
        read_digits(digits_wheel(tmp_path / "toy.whl", rows), "toy/digits.csv.gz", 1)


def shipped(name: str) -> Card:
    return Card.model_validate(yaml.safe_load((CARDS / f"{name}.yaml").read_text()))


def test_shipped_cards_agree_about_what_is_held_out() -> None:
    for one, other in (("demo-pairs", "demo-suite"), ("tiny-pairs", "tiny-suite")):
        training = read_settings(PairsSettings, shipped(one))
        tests = read_settings(SuiteSettings, shipped(other))
        for field in ("held_out", "concepts", "size", "renderer"):
            assert getattr(training, field) == getattr(tests, field)
        sources = {source.name: source for source in (*shipped(one).sources, *shipped(other).sources)}
        for source in (*shipped(one).sources, *shipped(other).sources):
            assert sources[source.name] == source
        trained = {(vendor.source, vendor.form) for vendor in training.vendors.values() if vendor.country_flags}
        for name, recipe in tests.sets.items():
            for vendor in recipe.vendors:
                judged = tests.vendors[vendor]
                assert (judged.source, judged.form) not in trained, name


def test_the_shipped_suite_mirrors_the_five_families() -> None:
    card = shipped("demo-suite")
    judged = [entry for entry in card.sets if entry.task == "classification"]
    assert len(judged) >= 10 and len(card.sets) - len(judged) >= 2
    paper = {entry.family for entry in shipped("zeroshot-29-2").sets}
    assert {entry.family for entry in card.sets} == paper
    assert {entry.family for entry in judged if entry.disjoint} == paper - {"Retrieval"}
    assert all(entry.note for entry in card.sets)


def downloads(config: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real packages are downloaded once a machine, not once a test."""
    if "PIREPRO_DOWNLOADS" not in os.environ:
        monkeypatch.setenv("PIREPRO_DOWNLOADS", str(config.rootpath / ".pirepro" / "downloads"))


def images(folder: Path) -> set[str]:
    shards = Shards.open(folder)
    return {sha256(shards.read("image", row)).hexdigest() for row in range(shards.count)}


def test_tiny_cards_fetch_the_real_packages(
    stage: mini.MiniStage, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads(pytestconfig, monkeypatch)
    check_real("tiny", tmp_path, stage)


@pytest.mark.full
def test_demo_cards_fetch_the_real_packages(
    stage: mini.MiniStage, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads(pytestconfig, monkeypatch)
    check_real("demo", tmp_path, stage)


def check_real(kind: str, tmp_path: Path, stage: mini.MiniStage) -> None:
    """The card's numbers hold (the fetchers check them) and no test image is a training image."""
    training, tests = shipped(f"{kind}-pairs"), shipped(f"{kind}-suite")
    pairs.fetch(training, stage)
    other = mini.MiniStage(tmp_path / "suite", tmp_path / "scratch" / "other")
    suite.fetch(tests, other)
    seen = images(stage.out)
    for entry in tests.sets:
        assert images(other.out / entry.id).isdisjoint(seen), entry.id
    for card, folder in ((training, stage.out), (tests, other.out)):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert 0.8 < size / card.disk_bytes < 1.25
        assert sum(path.is_file() for path in folder.rglob("*")) == card.files
