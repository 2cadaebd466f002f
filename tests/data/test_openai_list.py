"""OpenAI's list: right pairs from every kind of source, what is gone is listed, bytes depend on nothing else."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from pi_repro.data import conversion
from pi_repro.data.fingerprints import phash_of
from pi_repro.data.openai_list import fetch as fetcher
from pi_repro.data.openai_list import joining
from pi_repro.data.openai_list.caption import caption, clean
from pi_repro.data.openai_list.settings import OpenaiListSettings
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import read_json
from pi_repro.spec.card import Card
from pi_repro.spec.loading import load_card
from pi_repro.spec.plugins import BUILT_IN
from pi_repro.stages.fetch import MODULES

from . import mini_openai as mini
from .mini_yfcc import MiniStage
from .servers import Faults, FileServer

PATIENCE = {"PIREPRO_PATIENCE": json.dumps({"first_wait": 0.05, "longest_wait": 0.2, "tries": 4})}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, this process alone (another one takes seconds to start), and no copies of the user's."""
    monkeypatch.setattr(conversion, "processors", lambda: 1)
    monkeypatch.setenv("PIREPRO_PATIENCE", PATIENCE["PIREPRO_PATIENCE"])
    for name in ("PIREPRO_FROM", "PIREPRO_DOWNLOADS"):
        monkeypatch.delenv(name, raising=False)


class Lossy(FileServer):
    """A bucket behind a web server; of one that is gone it says 403, as one that may not be listed does."""

    def reply(self, request: object, status: int, *rest: object, **more: object) -> None:
        name = mini.digest(47)
        denied = status == 404 and name in request.path  # type: ignore[attr-defined]
        super().reply(request, 403 if denied else status, *rest, **more)  # type: ignore[arg-type]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """Serves list.bz2, metadata.bz2, metadata.sql and images/."""
    folder = tmp_path / "served"
    folder.mkdir()
    mini.write_list(folder / "list.bz2")
    for form in ("bz2", "sql"):
        mini.write_metadata(folder / f"metadata.{form}", form)
    mini.write_bucket(folder / "images")
    with Lossy(folder, faults=Faults()) as server:
        yield server


def card_of(server: FileServer, form: str = "bz2", **settings: Any) -> Card:
    return mini.card(f"{server.url}/list.bz2", f"{server.url}/metadata.{form}", f"{server.url}/images/", **settings)


def made(stage: MiniStage) -> dict[str, bytes]:
    """Every shard and every output, by name; not the folders' names, which tell the source."""
    assert stage.data_root is not None
    files = [*sorted(stage.out.rglob("*")), *sorted(stage.data_root.rglob("*.tar"))]
    return {
        path.name: path.read_bytes()
        for path in files
        if path.is_file() and path.name not in ("card.json", "index.json")
    }


