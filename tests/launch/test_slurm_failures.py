"""Each way of ending is told apart, and told with what to change."""

from __future__ import annotations

from typing import Any

import pytest

from pi_repro.launch.slurm.failures import AGAIN, classify
from pi_repro.launch.slurm.queue import Row


def _row(state: str, node: str = "n1", status: int | None = None, reason: str = "") -> Row:
    return Row("7", "ab", state, reason, node, status=status)


@pytest.mark.parametrize(
    ("row", "ended", "tail", "kind", "todo"),
    [
        (_row("OUT_OF_MEMORY"), 137, "", "memory", "memory_per_process_gb"),
        (
            _row("FAILED"),
            137,
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0",
            "memory",
            "memory_per_proc",
        ),
        (_row("FAILED"), 3, "E this machine refused: out of memory", "memory", "prefetch"),
        (_row("TIMEOUT"), None, "", "time", "minutes.pretrain"),
        (_row("FAILED"), 130, "", "time", "requeues"),
        (_row("NODE_FAIL", "n[1-2]"), None, "", "node", "administrators"),
        (_row("FAILED"), 1, "srun: error: Task launch for StepId=7.0 failed on node n2: Invalid job", "node", "node"),
        (_row("FAILED"), 3, "E pretrain: process 1 of 2 was lost", "node", "node"),
        (_row("PENDING", "", reason="launch_failed_requeued_held"), None, "", "node", "node"),
        (_row("FAILED"), 137, "killed by signal 9", "killed", "log"),
        (_row("FAILED", status=181), None, "", "node", "shared"),
        (_row("CANCELLED"), None, "", "killed", "pirepro cancel"),
        (None, None, "", "killed", "run again"),
        (None, 75, "", "busy", "process"),
        (_row("FAILED"), 3, "E shard 000001.tar: wrong sha256", "data", "message"),
        (_row("FAILED"), 2, "E no such field", "request", "message"),
        (_row("FAILED"), 1, "Traceback (most recent call last):\nE CUDA unknown error", "code", "defect"),
        (_row("COMPLETED"), 0, "", "unpublished", "doctor"),
    ],
)
def test_kinds(row: Row | None, ended: int | None, tail: str, kind: str, todo: str) -> None:
    told: dict[str, Any] | None = None if ended is None else {"status": ended, "node": "n1", "alike": 0}
    failure = classify(row, told, tail.splitlines(), stage="pretrain", gpus=False)
    assert failure.kind == kind and todo in failure.todo, failure


def test_the_node_to_blame_is_the_one_that_slurm_names() -> None:
    said = ["srun: error: Task launch for StepId=7.0 failed on node n2: Communication connection failure"]
    assert classify(_row("FAILED", "n[1-2]"), None, said, stage="draw", gpus=False).kind == "killed", "no status"
    told = {"status": 1, "node": "n1"}
    assert classify(_row("FAILED", "n[1-2]"), told, said, stage="draw", gpus=False).node == "n2"
    assert classify(_row("NODE_FAIL", "n[1-2]"), None, [], stage="draw", gpus=False).node is None
    assert classify(_row("NODE_FAIL", "n3"), None, [], stage="draw", gpus=False).node == "n3"


def test_the_gpus_memory_and_a_persons_wish_come_first() -> None:
    said = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"]
    assert "activation_checkpointing" in classify(None, {"status": 1}, said, stage="pretrain", gpus=True).todo
    stopped = classify(_row("TIMEOUT"), None, said, stage="pretrain", gpus=True, cancelled=True)
    assert (stopped.kind, stopped.status) == ("cancelled", 130)
    assert "memory" not in AGAIN and "code" not in AGAIN and "data" not in AGAIN
