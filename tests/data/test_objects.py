"""Object stores beside what every source must stand (test_transfer), and the small parts that all sources share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pi_repro.data.openai_list.images import of_bucket
from pi_repro.data.openai_list.listing import Photo
from pi_repro.data.sources import Meter, Pins, RemoteFile, Watch, origin_of, require
from pi_repro.data.sources.client import Unreachable
from pi_repro.data.sources.objects import ObjectSupply
from pi_repro.data.sources.origin import checked_name, scrub
from pi_repro.data.sources.patience import Patience, retry_after
from pi_repro.data.sources.stream import About
from pi_repro.errors import RequestError, StateError
from pi_repro.spec.card import Source

from .test_transfer import _environment, context, moto, source  # noqa: F401 - fixtures for these tests too


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:  # noqa: F811
    import boto3  # type: ignore[import-untyped]
    import s3fs  # type: ignore[import-untyped]

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket="public", ACL="public-read")
    for name in ("set/0.tar", "set/deep/1.tar", "setting.txt"):
        client.put_object(Bucket="public", Key=name, Body=name.encode() * 100, ACL="public-read")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "public"
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_public_prefix_is_listed_and_read_without_credentials(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StateError, match="refuses to show this") as error:
        origin_of(source("objects", f"s3://{bucket}/set/"), context(tmp_path)).files()
    assert "?anonymous" in str(error.value)
    it = origin_of(source("objects", f"s3://{bucket}/set/?anonymous"), context(tmp_path))
    assert [file.name for file in it.files()] == ["0.tar", "deep/1.tar"]
    assert it.read("deep/1.tar", 4, 4) == b"deep" and it.read("0.tar", 895, 99) == b"0.tar"
    for file in it.files():
        got = it.obtain(file, tmp_path / "got" / file.name)
        assert got.path.read_bytes() == b"set/" + file.name.encode() + got.path.read_bytes()[4 + len(file.name) :]
    with pytest.raises(StateError, match="no such object"):
        it.obtain(RemoteFile("2.tar"), tmp_path / "got" / "2.tar")


def test_a_driver_that_is_not_installed_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry  # type: ignore[import-untyped]

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gs", raising=False)
    photo = Photo(1, 7, "0123456789abcdef0123456789abcdef")
    it = origin_of(source("objects", "gs://bucket/images/?anonymous"), context(tmp_path))
    for ask in (it.files, lambda: of_bucket(it).image(photo, Watch())):
        with pytest.raises(StateError, match="not installed") as error:
            ask()
        assert "'.[stores]'" in str(error.value) and "gs://bucket/images" in str(error.value)


def test_a_mounted_bucket_is_linked(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "a.tar").write_bytes(b"content")
    it = origin_of(source("objects", f"file://{tmp_path}/mounted/"), context(tmp_path))
    got = it.obtain(it.files()[0], tmp_path / "got.tar")
    assert got.linked and got.path.samefile(tmp_path / "mounted" / "a.tar")


@pytest.mark.parametrize(
    ("kind", "locator"),
    [
        ("objects", "s3-bucket/key"),
        ("objects", "https://data.example/a"),
        ("objects", "s3://b/k?secret=1"),
        ("objects", "s3://me:hunter2@b/k"),
        ("http", "ftp://data.example/a"),
        ("http", "https://me:hunter2@data.example/a"),
        ("npm", "left-pad"),
    ],
)
def test_what_no_origin_is_made_for_is_refused(kind: str, locator: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        origin_of(source(kind, locator), context(tmp_path))
    assert "hunter2" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["", "/a", "a/../b", "..", "a//b", "a\nb", "a\\b", "./a", "a/"])
def test_names_that_leave_the_origin_are_refused(name: str) -> None:
    with pytest.raises(StateError):
        checked_name(name)


def test_pins_hold_what_the_first_fetch_found(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    assert pins.pin_revision(lambda: "one") == pins.pin_revision(lambda: "two") == "one" == pins.revision()
    pins.check("a.tar", 3, "aa")
    Pins(tmp_path / "pins").check("a.tar", 3, "aa")
    with pytest.raises(StateError, match="changed since"):
        pins.check("a.tar", 3, "bb")
    assert json.loads((tmp_path / "pins" / "pins.json").read_text())["files"] == {"a.tar": {"bytes": 3, "sha256": "aa"}}


def test_another_pin_in_the_card_accepts_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "0.tar"
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"one": str(copy)}))

    def obtain(card: Source) -> None:
        it = origin_of(card, context(tmp_path))
        it.obtain(it.files()[0], tmp_path / "got")

    card = source("http", "https://data.example/0.tar")
    copy.write_bytes(b"one")
    obtain(card)
    copy.write_bytes(b"two")
    with pytest.raises(StateError, match="into the card"):
        obtain(card)
    obtain(card.model_copy(update={"revision": "2026-11"}))


def test_room_and_waits_and_messages(tmp_path: Path) -> None:
    require(tmp_path / "not" / "yet", 1000, "a test", files=1)
    with pytest.raises(StateError, match="room"):
        require(tmp_path, 10**18, "a test")
    assert retry_after({"retry-after": "7"}) == 7 and retry_after({"ratelimit": '"api";r=0;t=55'}) == 55
    assert retry_after({}) is None and retry_after({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0
    waits = [Patience().wait(failures, OSError()) for failures in range(1, 12)]
    assert waits[0] <= 1 and max(waits) <= 30
    assert scrub("GET https://me:pw@h.example/a?sig=1 failed\nhere") == "GET https://h.example/a?... failed here"
    assert scrub("http://me:p@ss@h.example/a@b") == "http://h.example/a@b"
    assert "hunter2" not in scrub("x " * 140 + "http://me:hunter2-and-more-of-it@h.example/")


def test_a_store_that_ignores_ranges_is_found_out() -> None:
    system = SimpleNamespace(cat_file=lambda *_path, **_range: b"whole object")
    supply = ObjectSupply(system, "b/k", "s3://b/k", block=4)
    with supply.stream(4, 12, About(12, "v", ranges=True)) as chunks, pytest.raises(Unreachable, match="more than"):
        list(chunks)


def test_an_environment_that_names_no_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("{", '{"hope": 3}', '{"tries": 0}', "[]"):
        monkeypatch.setenv("PIREPRO_PATIENCE", given)
        with pytest.raises(RequestError):
            Patience.from_environment()


def test_a_meter_shows_megabytes_and_a_rate() -> None:
    shown: list[tuple[object, ...]] = []
    meter = Meter(lambda *what: shown.append(what), 3_000_000)
    meter.advance(2_000_000)
    meter.advance(-1_000_000)
    assert [row[:3] for row in shown] == [(2, 3, "MB"), (1, 3, "MB")] and "MB/s" in str(shown[0][3])
