"""What `pirepro gc` takes, and what it leaves to others who share scratch and store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pi_repro.errors import StateError
from pi_repro.launch import collect
from pi_repro.launch.lease import Lease
from pi_repro.launch.places import Places

MINE, THEIRS, WAITING, WANTED = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    own = tmp_path / "clone" / ".pirepro"
    return Places(tmp_path / "clone", tmp_path / "scratch", own / "store", own / "downloads", None)


def folder(places: Places, fingerprint: str, below: str = "", **more: object) -> Path:
    made = places.scratch / (below or fingerprint)
    made.mkdir(parents=True)
    about = {"name": "draw@x", "fingerprint": fingerprint, "places": {"workspace": str(places.workspace)}, **more}
    (made / "job.json").write_text(json.dumps(about))
    return made


def names(items: Iterable[collect.Garbage]) -> list[str]:
    return [item.path.name for item in items]


def entry(places: Places, name: str) -> Path:
    made = places.store / name
    made.mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    return made


def test_in_scratch_only_what_is_this_workspace_s(places: Places) -> None:
    folder(places, MINE)
    folder(replace(places, workspace=places.workspace.parent / "other"), THEIRS)
    folder(places, WANTED)
    (places.scratch / "thesis").mkdir()
    (places.scratch / "notes.txt").write_text("x")
    (places.scratch / ("e" * 64)).mkdir()
    folder(places, MINE, "some-tool")
    verified = f"verify-{MINE[:16]}-01234567"
    folder(places, MINE, f"{verified}/scratch/{MINE}")
    assert names(collect.garbage(places, {WANTED})) == [MINE, verified]
    with Lease(places.scratch / verified / "lease.json") as rerun, Lease(places.scratch / MINE / "lease.json") as job:
        assert rerun.acquire() and job.acquire()
        assert names(collect.garbage(places, {WANTED})) == []


def test_a_job_that_waits_keeps_its_folder(places: Places) -> None:
    folder(places, MINE)
    for fingerprint in (WAITING, WANTED):
        (folder(places, fingerprint) / "attempts").mkdir()
    asked: list[list[str]] = []

    def view(fingerprints: Iterable[str]) -> dict[str, str]:
        asked.append(list(fingerprints))
        return {WAITING: "job 7 pending (Priority)"}

    assert names(collect.garbage(places, (), view)) == [MINE, WANTED]
    assert asked == [[WAITING, WANTED]]
    with pytest.raises(StateError, match="SLURM does not answer"):
        collect.garbage(places, (), lambda _: None)
    with pytest.raises(StateError, match="--site") as refusal:
        collect.garbage(places, ())
    assert refusal.value.exit_status == 3


def test_a_store_that_others_may_use_is_left_alone_unless_asked(places: Places) -> None:
    for name in (MINE, WANTED):
        entry(places, name)
    assert names(collect.garbage(places, {WANTED})) == [MINE]
    lab = replace(places, store=places.workspace.parent / "lab")
    for name in (MINE, WANTED, "results-of-2019"):
        entry(lab, name)
    (lab.store / ("f" * 64)).write_text("no folder")
    assert collect.garbage(lab, {WANTED}) == [] and not collect.is_own(lab)
    assert names(collect.garbage(lab, {WANTED}, shared=True)) == [MINE]
    (lab.store / MINE / "manifest.json").unlink()
    assert names(collect.damaged(lab)) == [MINE, WANTED], "no manifest, and one that is none"


def test_a_publication_under_way_is_no_garbage(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{MINE[:16]}-01234567", "adopt-01234567"):
        (places.store / ".incoming" / name).mkdir(parents=True)
        (places.store / ".incoming" / name / "old.bin").write_text("x")
        os.utime(places.store / ".incoming" / name / "old.bin", (0, 0))
    folder(places, MINE)
    assert names(collect.garbage(places, {MINE})) == [], "both were written a moment ago"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    assert len(collect.garbage(places, {MINE})) == 2
    with Lease(places.scratch / MINE / "lease.json") as lease:
        assert lease.acquire()
        assert names(collect.garbage(places, {MINE})) == ["adopt-01234567"]


def test_what_can_t_be_removed_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="could not be removed"):
        collect.remove([collect.Garbage(tmp_path / "gone", "x", 0)])
