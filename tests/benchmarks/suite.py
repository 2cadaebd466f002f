"""The evaluation of a suite against clip_benchmark's command, on the same files.

Rule: whole commands from start to exit, one thread each, by turns, in processor time (what the wall would say on
a core of one's own; others on the machine disturb it least), and every metric of both
must agree to 1e-6, else nothing is reported. Theirs in two forms: the fastest that its command line
has (all sets of a task grouped in one command, so that it starts twice), and one command a set, as its users
script it; that form would take minutes, so it is reckoned: a command with the smallest set, which is hardly more
than its start, for each start that the grouped form saves. The demo's suite where it was
fetched, else the tiny one is fetched; the weights are drawn, since speed doesn't depend on them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.conftest import make_workspace

from .rows import Row, row
from .step import model_settings
from .workers import FREE, PINNED, ROOT, ratio

_COMMAND = ROOT / "tests" / "evaluation" / "clip_benchmark_command.py"
_ROUNDS = 2
_TASKS = {"classification": "zeroshot_classification", "retrieval": "zeroshot_retrieval"}


def measure() -> list[Row]:
    """Rows for both forms of their command.

    Raises:
        AssertionError: a metric differs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = _suite(folder)
        sets = json.loads((suite / "suite.json").read_text())["sets"]
        _draw(folder)
        times: dict[str, list[float]] = {"ours": [], "grouped": []}
        for _ in range(_ROUNDS):
            times["ours"].append(_ours(suite, folder))
            times["grouped"].append(_grouped(suite, sets, folder))
            _compare(sets, folder)
        smallest = min(sets, key=lambda each: int(each["n"]))
        start = _theirs(suite, smallest["task"], [smallest["id"]], folder)
    ours, grouped = statistics.median(times["ours"]), statistics.median(times["grouped"])
    single = grouped + start * (len(sets) - len({each["task"] for each in sets}))
    images = sum(int(each["n"]) for each in sets)
    what = f"evaluation of {suite.name} ({len(sets)} sets, {images:,} images), whole command, against clip_benchmark"
    return [
        row(
            f"{what}, sets grouped in one command a task",
            ours,
            grouped,
            "s",
            ">= 3",
            ratio=ratio(times["grouped"], times["ours"]),
        ),
        row(f"{what}, one command a set (reckoned)", ours, single, "s", ">= 3"),
    ]


def _suite(folder: Path) -> Path:
    demo = ROOT / "data" / "demo-suite"
    if (demo / "suite.json").is_file():
        return demo
    workspace = make_workspace(folder / "workspace")
    workspace.run("pirepro", "run", "specs/demo-tiny.yaml", "--until", "fetch")
    return workspace.root / "data" / "tiny-suite"


def _draw(folder: Path) -> None:
    """weights.safetensors and the model's config beside it."""
    import torch

    from pi_repro.training import model as models

    settings = model_settings()
    torch.manual_seed(0)
    models.save(models.build(settings), settings, folder / "weights.safetensors")
    (folder / f"{settings['name']}.json").write_text(json.dumps(settings["architecture"]))


def _timed(command: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert done.returncode == 0, done.stderr[-3000:]
    return took


def _ours(suite: Path, folder: Path) -> float:
    command = [sys.executable, "-m", "pi_repro", "evaluate", "--weights", str(folder / "weights.safetensors")]
    (folder / "ours.json").unlink(missing_ok=True)
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return _timed(
        [*command, "--suite", str(suite), "--output", str(folder / "ours.json")],
        ROOT,
        {**PINNED, "PYTHONPATH": path},
    )


def _theirs(suite: Path, task: str, sets: Sequence[str], folder: Path) -> float:
    return _timed(
        [
            *(sys.executable, str(_COMMAND), str(folder / f"{model_settings()['name']}.json"), "eval"),
            *("--task", _TASKS[task], "--dataset", *(f"wds/{each}" for each in sets)),
            *("--dataset_root", f"{suite}/{{dataset}}", "--model", model_settings()["name"]),
            *("--pretrained", str(folder / "weights.safetensors"), "--no_amp", "--batch_size", "64"),
            *("--recall_k", "1", "5", "10", "--num_workers", "0", "--output", f"{folder}/{{dataset}}.json"),
        ],
        folder,
        {**FREE, "CUDA_VISIBLE_DEVICES": ""},
    )


def _names(sets: Sequence[dict[str, Any]], task: str) -> list[str]:
    return [each["id"] for each in sets if each["task"] == task]


def _grouped(suite: Path, sets: Sequence[dict[str, Any]], folder: Path) -> float:
    for path in folder.glob("*_*.json"):
        path.unlink()
    return sum(_theirs(suite, task, names, folder) for task in _TASKS if (names := _names(sets, task)))


def _compare(sets: Sequence[dict[str, Any]], folder: Path) -> None:
    ours = json.loads((folder / "ours.json").read_text())
    for each in sets:
        theirs = json.loads((folder / f"{each['id'].replace('/', '_')}.json").read_text())["metrics"]
        for metric, value in theirs.items():
            mine = ours[each["id"]]["metrics"][metric]
            same = math.isnan(value) if mine is None else math.isclose(mine, value, rel_tol=0, abs_tol=1e-6)
            assert same, f"{each['id']} {metric}: {mine} is not clip_benchmark's {value}"
