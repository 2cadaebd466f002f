"""The suite's fetcher, served by a hub on this machine: what is adopted, what is refused, what a person is told."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi_repro.data.shards import Shards
from pi_repro.data.zeroshot import real, tars
from pi_repro.data.zeroshot.families import MAPS
from pi_repro.data.zeroshot.settings import checked
from pi_repro.errors import Interrupted, PireproError, RequestError, StateError
from pi_repro.files import path_digest, sha256_file
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Resources
from pi_repro.spec.loading import load_card
from pi_repro.stages import fetch
from pi_repro.stages.context import StageContext

from .mini_suite import CARD, write_suite, write_tar
from .servers import FileServer, HubServer

PLAN = CARD.with_name("zeroshot-29-2-plan.yaml")
SETS = ("imagenet1k", "objectnet", "vtab-pcam", "voc2007", "flickr30k")
RESOURCES = Resources.model_construct()


class Site:
    """A data root, the hub's repositories and card of a small suite, and fetches of it."""

    def __init__(self, folder: Path, hub: Path, card: dict[str, Any], repositories: dict[str, Path]) -> None:
        self.folder, self.hub, self.card, self.repositories = folder, hub, card, repositories
        self.data_root = folder / "site"
        self.home = self.data_root / card["name"]
        self.count = 0

    def source(self, name: str) -> dict[str, Any]:
        """A source of the card, to be changed."""
        return next(source for source in self.card["sources"] if source["name"] == name)

    def set(self, name: str) -> dict[str, Any]:
        """A set of the card, to be changed."""
        return next(entry for entry in self.card["sets"] if entry["id"] == name)

    def repository(self, name: str) -> Path:
        """The folder that the hub serves for a set."""
        return self.repositories[self.source(self.set(name)["source"])["locator"]]

    def only(self, *names: str) -> None:
        """Leave these sets in the card."""
        self.card["sets"] = [self.set(name) for name in names]

    def fetch(self, should_stop: Callable[[], bool] = lambda: False) -> Path:
        """Run the fetch stage as in a new workspace; its output."""
        self.count += 1
        out = self.folder / f"out-{self.count}"
        scratch = self.folder / "scratch" / f"{self.count}"
        scratch.mkdir(parents=True)
        fetch.run(
            StageContext(
                name=f"fetch@{self.card['name']}",
                settings={"recipe": 1, "card": self.card},
                inputs={},
                scratch=scratch,
                out=out,
                resources=RESOURCES,
                data_root=self.data_root,
                should_stop=should_stop,
            )
        )
        return out


Samples = list[tuple[str, dict[str, bytes]]]


def samples_of(path: Path) -> Samples:
    """What a tar holds."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None
            samples.setdefault(key, {})[extension] = file.read()
    return list(samples.items())


def rewrite(folder: Path, change: Callable[[Samples], object]) -> None:
    """Change the samples of a set's first tar."""
    path = folder / "test" / "0.tar"
    samples = samples_of(path)
    change(samples)
    write_tar(path, samples)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("hub")
    return root, write_suite(root, only=SETS)[1]


