"""`pirepro data` as a user types it: fetched through the launcher, known to DVC, checked, looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.data.mini_nights import MiniNights

from .conftest import Workspace, make_workspace


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace without experiments that fetched one dataset."""
    workspace = make_workspace(tmp_path_factory.mktemp("data") / "ws")
    workspace.run("pirepro", "disable", "specs/demo-tiny.yaml")
    said = workspace.run("pirepro", "data", "fetch", "tiny-pairs")
    assert "published fetch@tiny-pairs" in said and "184 pairs" in said and "warning: " in said
    return workspace


def test_a_fetched_dataset_is_known_to_dvc_and_kept(fetched: Workspace) -> None:
    assert "specs/data/tiny-pairs.yaml" in (fetched.root / "specs/enabled.yaml").read_text()
    assert "up to date" in fetched.run("dvc", "status")
    assert "1 of 1 stages are published" in fetched.run("pirepro", "status")
    again = fetched.run("pirepro", "data", "fetch", "tiny-pairs")
    assert "started" not in again and "recording" not in again
    fetched.run("pirepro", "gc", "--yes")
    assert "1 of 1 stages are published" in fetched.run("pirepro", "status")
    (row,) = [line for line in fetched.run("pirepro", "data", "list").splitlines() if line.startswith("tiny-pairs ")]
    assert " yes " in row and "data/tiny-pairs" in row


def test_damage_is_named_and_mended(fetched: Workspace) -> None:
    assert "184 samples in 2 shards" in fetched.run("pirepro", "data", "verify", "tiny-pairs")
    shard = fetched.root / "data/tiny-pairs/shards/00001.tar"
    sound = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    said = fetched.run("pirepro", "data", "verify", "tiny-pairs", status=3)
    assert "00001.tar: its sha256 differs" in said and "00000.tar" not in said
    shard.unlink()
    fetched.run("pirepro", "data", "fetch", "tiny-pairs")
    assert shard.read_bytes() == sound
    fetched.run("pirepro", "data", "verify", "tiny-pairs")


def test_a_dataset_is_looked_at(fetched: Workspace, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        out = str(tmp_path / f"{seed}.png")
        fetched.run("pirepro", "data", "sample", "tiny-pairs", "--seed", seed, "--count", "5", "--out", out)
    first, second = (Image.open(tmp_path / f"{seed}.png") for seed in ("1", "2"))
    assert first.width == second.width == 1200 and first.tobytes() != second.tobytes()
    found = json.loads(fetched.run("pirepro", "data", "stats", "tiny-pairs", "--json"))["tiny-pairs"]
    assert found["count"] == found["read"] == 184 and found["formats"] == {"PNG": 184} and found["cut"] == 0
    card = json.loads(fetched.run("pirepro", "data", "card", "tiny-pairs", "--json"))
    assert card["found"]["count"] == 184 and card["state"] == "published"
    assert "| openmoji | npm: openmoji @ 17.0.0 |" in fetched.run("pirepro", "data", "card", "tiny-pairs", "--markdown")


def test_site_data_from_a_local_copy_is_made_again_where_shards_are_lost(
    fetched: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A miniature NIGHTS: its index is published, its shards lie in the data root."""
    monkeypatch.setenv("PIREPRO_DATA_ROOT", str(tmp_path / "root"))
    mini = MiniNights()
    archive = mini.write_zip(tmp_path / "nights.zip")
    train = sum(row["split"] == "train" for row in mini.kept)
    text = (fetched.root / "specs/data/nights.yaml").read_text()
    for field, value in (("count", train), ("disk_bytes", 10_000_000), ("shard_size", 20)):
        text = re.sub(rf"^( *{field}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
    (fetched.root / "specs/data/mini.yaml").write_text(text.replace("name: nights\n", "name: mini\n", 1))

    def fetch() -> str:
        return fetched.run("pirepro", "data", "fetch", "mini", "--from", f"nights-zip={archive}")

    said = fetch()
    assert f"{train:,} training triplets" in said and "expected 13900" in said, "differences are told"
    assert "started" not in fetch()
    shards = sorted((tmp_path / "root").rglob("*.tar"))
    before = [path.read_bytes() for path in shards]
    assert len(shards) > 1 and f"{len(mini.kept)} samples" in fetched.run("pirepro", "data", "verify", "mini")
    shards[0].write_bytes(before[0][:-1])
    shards[1].unlink()
    said = fetched.run("pirepro", "data", "verify", "mini", status=3)
    assert all(f"{path}: " in said for path in shards[:2]) and str(shards[-1]) not in said
    shards[0].unlink()
    assert "started" in fetch()
    assert [path.read_bytes() for path in shards] == before
    fetched.run("pirepro", "data", "sample", "mini", "--out", str(tmp_path / "mini.png"))
    monkeypatch.delenv("PIREPRO_DATA_ROOT")
    assert "PIREPRO_DATA_ROOT" in fetched.run("pirepro", "data", "stats", "mini", status=3)


def test_what_is_not_there_is_said(fetched: Workspace) -> None:
    assert "did you mean 'nights'" in fetched.run("pirepro", "data", "card", "nigths", status=2)
    assert "pirepro data fetch tiny-suite" in fetched.run("pirepro", "data", "sample", "tiny-suite", status=3)
    assert "PIREPRO_DATA_ROOT" in fetched.run("pirepro", "data", "fetch", "nights", status=3)
    assert "say --slurm" in fetched.run("pirepro", "data", "fetch", "nights", "--tasks", "4", status=2)
    assert not (fetched.root / "data/nights").exists()


def test_the_paper_s_plan_shows_the_data_s_cost_and_warns(fetched: Workspace) -> None:
    said = fetched.run("pirepro", "plan", "specs/pi_vs_random.yaml")
    (row,) = [line for line in said.splitlines() if line.startswith("yfcc15m ")]
    assert "1.12 TB" in row
    assert "settings.captions" in said and "planning assumption" in said
