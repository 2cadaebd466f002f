"""Datasets: what is damaged is named, pages and figures tell what is there, and undeclared captions stop a training."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pi_repro.data import audit, contact, stats
from pi_repro.data.randomness import some
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, write_json
from pi_repro.launch import datacard, datasets, fetching, stages
from pi_repro.launch.places import Places
from pi_repro.plan import captions, data_bill, params
from pi_repro.plan.graph import build
from pi_repro.spec import supplied
from pi_repro.spec.loading import load, load_card
from pi_repro.terminal import data as terminal

ROOT = Path(__file__).parents[2]
WHITE, RED = (255, 255, 255), (200, 30, 30)


def _image(colour: tuple[int, int, int] = WHITE, size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def _pairs(folder: Path, data_root: Path) -> Path:
    """Ten pairs in five shards of a data root; one image is none."""
    texts = ["a dog", "", "a dog", "two words here", "w " * 100, *("some caption",) * 5]
    with ShardWriter(folder, "photos", "pairs", shard_size=2, shards_at=data_root / "photos") as writer:
        for number, text in enumerate(texts):
            image = b"no image" if number == 7 else _image(form="JPEG", size=(40 + number, 30))
            writer.add(f"p{number}", {"jpg": image, "txt": text.encode()})
    return folder


def _triplets(folder: Path, labels: list[int]) -> Path:
    with ShardWriter(folder, "votes", "triplets") as writer:
        for number, label in enumerate(labels):
            images = {f"{side}.png": _image(size=(64, 64)) for side in ("ref", "left", "right")}
            writer.add(f"t{number}", images, {"label": label, "split": number % 3, "votes": 6 + number})
    return folder


def _workspace(folder: Path) -> Places:
    """The repository's specs in a folder of their own, and nothing fetched."""
    shutil.copytree(ROOT / "specs", folder / "specs")
    shutil.copyfile(ROOT / "requirements.lock", folder / "requirements.lock")
    own = folder / ".pirepro"
    return Places(folder, own / "scratch", own / "store", own / "downloads", folder / "root")


def test_every_damaged_shard_is_named_and_the_rest_is_still_read(tmp_path: Path) -> None:
    folder, root = _pairs(tmp_path / "photos", tmp_path / "root"), tmp_path / "root"
    told: list[tuple[int, int]] = []
    sound = audit.audit({"photos": folder}, root, lambda done, total, _: told.append((done, total)))
    assert (sound.shards, sound.samples, sound.damaged) == (5, 10, ())
    assert told[-1] == (sound.bytes, sound.bytes) and sound.bytes > 0
    cut, altered, gone = (root / "photos" / f"0000{number}.tar" for number in (0, 2, 3))
    cut.write_bytes(cut.read_bytes()[:-512])
    content = bytearray(altered.read_bytes())
    content[700] ^= 1
    altered.write_bytes(content)
    gone.unlink()
    found = audit.audit({"photos": folder}, root, lambda *_: None)
    assert [(Path(each.path).name, each.problem.split()[-1]) for each in found.damaged] == [
        ("00000.tar", f"{cut.stat().st_size + 512:,}"),
        ("00002.tar", "index"),
        ("00003.tar", "missing"),
    ]
    (folder / "index.safetensors").write_bytes(b"")
    (damage,) = audit.audit({"photos": folder}, root, lambda *_: None).damaged
    assert damage.path.endswith("index.safetensors")


def test_figures_are_those_of_the_samples(tmp_path: Path) -> None:
    found = stats.figures(_pairs(tmp_path / "photos", tmp_path / "root"), tmp_path / "root", None)
    assert (found.count, found.shards, found.read, found.captions) == (10, 5, 10, 10)
    assert found.formats == {"JPEG": 9} and found.undecodable == 1
    assert found.widths is not None and (found.widths.least, found.widths.largest) == (40, 49)
    assert (found.distinct, found.empty, found.cut) == (5, 1, 1)
    assert found.words is not None and (found.words.least, found.words.median, found.words.largest) == (0, 2, 100)
    assert found.tokens is not None and (found.tokens.least, found.tokens.median, found.tokens.largest) == (2, 4, 102)
    some_of_it = stats.figures(tmp_path / "photos", tmp_path / "root", 4)
    assert (some_of_it.count, some_of_it.read, some_of_it.captions) == (10, 4, 4)
    votes = stats.figures(_triplets(tmp_path / "votes", [0, 1, 1, 0]), None, None)
    assert votes.splits == {"train": 2, "val": 1, "test": 1} and votes.votes == {6: 1, 7: 1, 8: 1, 9: 1}


