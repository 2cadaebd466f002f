"""Demo pairs: who draws what, which caption, and that nothing held out gets in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pi_repro.data.demo import pairs, render
from pi_repro.data.demo.corpus import caption, open_corpus
from pi_repro.data.demo.emoji import Concept, code_of, held_out, slug_of, stem_of
from pi_repro.data.demo.settings import PairsSettings
from pi_repro.data.demo.vendors import Drawing
from pi_repro.data.jpeg import plain_frame
from pi_repro.data.settings import read_settings
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import path_digest, read_json
from pi_repro.spec.card import Card

from . import mini_emoji as mini
from .npm_registry import Registry, serve

CAPTIONS = ["{name}", "a picture of {name}", "{name}, {keywords}"]
SETTINGS: dict[str, Any] = {
    "vendors": {
        "openmoji": {"source": "openmoji", "form": "openmoji-color"},
        "twemoji": {"source": "twemoji", "form": "iconify"},
        "emojione": {"source": "emojione", "form": "iconify", "country_flags": False},
    },
    "captions": CAPTIONS,
    "shard_size": 20,
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.delenv("PIREPRO_DOWNLOADS", raising=False)
    with serve() as running:
        monkeypatch.setenv("npm_config_registry", running.url)
        yield running


@pytest.fixture
def stage(tmp_path: Path) -> mini.MiniStage:
    return mini.MiniStage(tmp_path / "out", tmp_path / "scratch" / "print")


def mini_card(registry: Registry, count: int = 1, **settings: Any) -> Card:
    sources = [
        mini.openmoji(registry),
        mini.iconify(registry, "twemoji", "#55"),
        mini.iconify(registry, "emojione", "#99", codes=False),
    ]
    return mini.card("pairs", sources, {**SETTINGS, **settings}, count)


def expected(card: Card, stage: mini.MiniStage) -> int:
    settings = read_settings(PairsSettings, card)
    return len(pairs.pair_list(open_corpus(card, settings, stage), settings))


def build(card: Card, stage: mini.MiniStage) -> Shards:
    card = card.model_copy(update={"count": expected(card, stage)})
    pairs.fetch(card, stage)
    return Shards.open(stage.out)


def test_pairs_are_what_the_vendors_draw(registry: Registry, stage: mini.MiniStage) -> None:
    shards = build(mini_card(registry), stage)
    shards.verify()
    about = read_json(stage.out / "card.json")
    held = set(about["held_out"])
    concepts = len(mini.KEPT)
    # 17 concepts and 2 flags; emojione keeps its flags for a benchmark
    assert about["vendors"] == {
        "openmoji": concepts - len(held),
        "twemoji": concepts - len(held),
        "emojione": concepts - 2 - len(held),
    }
    assert shards.count == about["count"] == sum(about["vendors"].values())
    assert 3 <= len(held) <= 4
    seen = set()
    for number in range(shards.count):
        row = json.loads(shards.read("json", number))
        image = Image.open(io.BytesIO(shards.read("image", number)))
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert np.asarray(image)[0, 0].tolist() == [255, 255, 255]
        assert row["concept"] not in held
        assert row["name"].replace("flag: ", "flag of ") in shards.read("text", number).decode()
        seen.add((row["vendor"], row["concept"]))
    assert len(seen) == shards.count
    assert {source["licence"] for source in about["sources"]} == {"MIT"}
    assert not any(code in {"1F3FB", "E001"} for _, code in seen)


def test_a_card_may_ask_for_smaller_images(registry: Registry, stage: mini.MiniStage) -> None:
    shards = build(mini_card(registry).model_copy(update={"short_side": 20}), stage)
    assert {plain_frame(shards.read("image", row)) for row in range(shards.count)} == {(20, 20, 3)}


def test_a_vendor_without_codes_is_joined_by_name(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry)
    corpus = open_corpus(card, read_settings(PairsSettings, card), stage)
    by_name, by_code = corpus.drawings["emojione"], corpus.drawings["twemoji"]
    assert set(by_name) == {c.code for c in corpus.concepts if not c.is_country_flag}
    # "hound" is an alias that only twemoji knows, and it says which code that is
    dog = mini.CODES[mini.NAMES.index("dog")]
    assert by_name[dog].svg is not None and 'r="6"' in by_name[dog].svg
    assert "1F468-200D-2696" in by_code and "1F452" in by_name


def test_flags_of_a_vendor_without_codes(registry: Registry, stage: mini.MiniStage) -> None:
    vendors = {**SETTINGS["vendors"], "emojione": {"source": "emojione", "form": "iconify"}}
    card = mini_card(registry, vendors=vendors)
    corpus = open_corpus(card, read_settings(PairsSettings, card), stage)
    assert {"1F1F1-1F1F9", "1F1EB-1F1EE"} <= set(corpus.drawings["emojione"])


def test_two_builds_give_the_same_bytes(registry: Registry, stage: mini.MiniStage, tmp_path: Path) -> None:
    card = mini_card(registry)
    build(card, stage)
    other = mini.MiniStage(tmp_path / "elsewhere" / "out", tmp_path / "elsewhere" / "print")
    build(card, other)
    assert path_digest(stage.out) == path_digest(other.out)
    assert str(tmp_path) not in (stage.out / "card.json").read_text()


def test_a_wrong_count_is_refused_before_rendering(registry: Registry, stage: mini.MiniStage) -> None:
    with pytest.raises(StateError, match="another number of pairs"):
        pairs.fetch(mini_card(registry, count=1), stage)
    assert not stage.out.exists()


def test_dropped_drawings_are_absent(registry: Registry, stage: mini.MiniStage) -> None:
    code = mini.CODES[0]
    card = mini_card(registry, drop=[f"twemoji/{code}"])
    corpus = open_corpus(card, read_settings(PairsSettings, card), stage)
    assert code not in corpus.drawings["twemoji"] and code in corpus.drawings["openmoji"]


def test_few_concepts_are_a_keyed_draw(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry, concepts=5)
    corpus = open_corpus(card, read_settings(PairsSettings, card), stage)
    whole = open_corpus(mini_card(registry), read_settings(PairsSettings, mini_card(registry)), stage)
    assert len(corpus.concepts) == 5 and set(corpus.concepts) < set(whole.concepts)
    assert corpus.held == whole.held
    assert not any(concept.is_country_flag for concept in corpus.concepts)


def test_a_request_to_stop_is_heard(registry: Registry, stage: mini.MiniStage) -> None:
    card = mini_card(registry)
    card = card.model_copy(update={"count": expected(card, stage)})
    stage.should_stop = lambda: True
    with pytest.raises(Interrupted):
        pairs.fetch(card, stage)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"size": "large"}, "settings.size"),
        ({"colour": 1}, "settings.colour"),
        ({"captions": ["{name} {mood}"]}, "settings"),
        ({"captions": ["a picture"]}, "settings"),
        ({"held_out": {"key": "k", "one_in": 1}}, r"settings\.held_out\.one_in"),
        ({"vendors": {"openmoji": {"source": "nowhere", "form": "iconify"}}}, "nowhere"),
        ({"renderer": "cairo==1"}, "settings.renderer"),
    ],
)
def test_wrong_settings_are_named(
    registry: Registry, stage: mini.MiniStage, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError, match=field):
        pairs.fetch(mini_card(registry, **change), stage)


def test_another_renderer_is_refused(registry: Registry, stage: mini.MiniStage) -> None:
    with pytest.raises(StateError, match="renderer is another") as caught:
        pairs.fetch(mini_card(registry, renderer="resvg-py==0.0.1"), stage)
    assert registry.downloads == []
    assert "resvg-py==0.0.1" in (caught.value.todo or "")


def concept(name: str, *keywords: str, code: str = "1F600", subgroup: str = "face") -> Concept:
    return Concept(code, name, keywords, "smileys-emotion", subgroup, stem_of(code))


def test_captions() -> None:
    cat = concept("cat", "animal", "pet", "whiskers")
    assert caption("{name}", cat) == "cat"
    assert caption("a picture of {name}", concept("flag: Lithuania")) == "a picture of flag of Lithuania"
    assert caption("{name}", concept("keycap: 7")) == "keycap 7"
    assert caption("{keywords}, {name}", concept("cat")) == "cat"
    drawn = {caption("{name}, {keywords}", cat, number) for number in range(50)}
    assert "cat, pet, animal" in drawn and len(drawn) == 6
    assert caption("{name}, {keywords}", cat, "k") == caption("{name}, {keywords}", cat, "k")
    forms = ("{name}", "a {name}", "the {name}")
    texts = {pairs.pair_caption(vendor, cat, forms) for vendor in "abcdefghijklmnop"}
    assert texts == {"cat", "a cat", "the cat"}


def test_codes_stems_and_slugs() -> None:
    assert code_of("1f468-200d-2696-fe0f") == "1F468-200D-2696"
    assert code_of("0023_fe0f_20e3") == "0023-20E3"
    walking = {stem_of(code) for code in ("1F6B6", "1F6B6-200D-2640", "1F6B6-200D-2642-200D-27A1")}
    judges = {stem_of(code) for code in ("1F468-200D-2696", "1F469-200D-2696", "1F9D1-200D-2696")}
    families = {stem_of(code) for code in ("1F46A", "1F468-200D-1F469-200D-1F466", "1F9D1-200D-1F9D2")}
    assert [len(stems) for stems in (walking, judges, families)] == [1, 1, 1]
    assert len(walking | judges | families) == 3
    # the wheat is no farmer
    assert stem_of("1F33E") != stem_of("1F468-200D-1F33E")
    assert slug_of("woman’s hat") == slug_of("woman's hat") == "womans-hat"
    assert slug_of("Côte d’Ivoire") == "cote-divoire"


def test_the_held_out_draw() -> None:
    many = [concept(f"c{number}", code=f"{0x2000 + number:X}") for number in range(400)]
    flags = [concept(f"flag: {n}", code=f"1F1E{n}", subgroup="country-flag") for n in range(6)]
    first = held_out([*many, *flags], "key", 10)
    assert len(first) == 40
    assert first == held_out([*flags, *reversed(many)], "key", 10)
    assert first.isdisjoint({flag.code for flag in flags})
    assert len(first & held_out(many, "other", 10)) < 15
    pair = [concept("man judge", code="1F468-200D-2696"), concept("woman judge", code="1F469-200D-2696")]
    for key in range(30):
        drawn = held_out([*many[:20], *pair], str(key), 4)
        assert len(drawn & {member.code for member in pair}) in (0, 2)


def test_transparency_becomes_white() -> None:
    layer = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    layer.putpixel((0, 0), (0, 0, 255, 255))
    stream = io.BytesIO()
    layer.save(stream, "WEBP", lossless=True)
    image = np.asarray(Image.open(io.BytesIO(render.image_to_png(stream.getvalue(), 8))))
    assert image[4, 4].tolist() == [255, 255, 255] and image[0, 0].tolist() == [0, 0, 255]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(render.encode(layer)))), image)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.info["transparency"] = 1
    assert np.asarray(Image.open(io.BytesIO(render.encode(palette)))).min() == 255


def test_a_drawing_is_fitted_and_centred() -> None:
    svg = (
        '<svg width="90" height="45" viewBox="0 0 90 45" xmlns="http://www.w3.org/2000/svg">'
        '<rect width="90" height="45" fill="#f00"/></svg>'
    )
    image = np.asarray(Image.open(io.BytesIO(Drawing(svg=svg).png(32))))
    red = (image == [255, 0, 0]).all(axis=2)
    assert image.shape == (32, 32, 3)
    assert red[8:24].all() and not red[:8].any() and not red[24:].any()


def test_broken_drawings_are_refused() -> None:
    with pytest.raises(StateError, match="cannot be rendered"):
        render.svg_to_png("<svg", 32)
    with pytest.raises(StateError, match="cannot be decoded"):
        Drawing(raster=b"no image").png(32)
