"""All 31 sets in miniature, from a hub on this machine, through `pirepro run`: a full table of results, and in every
figure what clip_benchmark's own command finds, which reads the same server with the same weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.mini_suite import write_suite
from tests.data.servers import HubServer
from tests.e2e.conftest import ROOT, Workspace, make_workspace

COMMAND = Path(__file__).with_name("clip_benchmark_command.py")
MAIN = "clip-benchmark/wds_{dataset}/resolve/main"


@dataclass(frozen=True)
class AtHub(Workspace):
    """A workspace whose hub and data root are the test's own."""

    hub: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """With pins and downloads apart from the repository's, whose hub is the real one."""
        own = {"HF_ENDPOINT": self.hub, "PIREPRO_DATA_ROOT": str(self.folder / "site")}
        return {**super().environment, **own, "PIREPRO_DOWNLOADS": str(self.folder / "downloads")}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, dict[str, Any]]]:
    repositories, card = write_suite(tmp_path_factory.mktemp("hub"))
    with HubServer(repositories) as hub:
        yield hub, card


def downloads_of(workspace: Workspace, folder: Path) -> None:
    """The packages that were downloaded already; not what is known of any hub."""
    shared = Path(workspace.environment["PIREPRO_DOWNLOADS"])
    folder.mkdir()
    for path in shared.glob("*") if shared.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)


@pytest.fixture(scope="module")
def finished(served: tuple[HubServer, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> AtHub:
    """demo-tiny with the whole suite, run to its end."""
    hub, card = served
    folder = tmp_path_factory.mktemp("run")
    plain = make_workspace(folder / "ws")
    specs = plain.root / "specs"
    (specs / "data" / "zeroshot-29-2.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    spec = yaml.safe_load((specs / "demo-tiny.yaml").read_text())
    spec["name"] = "whole-suite"
    spec["science"]["evaluate"]["suite"] = card["name"]
    del spec["science"]["finetune"], spec["science"]["arms"]["posthoc"]
    (specs / "whole-suite.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    downloads_of(plain, folder / "downloads")
    workspace = AtHub(plain.root, hub.url, folder)
    workspace.run("pirepro", "run", "specs/whole-suite.yaml")
    return workspace


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_report_has_every_set(finished: AtHub, served: tuple[HubServer, dict[str, Any]]) -> None:
    report = finished.root / "reports" / "whole-suite"
    page = (report / "index.html").read_text()
    listed = served[1]["sets"]
    assert len(listed) == 31
    for entry in listed:
        assert entry["title"].replace("&", "&amp;") in page, entry["id"]
    rows = [line.split(",")[0] for line in (report / "tables" / "sets.csv").read_text().splitlines()]
    assert {entry["id"] for entry in listed} <= set(rows)
    few = {entry["id"] for entry in listed if entry["classes"] and entry["classes"] < 5}
    last = sorted((finished.root / "results/whole-suite/pi-s0").glob("epoch-*"))[-1]
    missing = {name for name in few if json.loads((last / f"{name}.json").read_text())["metrics"]["acc5"] is None}
    assert len(few) == 3 and missing == few


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_figure_is_clip_benchmark_s(
    finished: AtHub, served: tuple[HubServer, dict[str, Any]], tmp_path: Path
) -> None:
    hub, card = served
    finished.run("pirepro", "export", "artifacts/whole-suite/pi-s0/pretrain", str(tmp_path / "exported"))
    weights = tmp_path / "exported" / "open_clip_model.safetensors"
    last = sorted((finished.root / "results/whole-suite/pi-s0").glob("epoch-*"))[-1]
    sources = {source["name"]: source["locator"] for source in card["sources"]}
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in card["sets"]:
        usual = sources[entry["source"]] == f"clip-benchmark/wds_{entry['id']}"
        where = MAIN if usual else f"{sources[entry['source']]}/resolve/main"
        groups.setdefault((entry["task"], where), []).append(entry["id"])
    compared, values = 0, set()
    for (task, where), names in groups.items():
        _clip_benchmark(f"{hub.url}/datasets/{where}", weights, f"zeroshot_{task}", names, tmp_path)
        for name in names:
            theirs = json.loads((tmp_path / f"{name}.json").read_text())["metrics"]
            ours = json.loads((last / f"{name}.json").read_text())
            for metric, value in theirs.items():
                mine = ours["metrics"][metric]
                if mine is None:
                    assert math.isnan(value), (name, metric)
                else:
                    assert mine == pytest.approx(value, abs=1e-6), (name, metric)
                    values.add(round(value, 6))
                compared += 1
            if task == "retrieval":
                assert ours["captions"] == 5 * ours["n"]
    # 29 x (top-1, top-5, mean recall) and 2 x (1, 5, 10 both ways); figures that are all alike would show nothing.
    assert compared == 29 * 3 + 2 * 6 and len(values) > 20


def _clip_benchmark(root: str, weights: Path, task: str, names: list[str], folder: Path) -> None:
    config = weights.parent / "pi-demo-64.json"
    done = subprocess.run(
        [
            *(sys.executable, str(COMMAND), str(config), "eval", "--task", task),
            *("--dataset", *(f"wds/{name}" for name in names), "--dataset_root", root),
            *("--model", "pi-demo-64", "--pretrained", str(weights), "--no_amp", "--batch_size", "64"),
            *("--recall_k", "1", "5", "10", "--num_workers", "0", "--output", f"{folder}/{{dataset}}.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
