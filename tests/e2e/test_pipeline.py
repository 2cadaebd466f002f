"""The whole DAG at tiny scale: run, do nothing twice, notice every change, refuse every damage."""

from __future__ import annotations

import json
import re
import resource
import shutil
import time
from pathlib import Path

import pytest

from .conftest import Workspace, make_workspace


def _flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.unlink()
    path.write_bytes(content)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_run_leaves_dvc_with_nothing_to_do(workspace: Workspace) -> None:
    assert "up to date" in workspace.run("dvc", "status")
    begun, busy = time.monotonic(), _seconds_of_children()
    output = workspace.run("dvc", "repro")
    # The processor's time, where others made it wait for that.
    spent = min(time.monotonic() - begun, _seconds_of_children() - busy)
    assert "Running stage" not in output and "up to date" in output
    assert spent < 15, "the promise is 5 s on an idle machine"
    assert workspace.run("git", "status", "--porcelain") == ""


def test_a_second_run_starts_nothing(workspace: Workspace) -> None:
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert "started" not in output and "published already" in output
    assert workspace.run("git", "status", "--porcelain") == ""


def test_what_dvc_lock_names_already_is_still_brought_into_the_cache_to_be_pushed(workspace: Workspace) -> None:
    lock = (workspace.root / "dvc.lock").read_bytes()
    shutil.rmtree(workspace.root / ".dvc/cache")
    assert re.search(r"recording\s+11 stages", workspace.run("pirepro", "run", "specs/demo-tiny.yaml"))
    assert len(list((workspace.root / ".dvc/cache/files/md5").glob("*/*.dir"))) == 11
    assert "recording" not in workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert (workspace.root / "dvc.lock").read_bytes() == lock


def test_outputs_name_no_time_host_or_path(workspace: Workspace) -> None:
    for path in workspace.digests():
        if path.endswith((".json", ".jsonl", ".csv", ".html", ".md", ".svg", ".txt")):
            text = (workspace.root / path).read_text(errors="replace")
            assert str(workspace.root) not in text and "/tmp/" not in text, path


def test_a_lost_or_changed_copy_is_put_back_from_the_store(workspace: Workspace) -> None:
    before = workspace.digests()
    victim = next(name for name in before if name.endswith(".tar"))
    _flip(workspace.root / victim)
    (workspace.root / next(name for name in before if name.endswith(".safetensors"))).unlink()
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert "restored" in output and "started" not in output
    assert workspace.digests() == before


def test_dvc_repro_links_what_is_published(workspace: Workspace) -> None:
    before = workspace.digests()
    workspace.run("dvc", "repro", "--force", "--single-item", "draw@demo-tiny-s0")
    assert workspace.digests() == before


def test_damage_in_the_store_is_refused_by_name(workspace: Workspace) -> None:
    """A flipped byte in a published shard and in published weights: named, exit 3, nothing lost, mended by gc."""
    before = workspace.digests()
    spec = workspace.root / "specs" / "demo-tiny.yaml"
    text = spec.read_text()
    store = workspace.root / ".pirepro" / "store"
    shard = next(
        path
        for path in sorted(store.glob("*/out/shards/*.tar"))
        if "tiny-pairs" in (path.parents[1] / "index.json").read_text()
    )
    _flip(shard)
    workspace.edit("demo-tiny.yaml", "lr: 2e-3", "lr: 1e-3")
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml", status=3)
    assert shard.name in output and "damaged" in output and "Traceback" not in output
    spec.write_text(text)
    weights = next(path for path in sorted(store.glob("*/out/weights/*.safetensors")) if "epoch-0004" in path.name)
    _flip(weights)
    workspace.edit("demo-tiny.yaml", "lr: 3e-4", "lr: 1e-4")
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5, 10]", "recall_k: [1, 5]")
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml", "--until", "evaluate", "--keep-going", status=3)
    assert weights.name in output and "damaged" in output and "Traceback" not in output
    spec.write_text(text)
    assert "damaged" in workspace.run("pirepro", "gc", "--damaged", "--yes")
    workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert workspace.digests() == before


@pytest.mark.full
def test_explain_names_the_changed_field_and_only_dependents_rerun(workspace: Workspace) -> None:
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5, 10]", "recall_k: [1, 5]")
    output = workspace.run("pirepro", "explain", "evaluate@demo-tiny-pi-s0")
    assert "evaluate.recall_k: [1, 5, 10] -> [1, 5]" in output
    assert "differs" in workspace.run("pirepro", "explain", "pretrain@demo-tiny-pi-s0")
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    started = {name.split("@")[0] for name in re.findall(r"started\s+(\S+)", output)}
    assert started == {"evaluate", "report"}
    assert "up to date" in workspace.run("dvc", "status")


