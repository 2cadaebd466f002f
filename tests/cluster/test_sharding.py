"""A dataset's shards made by a job array on a real SLURM: waited for, attached to, failed, and run again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.data import mini_openai as mini
from tests.data.servers import Faults, FileServer
from tests.e2e.conftest import commit

from .conftest import ClusteredWorkspace, until

COMMAND = ("pirepro", "data", "fetch", "mini-openai", "--slurm", "--tasks", "3")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """The list, its metadata and the photographs; the nodes are on this host."""
    folder = tmp_path / "served"
    folder.mkdir()
    mini.write_list(folder / "list.bz2")
    mini.write_metadata(folder / "metadata.bz2", "bz2")
    mini.write_bucket(folder / "images")
    with FileServer(folder, faults=Faults()) as server:
        yield server


@pytest.fixture
def workspace(clustered: ClusteredWorkspace, server: FileServer) -> ClusteredWorkspace:
    """A workspace with the miniature's card, whose site has a data root."""
    card = mini.card(f"{server.url}/list.bz2", f"{server.url}/metadata.bz2", f"{server.url}/images/", part_size=10)
    path = clustered.root / "specs" / "data" / "mini-openai.yaml"
    path.write_text(yaml.safe_dump(card.model_dump(mode="json")))
    clustered.cluster.site(clustered.root, data_root=str(clustered.root.parent / "site"))
    commit(clustered, "card")
    return clustered


def photographs(server: FileServer) -> int:
    """How many were asked for so far."""
    with server.lock:
        return sum("/images/" in row.path for row in server.asked)


@pytest.mark.timeout(1800)
def test_an_array_is_waited_for_attached_to_and_run_again(
    workspace: ClusteredWorkspace, server: FileServer, tmp_path: Path
) -> None:
    server.faults.slow = 0.3
    # Task 1 of 3 has the ranges 1 and 4; one of the latter's photographs too many is gone.
    names = [mini.digest(place) for place in (41, 42, 43)]
    lost = [server.folder / "images" / name[:3] / name[3:6] / f"{name}.jpg" for name in names]
    moved = [path.rename(tmp_path / path.name) for path in lost]
    waiter = workspace.start(*COMMAND, log=tmp_path / "first.txt")
    until(lambda: photographs(server) > 3 or waiter.poll() is not None, 200, "the array to be at work")
    assert waiter.poll() is None, (tmp_path / "first.txt").read_text()
    os.killpg(waiter.pid, signal.SIGKILL)
    waiter.wait()
    # Task 2's time is up: it keeps what is whole, and SLURM starts it again.
    (noted,) = workspace.root.glob(".pirepro/scratch/*/array.json")
    array = json.loads(noted.read_text())["job"]
    workspace.cluster.run("scancel", "--batch", "--signal=USR2", f"{array}_2")

    said = workspace.run(*COMMAND, status=3)
    assert "is at work already: waiting for it" in said
    assert "1 of 3 array tasks failed" in said and "task 1: exit status 3" in said
    assert "too many photographs of a range are missing" in said and "_1.txt; the same command" in said
    assert "submitted" not in said and not (workspace.root / "data" / "mini-openai").exists()
    arrays = {row["id"] for row in workspace.jobs()}
    assert len(arrays) == 3 and "restart 1" in noted.with_name(f"slurm-{array}_2.txt").read_text()
    whole = {int(path.stem) for path in (workspace.root.parent / "site").rglob("*.tar")}
    # Range 1 is given up where task 1 made it beside range 4.
    assert whole | {1} == {0, 1, 2, 3, 5}

    for path, place in zip(lost, moved, strict=True):
        place.rename(path)
    server.faults.slow = 0.0
    server.forget()
    said = workspace.run(*COMMAND)
    assert "of 3 tasks submitted" in said and "6 of 6 shards whole" in said
    # Only what was missing was fetched; the stage afterwards fetched nothing.
    assert photographs(server) == 10 * (6 - len(whole)) and len({row["id"] for row in workspace.jobs()} - arrays) == 3
    about = json.loads((workspace.root / "data" / "mini-openai" / "card.json").read_text())
    assert about["count"] == mini.LISTED - len(mini.LOST)

    server.forget()
    assert "array job" not in workspace.run(*COMMAND) and not server.asked
    workspace.run("pirepro", "data", "verify", "mini-openai")
    said = workspace.run("pirepro", "data", "share", "demo-pairs", "--task", "0", "--of", "2", status=2)
    assert "can't be made in shares" in said
