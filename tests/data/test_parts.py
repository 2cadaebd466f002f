"""Parts: whole or not there, made once whoever makes them, and put together into one index."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pi_repro.data import conversion, tars
from pi_repro.data.assembly import assemble
from pi_repro.data.conversion import Task, convert
from pi_repro.data.home import home, home_name
from pi_repro.data.indexfile import write_columns
from pi_repro.data.parts import Part, PartWriter, clear, finished
from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.sources.origin import Watch
from pi_repro.data.view import View, choose
from pi_repro.errors import Interrupted, StateError
from pi_repro.files import path_digest, sha256_file

from . import mini_yfcc


def make(home: Path, name: str, count: int = 5, **options: Any) -> Part:
    with PartWriter(home, name, "pairs", identity="id", **options) as writer:
        for number in range(count):
            writer.add(f"{name}-{number}", {"jpg": bytes([number]) * 700, "txt": f"{name} {number}".encode()}, {"n": 7})
        writer.fail(f"{name}-x", "cannot identify <_io.BytesIO object at 0x7f00>")
        return writer.close({"rows": count + 1})


def test_index_of_parts_is_what_one_writer_writes(tmp_path: Path) -> None:
    parts = [make(tmp_path / "site/set/home", name, count) for name, count in (("a", 3), ("none", 0), ("b", 2))]
    assemble(parts, tmp_path / "out", "set", "pairs", home_name="set/home")
    with ShardWriter(tmp_path / "one", "set", "pairs", shard_size=3) as writer:
        for name, count in (("a", 3), ("b", 2)):
            for n in range(count):
                writer.add(f"{name}-{n}", {"jpg": bytes([n]) * 700, "txt": f"{name} {n}".encode()}, {"n": 7})
    assert (tmp_path / "out/index.safetensors").read_bytes() == (tmp_path / "one/index.safetensors").read_bytes()
    shards = Shards.open(tmp_path / "out", tmp_path / "site")
    shards.verify()
    assert [shards.key(row) for row in range(5)] == ["a-0", "a-1", "a-2", "b-0", "b-1"]
    assert [shard.name for shard in shards.shards] == ["a.tar", "b.tar"]
    for ours, theirs in (("a.tar", "00000.tar"), ("b.tar", "00001.tar")):
        assert sha256_file(tmp_path / "site/set/home" / ours) == sha256_file(tmp_path / "one/shards" / theirs)
    assert parts[0].failures == (("a-x", "cannot identify"),)


def test_columns_are_written_as_safetensors_writes_them(tmp_path: Path) -> None:
    table = {
        "shard": np.arange(7, dtype=np.int32),
        "b.offset": np.arange(7),
        "votes": np.arange(7, dtype=np.uint8),
        "a": -np.arange(7),
    }
    dtypes = {name: values.dtype for name, values in table.items()}
    digest = write_columns(tmp_path / "rows", dtypes, 7, lambda name: np.split(table[name], [2, 3]))
    assert (tmp_path / "rows").read_bytes() == save(table)
    assert digest == sha256_file(tmp_path / "rows")


@pytest.mark.parametrize(("name", "size"), [("a.jpg", 0), ("k" * 96 + ".txt", 511), ("x/y-1.json", 2**31 - 1)])
def test_header_is_tarfiles(name: str, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    assert tars.header(name, size) == entry.tobuf(tarfile.USTAR_FORMAT)


def test_a_part_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PartWriter(tmp_path, "a", "pairs", identity="id") as writer:
        writer.add("k", {"jpg": b"x", "txt": b"y"})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [tmp_path / ".parts"] and not list((tmp_path / ".parts").iterdir())
    part = make(tmp_path, "a")
    assert finished(tmp_path, "a", "id") == part and finished(tmp_path, "a", "other") is None
    for path in (tmp_path / "a.tar", tmp_path / ".parts/a.json", tmp_path / ".parts/a.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-600] if path.suffix == ".tar" else b"{")
        if path.suffix == ".safetensors":
            turned = bytearray(content)
            turned[-100] ^= 4  # in the place of a member
            path.write_bytes(turned)
            with pytest.raises(StateError, match=r"a\.safetensors: rows of a part are damaged"):
                part.rows()
        else:
            assert finished(tmp_path, "a", "id") is None
        path.write_bytes(content)
    PartWriter(tmp_path, "a", "pairs")  # killed
    PartWriter(tmp_path, "a-b", "pairs")
    aside = [tmp_path / ".parts" / name for name in (".a.json.x1", ".a.safetensors.x2", ".a-b.json.x3")]
    for path in aside:  # killed while it gave a file its name
        path.touch()
    clear(tmp_path, "a")
    assert [path.exists() for path in aside] == [False, False, True]
    assert len(list((tmp_path / ".parts").glob("*.making"))) == 1


def test_several_tars_and_a_view_of_them(tmp_path: Path) -> None:
    parts = [make(tmp_path / "site/h", name, 25, shard_size=10) for name in ("a", "b")]
    assert [tar.name for tar in parts[0].tars] == ["a.0.tar", "a.1.tar", "a.2.tar"]
    sides = {}
    for side, subset in (("train", None), ("holdout", None), ("train", 12)):
        view = View(8, 3, side, subset, exclude=frozenset({"a-3", "b-17", "gone"}))  # type: ignore[arg-type]
        chosen = choose(parts, view)
        assert chosen.unknown == ("gone",)
        folder = tmp_path / f"{side}-{subset}"
        assemble(parts, folder, "view", "pairs", home_name="h", keep=chosen.keep)
        shards = Shards.open(folder, tmp_path / "site")
        shards.verify()
        keys = [shards.key(row) for row in range(shards.count)]
        assert [shards.read("text", row).decode().replace(" ", "-") for row in range(shards.count)] == keys
        sides[side, subset] = set(keys)
    train, held, few = sides["train", None], sides["holdout", None], sides["train", 12]
    assert train | held == {f"{name}-{n}" for name in "ab" for n in range(25)} - {"a-3", "b-17"}
    assert not train & held and few < train and 10 <= len(few) <= 12
    # A draw hangs on no order and on no other row.
    turned = choose(parts[::-1], View(8, 3, "holdout"))
    assert {
        key
        for part, mask in zip(parts[::-1], turned.keep, strict=True)
        for key in np.array(part.keys())[mask]
        if key not in ("a-3", "b-17")
    } == held


def test_a_workspace_gets_the_tars_themselves(tmp_path: Path) -> None:
    card = mini_yfcc.card(location="workspace")
    stage = SimpleNamespace(scratch=tmp_path / "scratch", data_root=None)
    assert home_name(card, "ab" * 32) is None
    parts = [make(home(card, stage, "ab" * 32), "a")]
    assemble(parts, tmp_path / "out", "set", "pairs")
    (tmp_path / "scratch").rename(tmp_path / "gone")
    Shards.open(tmp_path / "out").verify()
    with pytest.raises(StateError, match="no data root is configured"):
        home(mini_yfcc.card(), stage, "ab" * 32)


def slow(task: Task, watch: Watch) -> None:
    """Notes its process, writes a sample each 20 ms."""
    with PartWriter(task.home, task.name, "pairs", identity=task.identity) as writer:
        with (task.home / "makers").open("a") as file:
            file.write(f"{task.name} {os.getpid()}\n")
        for number in range(10):
            if watch.should_stop():
                raise Interrupted("stopped")
            time.sleep(0.02)
            writer.add(f"k{number}", {"txt": f"{task.payload} {number}".encode()})
        watch.advance(1000)
        writer.close()


def tasks(home: Path, count: int) -> list[Task]:
    home.mkdir(parents=True, exist_ok=True)
    return [Task(home, f"p{number}", "id", number) for number in range(count)]


def _convert(home: Path) -> None:
    convert(tasks(home, 6), slow, processes=1)


def test_two_makers_and_a_kill_give_each_part_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    first, second = (context.Process(target=_convert, args=(tmp_path / "h",)) for _ in range(2))
    first.start()
    time.sleep(0.3)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second.start()
    seen: list[tuple[int, int]] = []
    convert(tasks(tmp_path / "h", 6), slow, processes=1, progress=lambda done, total, _: seen.append((done, total)))
    second.join(20)
    assert second.exitcode == 0 and seen[-1] == (6, 6)
    made = [line.split()[0] for line in (tmp_path / "h/makers").read_text().splitlines()]
    assert set(made) == {f"p{number}" for number in range(6)} and len(made) <= 7
    _convert(tmp_path / "alone")
    for folder in ("h", "alone"):
        (tmp_path / folder / "makers").unlink()
    assert path_digest(tmp_path / "h") == path_digest(tmp_path / "alone")


def test_array_tasks_share_and_a_stop_is_heard(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        convert(tasks(tmp_path, 3), slow, processes=1, should_stop=lambda: (tmp_path / ".parts/p0.json").exists())
    assert [task.is_done() for task in tasks(tmp_path, 3)] == [True, False, False]
    convert(tasks(tmp_path, 5), slow, processes=1, share=(1, 2))
    assert [task.is_done() for task in tasks(tmp_path, 5)] == [True, True, False, True, False]
    assert not list(tmp_path.rglob("*.lock"))


def wrong(task: Task, watch: Watch) -> None:
    """Refuses one, is killed at another."""
    if task.payload == "refuse":
        raise StateError("no good", where=task.name)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("payload", "message"), [("refuse", "p: no good"), ("die", "a conversion process was killed")])
def test_what_goes_wrong_in_a_process_is_told(tmp_path: Path, payload: str, message: str) -> None:
    both = [Task(tmp_path, "p", "id", payload), Task(tmp_path, "q", "id", payload)]
    with pytest.raises(StateError, match=message):
        conversion.convert(both[:1] if payload == "refuse" else both, wrong, processes=1 if payload == "refuse" else 2)


def test_sidecars_say_nothing_of_this_machine(tmp_path: Path) -> None:
    make(tmp_path, "a")
    said = json.loads((tmp_path / ".parts/a.json").read_text())
    assert set(said) == {"form", "identity", "tars", "failures", "members", "rows_sha256", "about"}
    assert str(tmp_path) not in (tmp_path / ".parts/a.json").read_text()