@pytest.mark.parametrize(("label", "left_won"), [(0, True), (1, False)])
def test_the_page_frames_the_side_that_won(tmp_path: Path, label: int, left_won: bool) -> None:
    about = contact.Sheet("votes", "Votes", "not stated", 3)
    page = contact.sheet(about, {"votes": _triplets(tmp_path / "votes", [label])}, None)
    pixels = np.asarray(Image.open(io.BytesIO(page)))
    framed = (pixels == Image.new("RGB", (1, 1), contact.RIGHT).getpixel((0, 0))).all(axis=2)
    columns, width = np.flatnonzero(framed.sum(axis=0) > 100), pixels.shape[1]
    assert bool(columns.min() < 0.25 * width) is left_won and columns.max() < 0.5 * width
    assert page == contact.sheet(about, {"votes": tmp_path / "votes"}, None)


def test_a_page_shows_what_cannot_be_decoded_and_any_caption(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "odd", "odd", "pairs") as writer:
        for number, text in enumerate(["\x00\x1b[2J\u202e bad", "x" * 4000, "", "日本語 " * 90]):
            writer.add(f"p{number}", {"png": b"no image" if number == 1 else _image(RED), "txt": text.encode()})
    page = Image.open(
        io.BytesIO(contact.sheet(contact.Sheet("odd", "t" * 500, "", 0), {"odd": tmp_path / "odd"}, None))
    )
    colours = {colour for _, colour in page.getcolors(1 << 20) or ()}
    assert RED in colours and page.height < 900


def test_draws_are_different_numbers_and_keyed() -> None:
    drawn = some(50, 40, "a")
    assert len(set(drawn.tolist())) == 40 and drawn.min() >= 0 and drawn.max() < 50
    assert sorted(some(7, 9, "a").tolist()) == list(range(7))
    assert some(10**7, 3, "a").tolist() == some(10**7, 3, "a").tolist() != some(10**7, 3, "b").tolist()


def test_a_training_on_undeclared_captions_is_refused_before_anything_else(tmp_path: Path) -> None:
    places = _workspace(tmp_path)
    loaded = load(tmp_path / "specs/pi_vs_random.yaml")
    with pytest.raises(RequestError) as refused:
        stages.prepare(loaded, stages.Choice(), places)
    text = str(refused.value)
    for part in ("specs/data/yfcc15m.yaml: settings.captions", "raw, synthetic, generated, mixed", "samples.json"):
        assert part in text
    assert "GPU" in text, "what is missing here is told along with it"
    # Fetching is how one finds out, so it is not refused for that; here, for want of GPUs and disk.
    with pytest.raises(StateError) as missing:
        stages.prepare(loaded, stages.Choice(until="fetch"), places)
    assert "settings.captions" not in str(missing.value)
    card = loaded.cards["yfcc15m"]
    for kind, stops in (("mixed", False), ("raw", False), ("Raw", True), (["{name}"], False)):
        settings = {**card.settings, "captions": kind}
        assert (captions.undeclared(card.model_copy(update={"settings": settings})) is not None) is stops
    assert build([loaded]).stages, "it can still be planned"
    # A joint stage pretrains as well.
    others = {name: None for name in load(tmp_path / "specs/controls.yaml").arms if name != "joint"}
    spec = {"extends": "controls.yaml", "name": "j", "science": {"baseline": "joint", "report": None, "arms": others}}
    (tmp_path / "specs/j.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(RequestError, match="captions"):
        stages.prepare(load(tmp_path / "specs/j.yaml"), stages.Choice(), places)


def test_a_dry_run_says_what_it_would_run_and_that_it_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from pi_repro.cli import app

    _workspace(tmp_path)
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "specs/pi_vs_random.yaml", "--dry-run"])
    assert "would run pretrain@" in done.output and "would be refused" in done.output.splitlines()[-1]
    assert isinstance(done.exception, RequestError) and "settings.captions" in str(done.exception)
    done = CliRunner().invoke(app, ["run", "specs/demo-tiny.yaml", "--dry-run"])
    assert done.exception is None and "refused" not in done.output
    assert not (tmp_path / ".pirepro").exists(), "it touched something"


