"""Probes from the command line to the report: run, run again, killed and resumed, with a matrix that a user gives."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pi_repro.data.shards import Shards

from .conftest import Workspace, commit, copy_of

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

SPEC = """\
extends: demo-tiny.yaml
name: probed
title: "demo-tiny, looked into"

science:
  probes:
    batch: 64
    precision: fp32
    stages: [initialize, pretrain, finetune]
    distance: true
    features: {set: tiny/concepts-noto, images: 64, similarity: cosine}
    sharpness: {pairs: 32, radii: [0.05, 0.2], directions: 3, towers: both}
    linear: {sets: [tiny/groups-noto], images: null, train: 0.5, penalties: [0.01, 0.1, 1.0, 10.0]}
    rsa: {matrix: rsa/tiny.csv, images: rsa/tiny.txt, set: tiny/concepts-noto, similarity: correlation}
"""
POINTS = {
    "random": ["pretrain/epoch-0000", "pretrain/epoch-0001", "pretrain/epoch-0004"],
    "pi": [
        *("initialize/epoch-0000", "initialize/epoch-0002"),
        *("pretrain/epoch-0000", "pretrain/epoch-0001", "pretrain/epoch-0004"),
    ],
    "posthoc": ["finetune/epoch-0000", "finetune/epoch-0001"],
}


@pytest.fixture(scope="module")
def probed(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = copy_of(finished, tmp_path_factory.mktemp("probes") / "ws")
    shards = Shards.open(workspace.root / "data/tiny-suite/tiny/concepts-noto")
    given = workspace.root / "specs/rsa"
    given.mkdir()
    (given / "tiny.txt").write_text("".join(f"{shards.key(row)}\n" for row in range(0, 40, 2)))
    points = np.random.default_rng(4).standard_normal((20, 5))
    np.savetxt(given / "tiny.csv", np.linalg.norm(points[:, None] - points[None], axis=-1), delimiter=",")
    (workspace.root / "specs/probed.yaml").write_text(SPEC)
    workspace.run("pirepro", "disable", "specs/demo-tiny.yaml")
    workspace.run("pirepro", "run", "specs/probed.yaml")
    commit(workspace, "probed")
    return workspace


def folder(workspace: Workspace, arm: str) -> Path:
    return workspace.root / f"results/probed/probes/{arm}-s0"


def test_every_kept_checkpoint_is_looked_into(probed: Workspace) -> None:
    for arm, points in POINTS.items():
        index = json.loads((folder(probed, arm) / "probes.json").read_text())
        assert [line["folder"] for line in index["checkpoints"]] == points
        for point in points:
            for name in ("features", "distance", "sharpness", "linear/tiny/groups-noto", "rsa"):
                text = (folder(probed, arm) / point / f"{name}.json").read_text()
                record = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
                assert text == json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert "up to date" in probed.run("dvc", "status")
    assert probed.run("pirepro", "explain", "probe@probed-pi-s0").count("nothing differs") == 1
    assert re.search(r"probe +3 published", probed.run("pirepro", "plan"))


def test_what_probes_say_is_what_the_arms_are(probed: Workspace) -> None:
    def said(arm: str, point: str, name: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        found: dict[str, dict[str, dict[str, dict[str, float]]]]
        found = json.loads((folder(probed, arm) / point / f"{name}.json").read_text())
        return found

    # Stage 1 moves the image tower alone; the post-hoc arm its attention alone.
    moved = said("pi", "pretrain/epoch-0000", "distance")["to"]
    assert moved["draw"]["groups"]["text tower"]["relative"] == 0 < moved["draw"]["groups"]["image tower"]["relative"]
    assert moved["start"]["groups"]["whole"]["relative"] == 0
    tuned = said("posthoc", "finetune/epoch-0001", "distance")["to"]["start"]["groups"]
    went = {group for group, each in tuned.items() if each["relative"]}
    assert went == {"whole", "image tower", *(f"visual.transformer.resblocks.{n}" for n in (0, 1))}
    # The twin's features are those that the baseline's probe wrote.
    pair = [folder(probed, arm) / "pretrain/epoch-0004/features.items.safetensors" for arm in ("pi", "random")]
    one, other = (load_file(file)["features"].astype(np.float64) for file in pair)
    one, other = one - one.mean(0), other - other.mean(0)
    wanted = np.square(one.T @ other).sum() / np.linalg.norm(one.T @ one) / np.linalg.norm(other.T @ other)
    twin = said("pi", "pretrain/epoch-0004", "features")["likeness"]["twin"]
    assert twin["cka"] == pytest.approx(wanted)


def test_the_report_has_their_table(probed: Workspace) -> None:
    with (probed.root / "reports/probed/tables/probes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["probe"] for row in rows} == {"features", "distance", "sharpness", "linear", "rsa", "two_afc"}
    points = {(row["arm"], f"{row['stage']}/epoch-{int(row['epoch']):04d}") for row in rows}
    assert points == {(arm, point) for arm, some in POINTS.items() for point in some}


def forget_probes(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "results/probed/probes")
    for manifest in (workspace.root / ".pirepro/store").glob("*/manifest.json"):
        if json.loads(manifest.read_text())["payload"]["kind"] == "probe":
            shutil.rmtree(manifest.parent)


def test_run_again_killed_and_resumed_they_give_the_same_bits(probed: Workspace) -> None:
    before = probed.digests()
    forget_probes(probed)
    process = probed.start("pirepro", "run", "specs/probed.yaml")
    victims: list[int] = []
    while not victims:
        assert process.poll() is None
        time.sleep(0.01)
        sealed = list((probed.root / ".pirepro/scratch").glob("*/work/*/epoch-*/sharpness.seal"))
        victims = workers(probed) if sealed else []
    for victim in (process.pid, *victims):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    output = probed.run("pirepro", "run", "specs/probed.yaml")
    assert "published probe@" in output and probed.digests() == before
    assert "results already" in probed.logs()


def workers(workspace: Workspace) -> list[int]:
    """Process ids of a workspace's jobs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pi_repro.launch.worker" in words and words[-2].startswith(bytes(workspace.root)):
            found.append(int(status.parent.name))
    return found


def test_a_changed_matrix_is_a_changed_request(probed: Workspace) -> None:
    file = probed.root / "specs/rsa/tiny.csv"
    content = file.read_text()
    file.write_text(content.replace("0.000000000000000000e+00", "0", 1))
    try:
        assert "given.rsa-matrix.sha256" in probed.run("pirepro", "explain", "probe@probed-pi-s0")
        assert "pirepro plan --write" in probed.run("pirepro", "stage", "probe@probed-pi-s0", status=2)
    finally:
        file.write_text(content)