@pytest.fixture
def site(made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    root, card = made
    shutil.copytree(root, tmp_path / "hub")
    card = copy.deepcopy(card)
    repositories = {s["locator"]: tmp_path / "hub" / s["locator"].replace("/", "--") for s in card["sources"]}
    for name in ("PIREPRO_FROM", "PIREPRO_ACCEPTED", "PIREPRO_DOWNLOADS", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIREPRO_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("PIREPRO_PATIENCE", '{"tries": 2, "first_wait": 0.01}')
    return Site(tmp_path, tmp_path / "hub", card, repositories)


@pytest.fixture
def server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(site.repositories, lfs=1024) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_sets_lie_as_published_and_are_fetched_once(site: Site, server: HubServer) -> None:
    out = site.fetch()
    suite, card = (json.loads((out / name).read_text()) for name in ("suite.json", "card.json"))
    assert [entry["id"] for entry in suite["sets"]] == list(SETS) and suite["skipped"] == []
    assert card["count"] == site.card["count"] and not card["failures"] and not card["warnings"]
    for name in SETS:
        for path in sorted((site.repository(name) / "test").iterdir()):
            assert (site.home / name / "test" / path.name).read_bytes() == path.read_bytes()
        assert not (site.home / name / "train").exists()
        shards = Shards.open(out / name, site.data_root)
        shards.verify()
        assert shards.count == site.set(name)["n"] and shards.key(1) == "s0000001"
        members = dict(samples_of(site.home / name / "test" / "0.tar"))["s0000001"]
        image = next(content for extension, content in members.items() if extension in tars.IMAGES)
        assert shards.read("image", 1) == image
        if name == "flickr30k":
            assert shards.read("text", 1) == members["txt"] and card["sets"][name]["captions"] == 5 * shards.count
        else:
            assert int(shards.column("label")[1]) == int(members["cls"])
    record = next(source for source in card["sources"] if source["name"] == "voc2007")
    assert record["revision"] == server.main["datasets/clip-benchmark/wds_voc2007"] and len(record["sha256"]) == 64
    server.forget()
    assert path_digest(site.fetch()) == path_digest(out)
    assert not server.asked and not server.cdn.asked


def test_an_interrupted_fetch_goes_on_and_a_damaged_tar_is_fetched_again(site: Site, server: HubServer) -> None:
    calls = 0

    def soon() -> bool:
        nonlocal calls
        calls += 1
        return calls > 12

    with pytest.raises(Interrupted):
        site.fetch(soon)
    there = list(site.home.rglob("*.tar"))
    assert there and len(there) < 2 * len(SETS)
    server.forget()
    whole = path_digest(site.fetch())
    arrived = {asked.path.rpartition("/")[0] for asked in server.cdn.asked if asked.sent}
    assert len(arrived) == 2 * len(SETS) - len(there)

    tar = site.home / "voc2007" / "test" / "1.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    server.forget()
    assert path_digest(site.fetch()) == whole
    assert {asked.path.split("/")[3] for asked in server.cdn.asked} == {"wds_voc2007"}


def test_the_hub_moves_on_and_the_card_decides(site: Site, server: HubServer) -> None:
    site.only("voc2007")
    before, tar = path_digest(site.fetch()), site.home / "voc2007" / "test" / "0.tar"
    old = tar.read_bytes()
    rewrite(site.repository("voc2007"), lambda samples: samples[0][1].update(cls=b"3"))
    commit = server.commit("clip-benchmark/wds_voc2007", site.repository("voc2007"))
    assert path_digest(site.fetch()) == before and tar.read_bytes() == old

    site.source("voc2007")["revision"] = commit
    after = site.fetch()
    assert tar.read_bytes() == (site.repository("voc2007") / "test" / "0.tar").read_bytes() != old
    card = json.loads((after / "card.json").read_text())
    assert card["sources"][0]["revision"] == commit
    site.source("voc2007")["digest"] = f"sha256:{card['sources'][0]['sha256']}"
    assert Shards.open(site.fetch() / "voc2007", site.data_root).count
    site.source("voc2007")["digest"] = f"sha256:{'0' * 64}"
    with pytest.raises(StateError, match="the files' digest is"):
        site.fetch()


def test_all_sets_that_a_person_must_provide_are_named_at_once(
    site: Site, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated.add("clip-benchmark/wds_voc2007")
    site.source("flickr30k")["locator"] = "clip-benchmark/wds_gone"
    real_card = {source.name: source for source in load_card(CARD).sources}
    for name in ("imagenet1k", "objectnet"):
        site.source(name).update(access="gated", how_to=real_card[name].how_to)
    with pytest.raises(StateError) as caught:
        site.fetch()
    message = str(caught.value)
    assert "4 of 5 sets cannot be had; nothing was downloaded" in message
    for part in ("image-net.org", "objectnet.dev", "accept the terms there", "HF_TOKEN", "wds_gone"):
        assert part in message, message
    for name in ("imagenet1k", "objectnet", "voc2007", "flickr30k"):
        assert f"--from {name}=PATH" in message
    assert "settings.skip" in message and "pcam" not in message
    assert not list(site.home.rglob("*.tar"))

    # Terms accepted; a copy of one set; a token; and the last one left out by name.
    monkeypatch.setenv("PIREPRO_ACCEPTED", "imagenet1k")
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"objectnet": str(site.repository("objectnet"))}))
    monkeypatch.setenv("HF_TOKEN", server.token)
    site.card["settings"]["skip"] = ["flickr30k"]
    out = site.fetch()
    card = json.loads((out / "card.json").read_text())
    assert card["skipped"] == ["flickr30k"] and "left out" in card["warnings"][0]
    assert [entry["id"] for entry in json.loads((out / "suite.json").read_text())["skipped"]] == ["flickr30k"]
    published = site.repository("objectnet") / "test" / "0.tar"
    assert (site.home / "objectnet" / "test" / "0.tar").samefile(published)

    # What lies there needs neither network nor permission any more.
    for name in ("PIREPRO_ACCEPTED", "PIREPRO_FROM", "HF_TOKEN"):
        monkeypatch.delenv(name)
    server.forget()
    assert path_digest(site.fetch()) == path_digest(out) and not server.asked


