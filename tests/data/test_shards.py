"""Shards: written the same twice, read by pread, refused by name when anything is wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest


def image(number: int) -> bytes:
    return bytes([number]) * (500 + number)


def write(folder: Path, count: int = 10) -> Path:
    with ShardWriter(folder, "small", "pairs", shard_size=4) as writer:
        for number in range(count):
            members = {"png": image(number), "txt": f"caption {number}".encode(), "json": b"{}"}
            writer.add(f"k{number:04d}", members, {"label": number % 3})
    return folder


def test_read_back(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path))
    shards.verify()
    assert (shards.name, shards.kind, shards.count) == ("small", "pairs", 10)
    assert shards.columns == ("image", "json", "text", "label")
    assert shards.counts.tolist() == [4, 4, 2]
    assert shards.column("label").dtype == np.int32
    for row in (9, 0, 4, 3):
        assert shards.read("image", row) == image(row)
        assert shards.read("text", row) == f"caption {row}".encode()
        assert shards.key(row) == f"k{row:04d}"
    assert shards.shard_of(9).name == "00002.tar"


def test_same_samples_give_same_bytes(tmp_path: Path) -> None:
    assert path_digest(write(tmp_path / "a")) == path_digest(write(tmp_path / "b"))
    with tarfile.open(tmp_path / "a/shards/00000.tar") as tar:
        entries = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert entries == {(0, 0, 0, "", "", 0o644)}


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    write(tmp_path)
    urls = [str(path) for path in sorted((tmp_path / "shards").iterdir())]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"k{number:04d}" for number in range(10)]
    assert [sample["png"] for sample in samples] == [image(number) for number in range(10)]


def test_suite_layout(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "digits", "classification", shard_size=3, layout="suite") as writer:
        for number in range(5):
            writer.add(f"s{number}", {"png": image(number), "cls": b"1"}, {"label": number})
    shards = Shards.open(tmp_path)
    shards.verify()
    assert [shard.name for shard in shards.shards] == ["test/0.tar", "test/1.tar"]
    assert (tmp_path / "test/nshards.txt").read_text() == "2\n"
    assert shards.members == ("image",)
    assert shards.column("label").tolist() == [0, 1, 2, 3, 4]
    assert shards.read("image", 4) == image(4)


def test_triplet_columns(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "trip", "triplets") as writer:
        members = {"ref.png": b"a", "left.png": b"b", "right.png": b"c", "json": b"{}"}
        writer.add("t0", members, {"label": 1, "split": 2, "votes": 7})
    shards = Shards.open(tmp_path)
    assert [shards.read(name, 0) for name in ("ref", "left", "right")] == [b"a", b"b", b"c"]
    assert {shards.column(name).dtype for name in ("label", "split", "votes")} == {np.dtype(np.uint8)}


def test_shards_at_a_site(tmp_path: Path) -> None:
    folder = write(tmp_path / "data/small")
    (tmp_path / "site").mkdir()
    shutil.move(folder / "shards", tmp_path / "site/small")
    shards = Shards.open(folder, data_root=tmp_path / "site")
    shards.verify()
    assert shards.read("image", 7) == image(7)
    with pytest.raises(StateError, match=r"shards/00000\.tar: shard is missing"):
        Shards.open(folder).verify()


def test_writer_puts_shards_at_a_site(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", "small", "pairs", shards_at=tmp_path / "site/small") as writer:
        writer.add("a", {"jpg": b"x", "txt": b"y"})
    assert not (tmp_path / "data/shards").exists()
    assert Shards.open(tmp_path / "data", data_root=tmp_path / "site").read("image", 0) == b"x"


@pytest.mark.parametrize("place", [0, 700, -1])
def test_one_flipped_bit_is_found_and_named(tmp_path: Path, place: int) -> None:
    path = write(tmp_path) / "shards/00001.tar"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    shards = Shards.open(tmp_path)
    with pytest.raises(StateError, match=r"00001\.tar: shard is damaged: its sha256 differs") as caught:
        shards.verify()
    assert caught.value.exit_status == 3


def test_cut_shard_is_named_by_verify_and_by_read(tmp_path: Path) -> None:
    path = write(tmp_path) / "shards/00001.tar"
    path.write_bytes(path.read_bytes()[:2_000])
    shards = Shards.open(tmp_path)
    with pytest.raises(StateError, match=r"00001\.tar: shard is damaged: its size"):
        shards.verify(contents=False)
    with pytest.raises(StateError, match=r"00001\.tar: shard is damaged: it ends too early"):
        shards.read("image", 7)
    assert shards.read("image", 0) == image(0)


def test_missing_shard_is_named_by_verify_and_by_read(tmp_path: Path) -> None:
    (write(tmp_path) / "shards/00002.tar").unlink()
    shards = Shards.open(tmp_path)
    for fails in (shards.verify, lambda: shards.read("image", 9)):
        with pytest.raises(StateError, match=r"00002\.tar: shard is missing"):
            fails()


def test_damaged_index_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path) / "index.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"index\.safetensors: index is damaged"):
        Shards.open(tmp_path)
    path.unlink()
    with pytest.raises(StateError, match=r"index\.safetensors: index is missing"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("change", [{"count": 9}, {"kind": "songs"}, {"shards": [{}]}, {"name": None}])
def test_damaged_index_json_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path) / "index.json"
    index = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in index.items() if value is not None}))
    with pytest.raises(StateError, match=r"index\.json: index is damaged"):
        Shards.open(tmp_path)


def test_unknown_member_and_column(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path))
    with pytest.raises(RequestError, match="no such member"):
        shards.read("sound", 0)
    with pytest.raises(RequestError, match="no such column"):
        shards.column("votes")


def test_after_a_fork_and_after_pickling(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path))
    assert shards.read("image", 0) == image(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(shards.read("image", row) == image(row) for row in range(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shards.read("image", 1) == image(1)
    assert pickle.loads(pickle.dumps(shards)).read("image", 5) == image(5)


def test_more_shards_than_may_be_open(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "many", "pairs", shard_size=1) as writer:
        for number in range(300):
            writer.add(f"k{number}", {"png": b"x", "txt": str(number).encode()})
    shards = Shards.open(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [shards.read("text", row) for row in range(300)] == [str(row).encode() for row in range(300)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 128
    shards.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("key", ["a.b", "", "é", "a/", "../x", "a" * 100])
def test_keys_that_webdataset_would_misread_are_refused(tmp_path: Path, key: str) -> None:
    writer = ShardWriter(tmp_path, "small", "pairs")
    with pytest.raises(StateError, match="key cannot be used"):
        writer.add(key, {"png": b"x", "txt": b"y"})


def test_writer_refuses_repeats_other_columns_and_emptiness(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "small", "pairs")
    with pytest.raises(StateError, match="no sample"):
        writer.close()
    writer.add("a", {"png": b"x", "txt": b"y"}, {"label": 1})
    with pytest.raises(StateError, match="there twice"):
        writer.add("a", {"png": b"x", "txt": b"y"}, {"label": 1})
    for members, extra in (({"png": b"x"}, {"label": 1}), ({"png": b"x", "txt": b"y"}, {})):
        with pytest.raises(StateError, match="other columns"):
            writer.add("b", members, extra)
    with pytest.raises(StateError, match="other columns"):
        writer.add("b", {"png": b"x", "jpg": b"x", "txt": b"y"}, {"label": 1})


def test_an_interrupted_writer_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "small", "pairs") as writer:
        writer.add("a", {"png": b"x", "txt": b"y"})
        raise KeyboardInterrupt
    assert not (tmp_path / "index.json").exists()