def test_a_dataset_without_an_experiment_is_part_of_the_plan_until_it_is_disabled(tmp_path: Path) -> None:
    places = _workspace(tmp_path)
    params.write(tmp_path, params.plan(tmp_path))
    before = (tmp_path / "specs/enabled.yaml").read_bytes(), (tmp_path / "params.json").read_bytes()
    card = tmp_path / "specs/data/tiny-pairs.yaml"
    assert params.enable(tmp_path, card) and not params.enable(tmp_path, card)
    assert "tiny-pairs" in read_json(tmp_path / "params.json")["fetch"]
    assert [path.name for path in params.enabled(tmp_path)] == ["demo.yaml"]
    assert datasets.named("tiny-pairs", places).enabled and not datasets.named("tiny-suite", places).enabled
    # An experiment that names it, too, asks for the same stage.
    assert params.enable(tmp_path, tmp_path / "specs/demo-tiny.yaml")
    assert params.disable(tmp_path, tmp_path / "specs/demo-tiny.yaml")
    assert params.disable(tmp_path, card)
    assert ((tmp_path / "specs/enabled.yaml").read_bytes(), (tmp_path / "params.json").read_bytes()) == before


def test_names_are_found_and_absent_data_says_what_to_type(tmp_path: Path) -> None:
    places = _workspace(tmp_path)
    assert {"nights", "yfcc15m", "demo-pairs", "zeroshot-29-2"} <= {each.name for each in datasets.every(places)}
    with pytest.raises(RequestError, match="no card") as wrong:
        datasets.named("nigths", places)
    assert "did you mean 'nights'" in str(wrong.value)
    with pytest.raises(StateError, match="not fetched") as absent:
        datasets.fetched("nights", places)
    assert "pirepro data fetch nights" in str(absent.value)
    write_json(tmp_path / "data/nights/index.json", {"home": "nights/0123"})
    with pytest.raises(StateError, match="not here") as away:
        datasets.fetched("nights", places)
    assert "nights/0123" in str(away.value)
    (tmp_path / "root/nights/0123").mkdir(parents=True)
    assert datasets.fetched("nights", places).home == tmp_path / "root/nights/0123"


def test_local_copies_belong_to_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, pairs = (load_card(ROOT / f"specs/data/{name}.yaml") for name in ("tiny-suite", "yfcc15m"))
    (tmp_path / "noto").mkdir()
    assert fetching.local_copies([str(tmp_path)], pairs) == {"yfcc15m-hub": str(tmp_path)}
    assert fetching.local_copies([f"openmoji={tmp_path}"], suite) == {"openmoji": str(tmp_path)}
    assert fetching.local_copies([str(tmp_path)], suite) == {"noto": str(tmp_path / "noto")}
    for wrong in (f"nobody={tmp_path}", f"noto={tmp_path / 'absent'}", str(tmp_path / "noto")):
        with pytest.raises(RequestError):
            fetching.local_copies([wrong], suite)
    for wrong, said in (("[1]", "JSON object"), ('{"a": 1}', "JSON object"), ('{"a": "b"}', "absolute")):
        monkeypatch.setenv(supplied.FROM, wrong)
        with pytest.raises(RequestError, match=said):
            supplied.copies()


def test_a_card_for_readers_holds_every_licence_warning_and_count(tmp_path: Path) -> None:
    places = _workspace(tmp_path)
    card = load_card(tmp_path / "specs/data/nights.yaml")
    found = {"count": 17_443, "splits": {"train": 13_899}, "warnings": [*card.warnings, "one less"], "failures": ["t"]}
    write_json(tmp_path / "data/nights/card.json", found)
    nights = datasets.named("nights", places)
    text = datacard.markdown(nights)
    for part in (*card.warnings, "one less", card.licence, card.citation, *(source.locator for source in card.sources)):
        assert " ".join(part.split()) in text
    assert "13,899 training triplets (the card expects 13,900)" in text
    assert datacard.failures(nights) == 1 and datacard.content(nights)["found"] == found
    json.dumps(datacard.content(nights))