def test_one_folder_may_hold_all_and_sets_may_be_put_into_the_data_root(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    shutil.copytree(site.repository("vtab-pcam"), site.home / "vtab-pcam")
    mine = site.folder / "mine"
    mine.mkdir()
    for name in ("imagenet1k", "objectnet", "voc2007"):
        site.repository(name).rename(mine / name)
    site.repository("flickr30k").rename(mine / "wds_flickr30k")  # as the hub calls it
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({site.card["name"]: str(mine)}))
    out = site.fetch()
    assert json.loads((out / "card.json").read_text())["count"] == site.card["count"]

    tar = site.home / "vtab-pcam" / "test" / "0.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    with pytest.raises(StateError, match="not what the first fetch found") as caught:
        site.fetch()
    assert str(tar) in str(caught.value)


def test_no_network_is_said_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(StateError, match="2 tries in a row brought nothing"):
        site.fetch()


def damage(samples: Samples) -> None:
    members = samples[2][1]
    members.update({extension: b"no image" for extension in members if extension in tars.IMAGES})


def test_sets_that_are_not_what_the_card_says_are_all_named(site: Site, server: HubServer) -> None:
    site.set("imagenet1k")["n"] += 1
    site.set("objectnet")["classes"] += 1
    rewrite(site.repository("vtab-pcam"), lambda samples: samples[0][1].update(cls=b"2"))
    rewrite(site.repository("voc2007"), damage)
    (site.repository("flickr30k") / "dataset_type.txt").unlink()
    for repo, folder in site.repositories.items():
        server.commit(repo, folder)
    with pytest.raises(StateError) as caught:
        site.fetch()
    message = str(caught.value)
    assert "5 sets are not what they should be" in message
    n = site.set("imagenet1k")["n"]
    for part in (
        f"{n - 1} images, the card says {n}",
        "7 class names, the card says 8",
        "labels outside 0 to 1: 2",
        "more than 0 undecodable images: test/0.tar s0000002",
        "the set has another task",
    ):
        assert part in message, part


def test_undecodable_images_are_left_out_and_listed_where_the_card_allows(site: Site, server: HubServer) -> None:
    rewrite(site.repository("voc2007"), damage)
    server.commit("clip-benchmark/wds_voc2007", site.repository("voc2007"))
    site.only("voc2007")
    site.card["settings"]["undecodable"] = 1
    out = site.fetch()
    card = json.loads((out / "card.json").read_text())
    assert [(f["set"], f["tar"], f["key"]) for f in card["failures"]] == [("voc2007", "test/0.tar", "s0000002")]
    assert (
        card["sets"]["voc2007"]["n"]
        == site.set("voc2007")["n"] - 1
        == Shards.open(out / "voc2007", site.data_root).count
    )
    assert "cannot be decoded" in card["warnings"][0]
    assert path_digest(site.fetch()) == path_digest(out)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("test/nshards.txt", b"3", "nshards.txt and the tars do not fit"),
        ("classnames.txt", b"a\n\nb\n", "no line empty"),
        ("zeroshot_classification_templates.txt", b"a photo\n", "template takes no class name"),
        ("dataset_type.txt", b"multilabel", "the set has another task"),
    ],
)
def test_texts_are_checked(site: Site, server: HubServer, file: str, content: bytes, problem: str) -> None:
    (site.repository("voc2007") / file).write_bytes(content)
    site.only("voc2007")
    server.commit("clip-benchmark/wds_voc2007", site.repository("voc2007"))
    with pytest.raises(StateError, match=problem):
        site.fetch()


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[Any, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


GOOD = [entry("a.png", b"x"), entry("a.cls", b"1")]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([*GOOD, entry("b.png", kind=tarfile.SYMTYPE, target="/etc/passwd")], "a link"),
        ([*GOOD, entry("b.png", kind=tarfile.LNKTYPE, target="a.png")], "a link"),
        ([*GOOD, entry("b.png", kind=tarfile.CHRTYPE)], "a device"),
        ([*GOOD, entry("../b.png", b"x")], "odd name"),
        ([*GOOD, entry("/b.png", b"x")], "odd name"),
        ([*GOOD, entry("b\n.png", b"x")], "odd name"),
        ([*GOOD, entry("b" * 100 + ".png", b"x")], "odd name"),
        ([*GOOD, entry("a.png", b"y")], "one name"),
        ([*GOOD, entry("a.PNG", b"y")], "differ in case"),
        ([*GOOD, entry("b.png", b"x"), entry("b.cls", b"1"), entry("a.json", b"")], "a sample is there twice"),
        ([*GOOD, entry("b.png", b"x")], "incomplete"),
        ([*GOOD, entry("b.png", b"x"), entry("b.npy", b"")], "multi-label"),
        ([*GOOD, entry("b.png", b"x"), entry("b.cls", b"cat")], "class is no number"),
    ],
)
def test_hostile_and_odd_tars_are_refused(tmp_path: Path, members: list[tuple[Any, bytes]], problem: str) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(StateError, match=problem) as caught:
        tars.read(path, "test/0.tar", "0" * 64, "classification")
    assert str(path) in str(caught.value)