def test_a_changed_resource_reruns_nothing(workspace: Workspace) -> None:
    workspace.edit("demo-tiny.yaml", "workers: 0", "workers: 3")
    workspace.edit("demo-tiny.yaml", "checkpoint_every: 4", "checkpoint_every: 9")
    assert "started" not in workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert "up to date" in workspace.run("dvc", "status")


def test_stage_refuses_params_that_are_not_what_the_specs_say(workspace: Workspace) -> None:
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5, 10]", "recall_k: [1, 5]")
    output = workspace.run("pirepro", "stage", "report@demo-tiny", status=2)
    assert "pirepro plan --write" in output


def test_names_that_are_none_get_the_nearest(workspace: Workspace) -> None:
    assert "did you mean 'report@demo-tiny'" in workspace.run("pirepro", "stage", "report@demo-tinny", status=2)
    assert "did you mean" in workspace.run("pirepro", "explain", "pretrain@demo-tiny-pi-s1", status=2)
    assert "no such file" in workspace.run("pirepro", "run", "specs/none.yaml", status=2)


def test_dry_run_and_status(workspace: Workspace) -> None:
    assert "0 of" in workspace.run("pirepro", "run", "specs/demo-tiny.yaml", "--dry-run")
    total = len(json.loads((workspace.root / "params.json").read_text())["evaluate"])
    assert total == 3
    assert re.search(r"(\d+) of \1 stages are published", workspace.run("pirepro", "status"))
    assert "published" in workspace.run("pirepro", "plan")


def test_the_paper_s_spec_refuses_at_once_what_this_machine_lacks(workspace: Workspace) -> None:
    """Enabled, `dvc repro` names what is missing and what to type before anything is downloaded."""
    before = workspace.run("git", "status", "--porcelain")
    workspace.run("pirepro", "validate", "specs/pi_vs_random.yaml")
    workspace.run("pirepro", "enable", "specs/pi_vs_random.yaml")
    begun = time.monotonic()
    output = workspace.run("dvc", "repro", status=255)
    assert time.monotonic() - begun < 60
    for word in ("GPU", "data root", "pirepro disable specs/pi_vs_random.yaml"):
        assert word in output, output
    assert not (workspace.root / "data" / "nights").exists()
    assert not (workspace.root / "data" / "yfcc15m").exists()
    workspace.run("pirepro", "disable", "specs/pi_vs_random.yaml")
    assert "up to date" in workspace.run("dvc", "status")
    assert workspace.run("git", "status", "--porcelain") == before
    output = workspace.run("pirepro", "run", "specs/pi_vs_random.yaml", status=2)
    assert "settings.captions" in output and "GPU" in output and "Traceback" not in output


def test_until_stops_early(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    workspace.run("pirepro", "run", "specs/demo-tiny.yaml", "--until", "draw")
    assert (workspace.root / "artifacts/demo-tiny/draw-s0/training.json").is_file()
    assert not (workspace.root / "artifacts/demo-tiny/random-s0").exists()


def test_any_checkpoint_can_be_judged(workspace: Workspace, tmp_path: Path) -> None:
    """The command gives an exported file the metrics that the DAG gave the same weights."""
    workspace.run("pirepro", "export", "artifacts/demo-tiny/pi-s0/pretrain", str(tmp_path / "exported"))
    weights, output = tmp_path / "exported" / "open_clip_model.safetensors", tmp_path / "results.json"
    workspace.run("pirepro", "evaluate", "--weights", str(weights), "--suite", "tiny-suite", "--output", str(output))
    found = json.loads(output.read_text())
    assert len(found) == 4
    for set_id, record in found.items():
        path = workspace.root / "results/demo-tiny/pi-s0/epoch-0004" / f"{set_id}.json"
        assert record["metrics"] == pytest.approx(json.loads(path.read_text())["metrics"], abs=1e-9), set_id
    missing = workspace.run("pirepro", "evaluate", "--weights", "none.pt", "--suite", "tiny-suite", status=2)
    assert "none.pt" in missing and "Traceback" not in missing
    assert "no such suite" in workspace.run("pirepro", "evaluate", "--weights", "x", "--suite", "y", status=2)


def test_gc_keeps_what_is_asked_for(workspace: Workspace) -> None:
    before = workspace.digests()
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5, 10]", "recall_k: [1, 5]")
    assert "not asked for" in workspace.run("pirepro", "gc", "--yes")
    workspace.edit("demo-tiny.yaml", "recall_k: [1, 5]", "recall_k: [1, 5, 10]")
    output = workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
    assert "adopted" in output and "started" not in output
    assert workspace.digests() == before


@pytest.mark.parametrize("spec", ["demo-tiny.yaml"])
def test_force_runs_again_and_compares_bits(workspace: Workspace, spec: str) -> None:
    before = workspace.digests()
    output = workspace.run("pirepro", "run", f"specs/{spec}", "--until", "draw@demo-tiny-s0", "--force")
    assert re.search(r"started\s+draw@demo-tiny-s0", output)
    assert workspace.digests() == before
