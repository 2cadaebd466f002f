"""The store: whole or absent, compared when published twice, damage named before use."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pi_repro.errors import StateError
from pi_repro.launch import collect, manifest, workspace
from pi_repro.launch.lease import Lease
from pi_repro.launch.places import Places
from pi_repro.launch.store import Published, Store
from pi_repro.plan.graph import Stage
from pi_repro.spec.experiment import Resources

FP = "ab" * 32


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "ws", tmp_path / "scratch", tmp_path / "store", tmp_path / "downloads", None)


def _out(folder: Path, text: str = "one") -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "sub" / "b.bin").write_bytes(bytes(range(256)))
    return folder


def _publish(places: Places, text: str = "one") -> Published:
    return Store(places.store).publish(
        FP, {"kind": "x", "settings": {}}, _out(places.scratch / f"out-{text}-{time.time_ns()}", text), {"when": "now"}
    )


def _stage() -> Stage:
    rate = {"startup_s": 0, "per_second": 1, "source": "x"}
    resources = Resources(
        gpus=0,
        parallel=1,
        workers=0,
        prefetch=1,
        checkpoint_every=1,
        device_watts=1,
        grid_g_per_kwh=0,
        rates={"align": rate, "pretrain": rate, "evaluate": rate},  # type: ignore[arg-type]
    )
    return Stage("draw", "x-s0", {}, {}, "artifacts/x/draw-s0", "x", resources)


def test_what_is_published_is_found_with_its_digests(places: Places) -> None:
    published = _publish(places)
    again = Store(places.store).get(FP)
    assert again is not None and again.manifest == published.manifest
    assert [entry.path for entry in again.manifest.entries] == ["a.txt", "sub/b.bin"]
    again.check("draw@x")
    assert Store(places.store).get("cd" * 32) is None


def test_equal_bits_are_published_once_and_other_bits_are_refused_and_kept(places: Places) -> None:
    first = _publish(places)
    assert _publish(places).manifest.digest == first.manifest.digest
    assert not any((places.store / ".incoming").iterdir())
    with pytest.raises(StateError, match=r"different bits(.|\n)*a\.txt") as caught:
        _publish(places, "two")
    assert caught.value.exit_status == 3
    assert len(list((places.store / ".incoming").iterdir())) == 1
    assert (first.out / "a.txt").read_text() == "one"


@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin"])
def test_one_flipped_byte_is_refused_by_name(places: Places, name: str) -> None:
    published = _publish(places)
    path = published.out / name
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match=name):
        published.check("draw@x")
    with pytest.raises(StateError, match=name):
        workspace.show(_stage(), published, places)
    assert not (places.workspace / "artifacts/x/draw-s0").exists()
    assert [item.path.name for item in collect.damaged(places)] == [FP]


def test_a_missing_and_a_strange_file_are_named(places: Places) -> None:
    published = _publish(places)
    (published.out / "stranger").write_text("x")
    with pytest.raises(StateError, match="stranger"):
        published.check("draw@x")
    (published.out / "stranger").unlink()
    (published.out / "a.txt").unlink()
    with pytest.raises(StateError, match=r"missing") as caught:
        published.check("draw@x")
    assert "a.txt" in str(caught.value)


def test_the_workspace_shows_a_copy_and_heals_it(places: Places) -> None:
    published, stage = _publish(places), _stage()
    target = places.workspace / stage.out
    assert workspace.show(stage, published, places) == "linked"
    assert workspace.show(stage, published, places) is None
    (target / "a.txt").write_text("changed by hand")
    assert workspace.show(stage, published, places) == "restored"
    assert (target / "a.txt").read_text() == "one"
    assert (published.out / "a.txt").read_text() == "one"
    record = json.loads(workspace.provenance_path(places, stage).read_text())
    assert record["fingerprint"] == FP and record["outputs"] == published.manifest.digest


def test_what_was_pulled_is_adopted_only_when_provenance_agrees(places: Places) -> None:
    published, stage = _publish(places), _stage()
    workspace.show(stage, published, places)
    other = Store(places.store.parent / "other")
    assert workspace.adopt(stage, "ff" * 32, {}, places, other) is None
    adopted = workspace.adopt(stage, FP, {"kind": "x", "settings": {}}, places, other)
    assert adopted is not None and adopted.manifest.digest == published.manifest.digest
    (places.workspace / stage.out / "a.txt").write_text("damaged")
    with pytest.raises(StateError, match="not the bytes"):
        workspace.adopt(stage, FP, {"kind": "x", "settings": {}}, places, Store(places.store.parent / "third"))


def test_our_folder_hash_is_dvc_s(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db.local import LocalHashFileDB
    from dvc_objects.fs import localfs

    folder = _out(tmp_path / "x")
    (folder / "sub-2").mkdir()
    (folder / "sub-2" / "c d.txt").write_text("é")
    _, _, tree = build(LocalHashFileDB(localfs, str(tmp_path / "odb")), str(folder), localfs, "md5")
    rows = [(entry.path, entry.md5) for entry in manifest.of_folder(folder).entries]
    assert manifest.dvc_md5(rows) == tree.hash_info.value


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with Lease(path) as lease:
        assert lease.acquire()
        ready.set()
        time.sleep(60)


def test_a_lease_ends_with_its_holder_even_by_kill(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    assert ready.wait(30)
    assert not Lease(path).acquire()
    holder = Lease(path).holder()
    assert holder is not None and holder["pid"] == process.pid
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert Lease(path).holder() is None
    with Lease(path) as lease:
        assert lease.acquire()