def test_a_tar_cut_anywhere_is_refused(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole = next(made[0].rglob("*voc2007/test/0.tar"))
    samples = tars.read(whole, "test/0.tar", sha256_file(whole), "classification").samples
    end = samples[-1].image[0] + samples[-1].image[1]
    for length in (100, 700, 1500, 2100, end - 1):
        cut = tmp_path / "0.tar"
        cut.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(StateError, match=r"0\.tar"):
            tars.read(cut, "test/0.tar", "0" * 64, "classification")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"skip": ["imagenet"]}, "no such set"),
        ({"family_map": "mine"}, "no such map"),
        ({"undecodable": -1}, "greater than or equal"),
        ({"slip": []}, "Extra inputs"),
        ({"real_labels": {"set": "imagenet1k", "labels": "x", "order": "y"}}, "no such source"),
        ({"skip": list(SETS[:-1])}, "no classification set is left"),
    ],
)
def test_wrong_settings_are_named(site: Site, change: dict[str, Any], problem: str) -> None:
    site.card["settings"].update(change)
    with pytest.raises(RequestError, match=problem):
        site.fetch()


def test_the_family_map_is_a_choice_with_a_name() -> None:
    for path in (CARD, PLAN):
        card = load_card(path)
        assert {one.id: one.family for one in card.sets} == {one.id: MAPS["plan-1"][one.id] for one in card.sets}
    moved = {name for name, family in MAPS["collections-1"].items() if family != MAPS["plan-1"][name]}
    assert moved == {"vtab-kitti_closest_vehicle_distance", "sun397"}
    assert MAPS["plan-1"].keys() == MAPS["collections-1"].keys()


def test_the_chosen_map_decides(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.only("voc2007")
    site.set("voc2007").update(id="sun397")
    site.card["settings"]["family_map"] = "collections-1"
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"voc2007": str(site.repository("sun397"))}))
    (entry,) = json.loads((site.fetch() / "suite.json").read_text())["sets"]
    assert (entry["family"], entry["chance"]) == ("VTAB", pytest.approx(1 / 7))


def test_the_alternative_list_differs_by_two_sets() -> None:
    card, plan = load_card(CARD), load_card(PLAN)
    ours, theirs = ({one.id for one in suite.sets} for suite in (card, plan))
    assert ours - theirs == {"imagenet-o", "objectnet"} and theirs - ours == {"sun397", "birdsnap"}
    assert sum(one.task == "classification" for one in plan.sets) == 29 and len(plan.sets) == 31
    assert plan.count == sum(one.n or 0 for one in plan.sets)
    birdsnap = next(source for source in plan.sources if source.name == "birdsnap")
    assert birdsnap.access == "gated" and "settings.skip" in birdsnap.how_to
    for suite in (card, plan):
        checked(suite)
    # What NIGHTS says of its categories is said of sets that these lists have.
    named = load_card(CARD.with_name("nights.yaml")).settings["category_sources"].values()
    assert {name for names in named for name in names} <= ours | theirs


