"""The evaluate stage: its files, and the same bytes after any interruption."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import files_under, path_digest
from pi_repro.spec.experiment import Resources
from pi_repro.stages import evaluate
from pi_repro.stages.context import Processes, StageContext

from .samples import MODEL

IDS = ["seven", "three", "captions-1", "captions-5", "2afc-votes-val", "2afc-votes-test"]


@pytest.fixture
def make(suite: Path, triplets: Path, weights: Path, tmp_path: Path) -> Callable[..., StageContext]:
    """Contexts of one stage that share a scratch folder, each with an output folder of its own."""

    def context(attempt: str, workers: int = 0, scratch: str = "scratch", **more: Any) -> StageContext:
        resources = Resources(
            gpus=0,
            parallel=1,
            workers=workers,
            prefetch=2,
            checkpoint_every=1,
            device_watts=1.0,
            grid_g_per_kwh=0.0,
            rates={},
        )
        evaluate_settings = {
            "suite": "suite",
            "batch": 16,
            "precision": "fp32",
            "recall_k": [1, 5, 10],
            "two_afc": [{"data": "votes", "splits": ["val", "test"]}],
        }
        settings = {"recipe": 1, "device": "cpu", "model": MODEL, "evaluate": evaluate_settings, "arm": "pi", "seed": 3}
        (tmp_path / attempt).mkdir()
        (tmp_path / scratch).mkdir(exist_ok=True)
        return StageContext(
            name="evaluate@test-pi-s3",
            settings=settings,
            inputs={"weights": weights, "suite": suite, "triplets-0": triplets},
            scratch=tmp_path / scratch,
            out=tmp_path / attempt,
            resources=resources,
            **more,
        )

    return context


def stop_after(calls: int) -> Callable[[], bool]:
    """False so many times, then true."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_files_and_their_index(make: Callable[..., StageContext]) -> None:
    context = make("out")
    evaluate.run(context)
    content = json.loads((context.out / "evaluation.json").read_text())
    assert content["sets"] == IDS
    assert (content["arm"], content["seed"], content["stage"]) == ("pi", 3, "pretrain")
    assert [line["folder"] for line in content["checkpoints"]] == ["epoch-0000", "epoch-0001"]
    wanted = {"evaluation.json"} | {
        f"{folder}/{name}{ending}"
        for folder in ("epoch-0000", "epoch-0001")
        for name in IDS
        for ending in (".json", ".items.safetensors")
    }
    assert {path.relative_to(context.out).as_posix() for path in files_under(context.out)} == wanted
    record = json.loads((context.out / "epoch-0001" / "seven.json").read_text())
    assert record["weights_sha256"] == content["checkpoints"][1]["sha256"]
    texts = b"".join(path.read_bytes() for path in files_under(context.out))
    assert str(context.out.parent).encode() not in texts


def test_same_bytes_however_often_interrupted(
    make: Callable[..., StageContext], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate.run(whole := make("whole", scratch="other"))
    caplog.set_level(logging.INFO, logger="pirepro")
    for attempt in range(30):
        context = make(f"out-{attempt}", workers=attempt % 2, should_stop=stop_after(25))
        try:
            evaluate.run(context)
            break
        except Interrupted:
            assert not files_under(context.out)
    else:
        pytest.fail("no attempt came to its end")
    assert attempt > 2
    assert "resume: epoch-0000 has" in caplog.text
    assert path_digest(context.out) == path_digest(whole.out)


def test_several_processes_share_the_sets_and_give_the_same_bytes(
    make: Callable[..., StageContext], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate.run(whole := make("whole", scratch="other"))
    caplog.set_level(logging.INFO, logger="pirepro")
    judged: list[str] = []
    for rank in (2, 1, 0):
        caplog.clear()
        evaluate.run(context := make(f"out-{rank}", processes=Processes(rank, 3, rank)))
        assert bool(files_under(context.out)) == (rank == 0)
        mine = [text.partition(":")[0] for text in caplog.messages if text.startswith("epoch-0001 ")]
        assert mine
        judged += mine
    assert sorted(judged) == sorted(f"epoch-0001 {name}" for name in IDS)
    assert path_digest(context.out) == path_digest(whole.out)


def test_only_what_is_damaged_is_done_again(
    make: Callable[..., StageContext], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate.run(first := make("first"))
    items = first.scratch / "epoch-0000" / "three.items.safetensors"
    items.write_bytes(items.read_bytes()[:-1] + b"x")
    caplog.set_level(logging.INFO, logger="pirepro")
    evaluate.run(second := make("second"))
    assert "resume: epoch-0000 has 5 of 6" in caplog.text and "resume: epoch-0001 has 6 of 6" in caplog.text
    assert path_digest(first.out) == path_digest(second.out)


def test_damaged_weights_are_refused_by_name(make: Callable[..., StageContext], weights: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(weights, tmp_path / "weights")
    file = copy / "weights" / "epoch-0001.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    context = make("out")
    inputs = {**context.inputs, "weights": copy}
    context = StageContext(context.name, context.settings, inputs, context.scratch, context.out, context.resources)
    with pytest.raises(StateError, match=r"epoch-0001\.safetensors"):
        evaluate.run(context)
    assert not files_under(context.out)


def test_progress_counts_sets(make: Callable[..., StageContext]) -> None:
    seen: list[tuple[int, int]] = []
    context = make("out", progress=lambda done, total, unit, note="": seen.append((done, total)))
    evaluate.run(context)
    assert seen == sorted(seen) and {total for _, total in seen} == {12} and seen[-1][0] == 12
