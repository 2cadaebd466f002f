"""Stages side by side."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import commit

from .conftest import ClusteredWorkspace, until

SPEC = "specs/demo-tiny.yaml"
SLOW = ("tiny-pairs", "tiny-triplets")

#: A slow server's dataset. The nodes of the test cluster share two cores, as those of a cluster do not: two stages
#: that compute would measure these cores, two that wait measure who starts them.
FETCHER = """\
import json, time

def fetch(card, context):
    for second in range(30):
        context.progress(second, 30, "s")
        time.sleep(1)
    (context.out / "card.json").write_text(json.dumps({"name": card.name}))
"""


@pytest.mark.alone
def test_independent_stages_run_side_by_side(clustered: ClusteredWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once take at most 0.65 of the time of one after the other, and accounting has them at one time."""
    _install(clustered.root)
    monkeypatch.setenv("PYTHONPATH", str(clustered.root))
    clustered.run("pirepro", "plan", "--write")
    commit(clustered, "slow data")
    clustered.run("pirepro", "stage", "fetch@tiny-suite")
    # Fetches can be jobs, too; a site's default keeps them here, for many nodes reach no network.
    clustered.cluster.site(clustered.root, here=[])
    together, rows = _seconds(clustered)
    assert max(row["start"] for row in rows) < min(row["end"] for row in rows), rows
    apart, rows = _seconds(clustered, "--parallel", "1")
    assert max(row["start"] for row in rows) >= min(row["end"] for row in rows), rows
    print(f"together {together:.1f} s, apart {apart:.1f} s: {together / apart:.2f}")
    assert together <= 0.65 * apart


def _install(root: Path) -> None:
    """A package with the fetcher, beside the code that jobs import."""
    (root / "slow.py").write_text(FETCHER)
    about = root / "slow-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pi_repro.fetchers]\nslow = slow:fetch\n")
    for name in SLOW:
        card = root / "specs" / "data" / f"{name}.yaml"
        lines = card.read_text().splitlines()
        card.write_text("\n".join("fetcher: slow" if line.startswith("fetcher:") else line for line in lines) + "\n")


def _seconds(workspace: ClusteredWorkspace, *options: str) -> tuple[float, list[dict[str, str]]]:
    """Time of the two fetches, begun anew, and accounting's rows of them."""
    for name in SLOW:
        shutil.rmtree(workspace.root / "data" / name, ignore_errors=True)
    for manifest in (workspace.root / ".pirepro/store").glob("*/manifest.json"):
        if json.loads(manifest.read_text())["payload"]["settings"]["card"]["name"] in SLOW:
            shutil.rmtree(manifest.parent)
    before = {row["id"] for row in workspace.cluster.sacct()}
    begun = time.monotonic()
    workspace.run("pirepro", "run", SPEC, "--slurm", "--until", "fetch", *options)
    seconds = time.monotonic() - begun
    until(lambda: len(_ended(workspace, before)) == 2, 30, "accounting to know two ended jobs")
    return seconds, _ended(workspace, before)


def _ended(workspace: ClusteredWorkspace, before: set[str]) -> list[dict[str, str]]:
    rows = [row for row in workspace.cluster.sacct() if row["id"] not in before]
    return [row for row in rows if row["state"] == "COMPLETED"]