def test_a_set_that_nobody_offers_is_explained(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_card(PLAN)
    birdsnap = next(source for source in plan.sources if source.name == "birdsnap")
    site.card["sources"] = [birdsnap.model_dump(mode="json")]
    site.card["sets"] = [next(one for one in plan.sets if one.id == "birdsnap").model_dump(mode="json")]
    monkeypatch.setenv("PIREPRO_ACCEPTED", "birdsnap")
    with pytest.raises(StateError, match="no server offers this set") as caught:
        site.fetch()
    assert "Berg et al." in str(caught.value)
    shutil.copytree(site.repositories["clip-benchmark/wds_voc2007"], site.home / "birdsnap")
    site.card["sets"][0]["classes"] = 7
    assert json.loads((site.fetch() / "suite.json").read_text())["sets"][0]["n"] > 0


def test_cards_of_the_demo_are_hashed_as_before() -> None:
    for path in sorted(CARD.parent.glob("*-suite.yaml")):
        content = yaml.safe_load(path.read_text())
        dumped = Card.model_validate(content).model_dump(mode="json")
        assert "short_side" not in dumped and all(isinstance(one["n"], int) for one in dumped["sets"])


def test_real_labels_are_put_into_an_image_folder_s_order() -> None:
    synsets = ["n02", "n01", "n02", "n01", "n03"]
    labels = [[1], [], [1, 2], [0], [2]]
    assert real.in_folder_order(labels, synsets, [0, 0, 1, 1, 2], "x") == [[], [0], [1], [1, 2], [2]]
    with pytest.raises(StateError, match="not in the order of an image folder"):
        real.in_folder_order(labels, synsets, [0, 1, 0, 1, 2], "x")
    with pytest.raises(StateError, match="do not fit"):
        real.in_folder_order(labels, synsets, [0, 0, 1, 1], "x")
    with pytest.raises(StateError, match="no multi-label lists"):
        real.parse(b'{"a": 1}', "x")


def test_messages_are_for_people(site: Site) -> None:
    site.card["location"] = "workspace"
    with pytest.raises(PireproError, match="location: site"):
        site.fetch()


def test_imagenet_gets_its_several_labels(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by validation number arrive in the order of the set, a class after the other."""
    site.only("imagenet1k")
    repository, n = site.repository("imagenet1k"), site.set("imagenet1k")["n"]
    samples = samples_of(repository / "test" / "0.tar") + samples_of(repository / "test" / "1.tar")
    truth = [at * 7 // n for at in range(n)]
    for (_, members), label in zip(samples, truth, strict=True):
        members["cls"] = b"%d" % label
    write_tar(repository / "test" / "0.tar", samples[:6])
    write_tar(repository / "test" / "1.tar", samples[6:])
    numbers = [at * 4 % n for at in range(n)]  # the class of a validation image, by number; n is no multiple of 2
    labels = [[truth[at], 3] if at else [] for at in numbers]
    web = site.folder / "web"
    web.mkdir()
    (web / "real.json").write_text(json.dumps(labels))
    (web / "order.txt").write_text("".join(f"n{truth[at]:08d}\n" for at in numbers))
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"imagenet1k": str(repository)}))
    with FileServer(web) as server:
        for name in ("real.json", "order.txt"):
            source = {**site.source("voc2007"), "name": name.partition(".")[0], "kind": "http"}
            site.card["sources"].append({**source, "locator": f"{server.url}/{name}"})
        site.card["settings"]["real_labels"] = {"set": "imagenet1k", "labels": "real", "order": "order"}
        out = site.fetch()
        site.card["settings"]["undecodable"] = 1
        rewrite(repository, damage)
        shutil.rmtree(site.home)
        shutil.rmtree(site.folder / "downloads")
        fewer = site.fetch()
    found = json.loads((out / "imagenet1k" / real.FILE).read_text())
    by_class = sorted(range(n), key=lambda at: (truth[numbers[at]], at))
    assert found == [sorted({*labels[at]}) for at in by_class] and [] in found
    assert json.loads((fewer / "imagenet1k" / real.FILE).read_text()) == found[:2] + found[3:]
    records = json.loads((out / "card.json").read_text())["sources"]
    assert [record["name"] for record in records] == ["imagenet1k", "real", "order"]
