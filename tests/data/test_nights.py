"""NIGHTS in miniature, from a web server to shards: right triplets, once, whatever the form and whoever is killed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from pi_repro.data.nights import fetch as nights
from pi_repro.data.nights.supply import Supply
from pi_repro.data.shards import Shards
from pi_repro.data.sources import RemoteFile, Watch, origin_of
from pi_repro.data.triplets import SPLITS, TripletSet
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import read_json
from pi_repro.plan.graph import FETCHING
from pi_repro.spec.card import Card
from pi_repro.stages.context import StageContext

from .mini_nights import MiniNights, member
from .servers import Faults, FileServer

MINI = MiniNights()
SHIPPED = Path(__file__).parents[2] / "specs" / "data" / "nights.yaml"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIREPRO_PATIENCE", json.dumps({"tries": 2, "first_wait": 0.01, "stall": 5}))
    monkeypatch.delenv("PIREPRO_FROM", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    MINI.write_zip(tmp_path / "www" / "nights.zip")
    MINI.write_chunks(tmp_path / "www" / "nights_chunked")
    with FileServer(tmp_path / "www") as server:
        yield server


def card(url: str, **settings: Any) -> Card:
    """The shipped card, of the miniature."""
    content = yaml.safe_load(SHIPPED.read_text())
    for source in content["sources"]:
        source["locator"] = source["locator"].replace("https://data.csail.mit.edu/nights", url)
    counts = {split: sum(row["split"] == split for row in MINI.kept) for split in SPLITS}
    expected = {"rows": len(MINI.rows), "splits": counts, "shard_size": 9}
    content |= {"disk_bytes": 1_000_000, "settings": {**content["settings"], **expected, **settings}}
    return Card.model_validate(content)


def context(folder: Path, workers: int = 1, data_root: str = "data", **more: Any) -> StageContext:
    for name in ("scratch", "out"):
        (folder / name / "f").mkdir(parents=True, exist_ok=True)
    return StageContext(
        name="fetch@nights",
        settings={},
        inputs={},
        scratch=folder / "scratch" / "f",
        out=folder / "out" / "f",
        resources=FETCHING.model_copy(update={"workers": workers}),
        data_root=folder / data_root,
        log=logging.getLogger("pirepro.test"),
        **more,
    )


def made(folder: Path) -> dict[str, bytes]:
    """Every byte that a training reads: tars and index."""
    paths = [*(folder / "data").rglob("*.tar"), *(folder / "out").rglob("index.*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("form", ["zip", "chunked"])
def test_triplets_are_those_of_the_table(server: FileServer, tmp_path: Path, form: str) -> None:
    stage = context(tmp_path)
    nights.fetch(card(server.url, form=form), stage)
    shards = Shards.open(stage.out, stage.data_root)
    shards.verify()
    truth = sorted(MINI.kept, key=lambda row: row["ref_path"])
    assert shards.count == len(truth) and len(shards.shards) == -(-len(truth) // 9)
    for number, row in enumerate(truth):
        assert shards.key(number) == f"{int(row['id']):06d}"
        for name in ("ref", "left", "right"):
            assert shards.read(name, number) == MINI.images[row[f"{name}_path"]]
        columns = {name: int(shards.column(name)[number]) for name in ("id", "label", "votes", "split", "is_imagenet")}
        assert columns == {
            "id": int(row["id"]),
            "label": int(row["right_vote"]),
            "votes": int(row["votes"]),
            "split": SPLITS[row["split"]],
            "is_imagenet": int(row["is_imagenet"] == "True"),
        }
        assert json.loads(shards.read("json", number))["prompt"] == row["prompt"]
    triplets = TripletSet(shards)
    halves = [set(triplets.rows(split).tolist()) for split in ("test_imagenet", "test_no_imagenet")]
    assert halves[0] | halves[1] == set(triplets.rows("test").tolist()) and not halves[0] & halves[1]
    assert all(truth[row]["is_imagenet"] == "True" for row in halves[0]) and all(halves)
    about = read_json(stage.out / "card.json")
    assert about["count"] == len(truth) and about["differences"] == [] and about["failures"] == []
    assert about["splits"]["test_imagenet"] == len(halves[0])
    found = read_json(stage.out / "categories.json")
    assert {name: entry["is_imagenet"] for name, entry in found.items()} == {
        row["prompt"].removeprefix("An image of a "): row["is_imagenet"] == "True" for row in truth
    }
    text = json.dumps(about) + json.dumps(found)
    assert all(
        name in text for name in ("ImageNet", "CIFAR-10", "CIFAR-100", "Oxford 102 Flower", "Food-101", "SUN397")
    )
    assert str(tmp_path) not in text
    # Archives are gone, and whoever fetches again asks nobody.
    assert not list(tmp_path.joinpath("data").rglob("*.zip"))
    before, again = made(tmp_path), context(tmp_path)
    server.forget()
    nights.fetch(card(server.url, form=form), again)
    assert made(tmp_path) == before and read_json(again.out / "card.json") == about and server.asked == []


def test_both_forms_and_an_unpacked_copy_give_the_same_bytes(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.fetch(card(server.url), context(tmp_path / "zip", workers=2))
    whole = (tmp_path / "www" / "nights.zip").stat().st_size
    server.forget()
    nights.fetch(card(server.url, form="chunked"), context(tmp_path / "chunked", workers=2))
    assert made(tmp_path / "chunked") == made(tmp_path / "zip")
    asked = {asked.path for asked in server.asked}
    assert sum(path.startswith("/nights_chunked/") for path in asked) == 8
    assert sum(asked.sent for asked in server.asked if asked.path == "/nights.zip") < 2 * whole

    # A local copy of the table and none of the whole archive is touched; then a copy that somebody unpacked.
    server.forget()
    (tmp_path / "data.csv").write_bytes(MINI.table)
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"nights-zip": str(tmp_path / "data.csv")}))
    nights.fetch(card(server.url, form="chunked"), context(tmp_path / "table"))
    assert made(tmp_path / "table") == made(tmp_path / "zip")
    assert "/nights.zip" not in {asked.path for asked in server.asked}
    server.forget()
    for path, content in {**MINI.images, "data.csv": MINI.table}.items():
        (tmp_path / "copy" / "nights" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / "nights" / path).write_bytes(content)
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"nights-zip": str(tmp_path / "copy")}))
    nights.fetch(card(server.url), stage := context(tmp_path / "unpacked"))
    assert made(tmp_path / "unpacked") == made(tmp_path / "zip") and server.asked == []
    assert "no digest vouches" in read_json(stage.out / "card.json")["warnings"][-1]

    # A local archive is linked, not copied, and stays; one that is altered later is not taken for what it was.
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"nights-zip": str(tmp_path / "www" / "nights.zip")}))
    nights.fetch(card(server.url, keep_archive=True), context(tmp_path / "linked"))
    (held,) = (tmp_path / "linked" / "data").rglob("nights.zip")
    assert held.samefile(tmp_path / "www" / "nights.zip") and server.asked == []
    with held.open("r+b") as file:
        file.seek(whole // 2)
        file.write(b"altered")
    supply = Supply(origin_of(card(server.url).sources[0], context(tmp_path / "linked")), held.parent)
    with pytest.raises(StateError, match="changed since it was first fetched"):
        supply.hold(RemoteFile("nights.zip", whole), Watch())


def _fetch(folder: Path, url: str, form: str, workers: int = 2) -> None:
    nights.fetch(card(url, form=form), context(folder, workers))


@pytest.mark.parametrize("form", ["zip", "chunked"])
def test_killed_while_it_downloads_and_while_it_converts(server: FileServer, tmp_path: Path, form: str) -> None:
    _fetch(tmp_path / "whole", server.url, form, workers=1)
    folder, spawn = tmp_path / "cut", multiprocessing.get_context("spawn")

    def parts() -> list[Path]:
        found = []
        for root, folders, files in os.walk(folder):  # unlike a glob, it bears folders that vanish
            if Path(root).name == ".parts":
                folders.clear()
                found += [Path(root) / file for file in files if file.endswith(".json") and not file.startswith(".")]
        return found

    def kill_when(ready: Any) -> None:
        process = spawn.Process(target=_fetch, args=(folder, server.url, form))
        process.start()
        try:
            while process.is_alive() and not ready():
                time.sleep(0.005)
        finally:
            assert process.is_alive(), "it was to be killed before its end"
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        assert not (folder / "out" / "f" / "card.json").exists()

    sent = server.sent
    server.faults.slow = 0.02
    kill_when(lambda: server.sent > sent + 60_000)
    server.faults.slow = 0.0
    kill_when(lambda: len(parts()) >= 1)
    time.sleep(0.5)  # its children see that it is gone
    done = {path: path.stat().st_mtime_ns for path in parts()}
    _fetch(folder, server.url, form, workers=1)
    assert made(folder) == made(tmp_path / "whole")
    assert done and all(path.stat().st_mtime_ns == at for path, at in done.items()), "whole shards were made again"
    assert not list(folder.rglob("*.making"))


def test_room_is_asked_for_what_has_not_arrived_yet(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIREPRO_PATIENCE", json.dumps({"block": 16384, "journal": 0.001, "stall": 5}))
    server.faults.slow = 0.02
    with pytest.raises(Interrupted):
        nights.fetch(card(server.url), context(tmp_path, should_stop=lambda: server.sent > 200_000))
    (part,) = tmp_path.rglob(".nights.zip.part")
    size, here = (tmp_path / "www" / "nights.zip").stat().st_size, part.stat().st_blocks * 512
    assert here > 50_000
    disk = SimpleNamespace(f_bavail=1_000_000 + size - here // 2, f_frsize=1, f_blocks=1, f_files=0)
    monkeypatch.setattr("pi_repro.data.sources.space.os.statvfs", lambda _: disk)
    nights.fetch(card(server.url), context(tmp_path))


def test_array_tasks_make_the_shards_and_the_stage_puts_them_together(server: FileServer, tmp_path: Path) -> None:
    nights.fetch(card(server.url), context(tmp_path / "alone"))
    for task in range(3):
        nights.share(card(server.url), context(tmp_path / "shared"), task, 3)
        made_now = len(list((tmp_path / "shared").rglob("*.tar")))
        assert made_now == len([name for name in range(len(made(tmp_path / "alone")) - 2) if name % 3 <= task])
    server.forget()
    nights.fetch(card(server.url), context(tmp_path / "shared"))
    assert made(tmp_path / "shared") == made(tmp_path / "alone") and server.asked == []


def test_a_hostile_archive_is_refused_and_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    hostile = [(member("nights/ref/000/../../../../evil.png"), b"x")]
    MINI.write_zip(tmp_path / "www" / "nights.zip", hostile)
    for form in ("zip", "chunked"):
        with pytest.raises(StateError, match="would leave the archive") as caught:
            nights.fetch(card(server.url, form=form), context(tmp_path))
        assert "evil.png" in str(caught.value)
    MINI.write_zip(tmp_path / "www" / "nights.zip")
    path = MINI.kept[0]["left_path"]
    folder = "/".join(path.split("/")[:2])
    other = MINI.with_images({**MINI.images, path: b"\xff\xd8\xff\xe0 a JPEG"})
    other.write_chunks(tmp_path / "www" / "nights_chunked")
    with pytest.raises(StateError, match="a member is no PNG file") as caught:
        nights.fetch(card(server.url, form="chunked"), context(tmp_path))
    assert path.partition("/")[2] in str(caught.value) and f"{folder}.zip" in str(caught.value)
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("evil*"))
    assert not list((tmp_path / "out").rglob("*.json"))


def test_missing_images_and_other_counts_are_told(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone, broken = MINI.kept[3], MINI.kept[7]
    images = {**MINI.images, broken["ref_path"]: MINI.images[broken["ref_path"]][:-40]}
    del images[gone["right_path"]]
    MINI.with_images(images).write_zip(tmp_path / "www" / "nights.zip")
    with pytest.raises(StateError, match="more triplets cannot be used") as caught:
        nights.fetch(card(server.url), context(tmp_path))
    assert f"{int(gone['id']):06d}: an image is missing" in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.tar")), "known before the first shard"
    with pytest.raises(StateError, match="more triplets cannot be used") as caught:
        nights.fetch(card(server.url, max_failures=1), context(tmp_path))
    assert f"{broken['ref_path']} cannot be decoded" in str(caught.value)
    server.forget()
    nights.fetch(card(server.url, max_failures=2), stage := context(tmp_path))
    assert server.sent == 0, "all shards were whole"
    about = read_json(stage.out / "card.json")
    assert about["count"] == Shards.open(stage.out, stage.data_root).count == len(MINI.kept) - 2
    assert sorted(about["failures"])[0].startswith(f"{int(gone['id']):06d}: {gone['right_path']} is missing")
    assert about["failures_count"] == 2 and about["differences"]
    assert "expected" in caplog.text


def test_requests_that_cannot_be_met(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"settings\.form"):
        nights.fetch(card(server.url, form="tar"), context(tmp_path))
    with pytest.raises(RequestError, match="no such source"):
        nights.fetch(card(server.url, archive="elsewhere"), context(tmp_path))
    with pytest.raises(StateError, match="not enough room on disk"):
        nights.fetch(card(server.url).model_copy(update={"disk_bytes": 10**18}), context(tmp_path))
    assert not list((tmp_path / "data").rglob("*.zip"))
    stage = context(tmp_path)
    stage.__dict__["data_root"] = None
    with pytest.raises(StateError, match="no data root"):
        nights.fetch(card(server.url), stage)
    server.faults = Faults(no_ranges=True)
    nights.fetch(card(server.url, form="chunked"), context(tmp_path))
    assert np.all(Shards.open(tmp_path / "out" / "f", tmp_path / "data").column("votes") >= 6)