def test_a_card_s_words_are_shown_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = _workspace(tmp_path)
    nights = datasets.named("nights", places)
    terms = "free [see LICENSE] :key: [/terms]"
    terminal.card(replace(nights, card=nights.card.model_copy(update={"licence": terms})))
    assert terms in capsys.readouterr().out


def test_the_bill_of_the_paper_s_data_adds_up() -> None:
    cards = load(ROOT / "specs/pi_vs_random.yaml").cards
    bills = {name: data_bill.bill(card) for name, card in cards.items()}
    pairs, nights, suite = bills["yfcc15m"], bills["nights"], bills["zeroshot-29-2"]
    assert pairs.egress_bytes == cards["yfcc15m"].sources[0].bytes and not pairs.estimated
    assert pairs.peak_bytes - pairs.disk_bytes == pytest.approx(data_bill.CORES * 745e6, rel=0.01)
    assert nights.estimated and nights.peak_bytes == 2 * nights.disk_bytes
    assert suite.estimated and suite.peak_bytes == suite.disk_bytes and suite.core_hours == 0
    assert pairs.hours == max(pairs.download_hours, pairs.core_hours / data_bill.CORES)
    everything = data_bill.total(bills.values())
    assert everything.peak_bytes == sum(each.disk_bytes for each in bills.values()) + nights.disk_bytes
    assert everything.files == sum(card.files for card in cards.values())
    assert all(rate.source for rate in everything.rates)


@pytest.mark.parametrize("name", ["yfcc3m", "yfcc15m-holdout"])
def test_a_draw_alone_costs_what_all_shards_cost(name: str) -> None:
    """Its pairs lie in every parquet file, so every one is fetched and converted."""
    part, whole = (load_card(ROOT / f"specs/data/{each}.yaml") for each in (name, "yfcc15m"))
    cost, all_of_it = data_bill.bill(part), data_bill.bill(whole)
    assert (cost.egress_bytes, cost.disk_bytes, cost.files) == (1_122_715_000_000, 1_160_000_000_000, 4_530)
    assert (cost.peak_bytes, cost.download_hours) == (all_of_it.peak_bytes, all_of_it.download_hours)
    rows = whole.count + int(whole.settings["holdout"])
    assert part.settings["rows"] == rows and cost.core_hours == pytest.approx(rows / 528.7 / 3600)
    assert cost.core_hours == pytest.approx(all_of_it.core_hours, rel=1e-3)


def test_shards_that_cards_share_are_paid_once(tmp_path: Path) -> None:
    from pi_repro.launch import requirements

    names = ("yfcc15m", "yfcc3m", "yfcc15m-holdout")
    cards = [load_card(ROOT / f"specs/data/{name}.yaml") for name in names]
    first, *views = data_bill.bills(cards)
    assert first == data_bill.bill(cards[0]) and {each.egress_bytes + each.peak_bytes for each in views} == {0}
    assert dataclasses.replace(data_bill.total([first, *views]), name=first.name) == first
    size = int(0.6 * shutil.disk_usage(tmp_path).free)
    large = {card.name: card.model_copy(update={"disk_bytes": size, "sources": ()}) for card in cards}
    assert requirements._disk(large, _workspace(tmp_path), 0, 0, None) == []


def test_a_view_of_shards_that_others_hold_needs_no_second_copy(tmp_path: Path) -> None:
    """Disk for what an interrupted fetch left is not asked for again."""
    from pi_repro.launch import requirements

    places = _workspace(tmp_path)
    content = yaml.safe_load((tmp_path / "specs/data/yfcc15m.yaml").read_text())
    free = shutil.disk_usage(tmp_path).free
    content |= {"disk_bytes": free + 10**9, "sources": [{**content["sources"][0], "bytes": 1}]}
    (tmp_path / "specs/data/yfcc15m.yaml").write_text(yaml.safe_dump(content))
    card = load_card(tmp_path / "specs/data/yfcc15m.yaml")
    (disk,) = requirements.check_data(card, places)
    assert disk.what == "disk"
    home = tmp_path / "root/yfcc15m/0123"
    home.mkdir(parents=True)
    with (home / "a.tar").open("wb") as file:
        file.truncate(11 * 10**9)  # sparse: counts by its length
    assert requirements.check_data(card, places) == []
    (root,) = requirements.check_data(card, Places(tmp_path, tmp_path, tmp_path, tmp_path, None))
    assert root.what == "data root"