def test_pairs_are_right_and_what_is_gone_is_listed(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    shards = Shards.open(stage.out, stage.data_root)
    shards.verify()
    assert shards.count == mini.LISTED - len(mini.LOST) and [shard.count for shard in shards.shards] == [17, 19, 18]
    places = [place for place in range(mini.LISTED) if place not in mini.LOST]
    for row, place in enumerate(places):
        assert shards.key(row) == str(mini.photo_id(place)) == str(shards.column("photo_id")[row])
        assert shards.read("image", row) == mini.image(place)
        assert shards.read("text", row).decode() == mini.text(place)
        assert shards.column("phash")[row] == phash_of(mini.image(place))
        about = json.loads(shards.read("json", row))
        assert about["photographer"] == f"Ren\u00e9 {place}" and about["photo_id"] == mini.photo_id(place)
        assert about["licence"] == "Attribution-NonCommercial License" and "by-nc" in about["licence_url"]
    rows = [line.split("\t") for line in (stage.out / "failures.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == [str(mini.photo_id(place)) for place in sorted(mini.LOST)]
    assert all(row[1].startswith(mini.LOST[place]) for row, place in zip(rows, sorted(mini.LOST), strict=True))
    about = read_json(stage.out / "card.json")
    assert (about["listed"], about["with_metadata"], about["count"], about["failures"]["count"]) == (60, 59, 54, 6)
    assert about["failures"]["reasons"]["HTTP 404"] == 2 and about["captions"]["kind"] == "raw"
    assert [set(source) >= {"locator", "licence"} for source in about["sources"]] == [True] * 3
    assert str(tmp_path) not in json.dumps({**about, "card": 0, "sources": 0})
    # One request a photograph; a second fetch asks for none.
    asked = [row for row in server.asked if "/images/" in row.path]
    assert len(asked) == mini.LISTED - len(mini.UNKNOWN)
    server.forget()
    first = made(stage)
    again = replace(stage, out=tmp_path / "again")
    again.out.mkdir()
    fetcher.fetch(card_of(server), again)  # type: ignore[arg-type]
    assert server.sent < 100 and made(again) == first and read_json(again.out / "card.json") == about


def test_bytes_depend_on_no_order_form_or_number_of_processes(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and database, one process with one connection and two with many, array tasks in any order."""
    found = []
    for number, (form, processes) in enumerate((("bz2", 1), ("sql", 2), ("bz2", 0))):
        monkeypatch.setattr(fetcher, "_CONNECTIONS", 1 if processes == 1 else 60)
        monkeypatch.setattr(fetcher, "_LEAST", 1)
        monkeypatch.setattr(conversion, "processors", lambda count=processes: count or 1)
        stage, card = MiniStage.below(tmp_path / str(number)), card_of(server, form)
        if not processes:
            for share in (2, 0, 1):
                fetcher.share(card, stage, share, 3)  # type: ignore[arg-type]
            server.forget()
        fetcher.fetch(card, stage)  # type: ignore[arg-type]
        found.append(made(stage))
    assert found[0] == found[1] == found[2] and server.sent < 100


def test_a_local_bucket_and_an_object_store_give_the_same(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = server.folder
    monkeypatch.setenv(
        "PIREPRO_FROM",
        json.dumps({"images": str(folder / "images"), "metadata": str(mini.write_metadata(tmp_path / "m.txt", "txt"))}),
    )
    local = MiniStage.below(tmp_path / "local")
    fetcher.fetch(card_of(server), local)  # type: ignore[arg-type]
    monkeypatch.delenv("PIREPRO_FROM")
    stored = MiniStage.below(tmp_path / "stored")
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "images"), "/bucket/images", recursive=True)
    card = mini.card(f"{server.url}/list.bz2", f"{server.url}/metadata.bz2", "memory://bucket/images/", kind="objects")
    fetcher.fetch(card, stored)  # type: ignore[arg-type]
    first, second = made(local), made(stored)
    assert first.pop("failures.tsv").count(b"not in the local copy") == 3
    assert second.pop("failures.tsv").count(b"no such object") == 3
    assert first == second and (tmp_path / "m.txt").is_file()


def test_a_crawl_by_img2dataset(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = MiniStage.below(tmp_path / "bucket")
    fetcher.fetch(card_of(server), bucket)  # type: ignore[arg-type]
    stage, card = MiniStage.below(tmp_path), card_of(server, images="img2dataset")
    with pytest.raises(StateError, match="crawled first") as refusal:
        fetcher.fetch(card, stage)  # type: ignore[arg-type]
    assert "--disable_all_reencoding True" in str(refusal.value) and "--from images=OUT" in str(refusal.value)
    urls = Path(str(refusal.value.where))
    crawled = mini.crawl(urls, tmp_path / "crawled")
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"images": str(crawled)}))
    (crawled / "00002_stats.json").rename(tmp_path / "later")
    with pytest.raises(StateError, match="has not finished this range"):
        fetcher.fetch(card, stage)  # type: ignore[arg-type]
    (tmp_path / "later").rename(crawled / "00002_stats.json")
    fetcher.fetch(card, stage)  # type: ignore[arg-type]
    first, second = made(bucket), made(stage)
    reasons = read_json(stage.out / "card.json")["failures"]["reasons"]
    assert reasons["failed_to_download: HTTP Error 404: Not Found"] == 3
    assert first.pop("failures.tsv") != second.pop("failures.tsv") and first == second
    # Photographs of another range are refused, not taken for these.
    (crawled / "00001.tar").rename(crawled / "00000.tar")
    with pytest.raises(StateError, match="photographs of another range"):
        fetcher.fetch(card, MiniStage.below(tmp_path / "other"))  # type: ignore[arg-type]


def test_an_outage_is_no_link_rot(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    with pytest.raises(StateError, match="too many photographs of a range are missing") as refusal:
        fetcher.fetch(card_of(server, missing_allowed=0.1), stage)  # type: ignore[arg-type]
    assert "3 of 20: " in str(refusal.value) and "HTTP 404" in str(refusal.value)
    server.faults.refuse = [(503, "0")] * 3
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    server.faults.refuse = [(503, None)] * 500
    with pytest.raises(StateError, match="tries in a row"):
        fetcher.fetch(card_of(server, part_size=15), stage)  # type: ignore[arg-type]


def test_a_stricter_card_does_not_take_over_what_a_lenient_one_made(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="too many photographs of a range are missing"):
        fetcher.fetch(card_of(server, missing_allowed=0.1), stage)  # type: ignore[arg-type]


def test_metadata_goes_although_its_reader_was_killed_once_it_was_joined(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    assert stage.data_root is not None
    (joined,) = stage.data_root.rglob("list.json")
    (joined.parent / "metadata").write_bytes(b"66 GB of it")
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    assert not (joined.parent / "metadata").exists()


def test_a_crawler_is_given_addresses_of_the_web_alone(tmp_path: Path) -> None:
    listing = mini.write_list(tmp_path / "list")
    described = mini.write_metadata(tmp_path / "metadata", "txt")
    local = f"file://{tmp_path}/7.jpg"
    described.write_bytes(described.read_bytes().replace(b"http://files.example/7.jpg", local.encode()))
    joining.join(listing, described, tmp_path / "h", 60, urls=True, should_stop=lambda: False, progress=lambda *_: None)
    addresses = parquet.read_table(tmp_path / "h/urls/00000.parquet")["url"].to_pylist()
    assert addresses[7] == "" and addresses[8] == "http://files.example/8.jpg"


@pytest.mark.parametrize("kills", [(20,), pytest.param((0, 14, 40), marks=pytest.mark.full)])
def test_killed_at_random_it_goes_on(kills: tuple[int, ...], server: FileServer, tmp_path: Path) -> None:
    """SIGKILL of all its processes when so many photographs were asked for; what is whole is not asked for again."""
    calm = MiniStage.below(tmp_path / "calm")
    card = card_of(server, part_size=6)
    fetcher.fetch(card, calm)  # type: ignore[arg-type]
    server.forget()
    (tmp_path / "card.json").write_text(card.model_dump_json())
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for after in (*kills, None):
        server.faults.slow = 0.0 if after is None else 0.1
        process = subprocess.Popen([sys.executable, script, tmp_path], env=environment, start_new_session=True)
        while process.poll() is None and (after is None or photographs(server) <= after):
            time.sleep(0.01)
        if after is None:
            assert process.returncode == 0
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert made(MiniStage.below(tmp_path)) == made(calm)
    # Each kill costs what was under way: a part of six and what was fetched ahead of it.
    assert photographs(server) < mini.LISTED + 14 * len(kills)


RUN = """
import pathlib, sys
from pi_repro.data import conversion
from pi_repro.data.openai_list import fetch
from pi_repro.spec.card import Card
from tests.data.mini_yfcc import MiniStage

conversion.processors = lambda: 1
fetch._CONNECTIONS = 4
folder = pathlib.Path(sys.argv[1])
fetch.fetch(Card.model_validate_json((folder / "card.json").read_text()), MiniStage.below(folder))
"""


def photographs(server: FileServer) -> int:
    """How many were asked for so far."""
    with server.lock:
        return sum("/images/" in row.path for row in server.asked)


def test_stopping_keeps_whole_parts(server: FileServer, tmp_path: Path) -> None:
    seen: list[int] = []
    stage = MiniStage.below(
        tmp_path,
        should_stop=lambda: bool(seen and seen[-1] >= 1),
        progress=lambda done, total, unit, note="": seen.append(done) if unit == "shards" else None,
    )
    with pytest.raises(Interrupted):
        fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    assert stage.data_root is not None and len(list(stage.data_root.rglob("*.tar"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.bz2", b"1\t2\n", "not a line of OpenAI's list"),
        ("list.bz2", b"1\t7\t0123456789abcdef\n2\t7\t0123456789abcdef\n", "on the list twice"),
        ("metadata.bz2", b"a\tb\n", "not YFCC100M's metadata"),
        ("metadata.bz2", b"BZh91AY&SYgarbage", "damaged or ends too early"),
        ("metadata.bz2", b"SQLite format 3\x00 and no more", "not YFCC100M's database"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, words: str, server: FileServer, tmp_path: Path) -> None:
    (server.folder / name).write_bytes(content)
    with pytest.raises(StateError, match=words):
        fetcher.fetch(card_of(server), MiniStage.below(tmp_path))  # type: ignore[arg-type]


def test_a_damaged_join_is_refused(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]
    assert stage.data_root is not None
    (rows,) = stage.data_root.rglob("00001.jsonl.gz")
    rows.write_bytes(gzip.compress(gzip.decompress(rows.read_bytes()).replace(b"Photo 21", b"Photo 22")))
    (tar,) = stage.data_root.rglob("00001.tar")
    tar.unlink()
    with pytest.raises(StateError, match="joined list is damaged"):
        fetcher.fetch(card_of(server), stage)  # type: ignore[arg-type]


def test_excluded_held_out_and_settings(server: FileServer, tmp_path: Path) -> None:
    stage = MiniStage.below(tmp_path)
    taken_down = mini.photo_id(2)
    card = card_of(server, exclude=[taken_down, 5], holdout=10, holdout_seed=1)
    fetcher.fetch(card, stage)  # type: ignore[arg-type]
    kept = set(Shards.open(stage.out, stage.data_root).column("photo_id").tolist())
    other = MiniStage(tmp_path / "held", stage.scratch, stage.data_root)
    other.out.mkdir()
    server.forget()
    held = card_of(server, exclude=[taken_down, 5], holdout=10, holdout_seed=1, side="holdout")
    fetcher.fetch(held, other)  # type: ignore[arg-type]
    out = set(Shards.open(other.out, other.data_root).column("photo_id").tolist())
    assert not kept & out and taken_down not in kept | out and len(kept | out) == 53 and server.sent < 100
    about = read_json(stage.out / "card.json")
    assert about["excluded"] + read_json(other.out / "card.json")["excluded"] == 1
    assert any("1 entries of the exclude list" in line for line in about["warnings"])
    with pytest.raises(RequestError, match="three sources"):
        fetcher.fetch(card.model_copy(update={"sources": card.sources[:2]}), stage)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="raw"):
        fetcher.fetch(card_of(server, captions="synthetic"), stage)  # type: ignore[arg-type]


def test_the_rule_for_captions() -> None:
    assert clean("a &lt;b&gt;x&lt;/b&gt;\t<i>y</i>\x00 http://q.r/s?t  www.u.v z") == "a x y z"
    assert caption(["Ends here!", "More"], ". ", 100) == "Ends here! More"
    assert caption(["Same", " same", "Same "], ". ", 100) == "Same. same"
    assert caption(["", "http://only.an/address"], ". ", 100) == ""
    assert caption(["one two three four"], ". ", 12) == "one two" and caption(["x" * 50], ". ", 20) == "x" * 20


def test_the_card_in_the_repository_is_the_fetcher_s() -> None:
    card = load_card(Path(__file__).parents[2] / "specs" / "data" / "yfcc15m-openai.yaml")
    settings = OpenaiListSettings.model_validate(card.settings)
    assert settings.photographs == 14_829_396 and card.fetcher in MODULES and card.fetcher in BUILT_IN["fetchers"]
    assert -(-settings.photographs // settings.part_size) == 1_483
