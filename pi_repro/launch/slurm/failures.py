"""Why a job ended without publishing, in words, and what to change. It decides nothing about bits.

Rule: SLURM's own verdict counts first, then the batch script's, then what the job said last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .queue import Row
from .script import LOST

Kind = Literal["memory", "time", "node", "killed", "busy", "unpublished", "data", "request", "code", "cancelled"]

#: What is no fault of the stage: it is submitted again.
AGAIN = frozenset({"time", "node", "killed", "busy", "unpublished"})

_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_MEMORY = re.compile(r"\bOOM\b|oom[-_ ]kill|out of memory|MemoryError|Cannot allocate memory", re.IGNORECASE)
_NODE = re.compile(
    r"Node failure|node failure on|Task launch for \S+ failed|task launch failed|launch failed|Unable to create step"
    r"|Communication connection failure|Slurmd could not|Unable to confirm allocation"
    rf"|No such (device|file).*nvidia|CUDA.*(unknown error|ECC|no CUDA-capable device)|{LOST}",
    re.IGNORECASE,
)
#: SLURM's own "signal 53": the node could not open the script's output.
_NO_OUTPUT = 128 + 53
_ON_NODE = re.compile(r"\bon (?:node )?([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True)
class Failure:
    """What happened.

    Attributes:
        kind: one word.
        text: one sentence.
        todo: which field of the site or the spec to change, or what to type.
        node: the node that is to blame, where one is.
        status: exit status of the stage.
    """

    kind: Kind
    text: str
    todo: str
    node: str | None = None
    status: int = 3


def classify(
    row: Row | None,
    ended: Mapping[str, Any] | None,
    tail: Sequence[str],
    *,
    stage: str,
    gpus: bool,
    cancelled: bool = False,
) -> Failure:
    """Why a job ended.

    Args:
        row: how SLURM tells it; None when it forgot the job.
        ended: what the batch script wrote; None when it could not.
        tail: the last lines of the log and of the script's output, of this start alone.
        stage: its verb, which names fields.
        gpus: whether it computes on GPUs.
        cancelled: whether a person stopped it.
    """
    state = row.state if row else ""
    status = ended["status"] if ended else row.status if row else None
    said = "\n".join(tail)
    if cancelled:
        return Failure("cancelled", "it was cancelled", "run again: it resumes from what was saved", status=130)
    if gpus and _GPU_MEMORY.search(said):
        todo = "set resources.activation_checkpointing: true in the spec, or raise resources.gpus; no bit changes"
        return Failure("memory", "the GPU's memory did not suffice", todo)
    if state == "OUT_OF_MEMORY" or (status not in (0, 2) and _MEMORY.search(said)):
        field = "memory_per_gpu_gb" if gpus else "memory_per_process_gb"
        return Failure(
            "memory",
            "it ran out of memory",
            f"raise {field} in the site's file, or lower resources.workers or resources.prefetch in the spec",
        )
    if state in ("TIMEOUT", "DEADLINE"):
        return Failure(
            "time",
            "its time limit came before it had saved its state",
            f"raise minutes.{stage} or signal_s in the site's file, or lower resources.checkpoint_every in the spec",
        )
    if state in ("NODE_FAIL", "BOOT_FAIL") or (row and row.stuck):
        return _node(row, ended, said)
    if status == _NO_OUTPUT and not ended:
        failure = _node(row, ended, said)
        return replace(
            failure,
            text=f"{failure.text}: it could not write to the job's folder",
            todo="scratch must be shared by all nodes: pirepro doctor --site NAME",
        )
    if status in (1, 3) and _NODE.search(said) and not _traceback(tail):
        return _node(row, ended, said)
    return _of_status(status, state, ended, stage)


def _of_status(status: int | None, state: str, ended: Mapping[str, Any] | None, stage: str) -> Failure:
    if status == 130:
        return Failure(
            "time",
            "it saved its state, but SLURM did not start it again",
            f"raise requeues or minutes.{stage} in the site's file; run again to go on",
            status=130,
        )
    if status == 75:
        return Failure("busy", "another process worked on it", "wait for that process, or end it")
    if status is not None and status > 128:
        often = f", {ended['alike']} times at the same point" if ended and ended.get("alike") else ""
        text = f"it was killed by signal {status - 128}{often}"
        return Failure("killed", text, "see the log; if nobody killed it, raise the memory in the site's file")
    if status == 2:
        return Failure("request", "what was asked for is wrong", "see the message above", status=2)
    if status == 3:
        return Failure("data", "the data or the machine is wrong", "see the message above, and run again")
    if status == 0 and state != "CANCELLED":
        return Failure(
            "unpublished", "it ended well and published nothing", "is the store shared? pirepro doctor --site"
        )
    if status is None or state in ("CANCELLED", "PREEMPTED", "REVOKED", "COMPLETED"):
        how = f"SLURM ended it ({state.lower()})" if state else "SLURM knows nothing of it any more"
        todo = "run again; where nobody did that, ask the administrators (`pirepro cancel` stops a job for good)"
        return Failure("killed", how, todo)
    return Failure("code", f"it failed with status {status}", "see the lines above; please report a defect", status=1)


def _node(row: Row | None, ended: Mapping[str, Any] | None, said: str) -> Failure:
    """To blame is the node that SLURM's message names, or the only one."""
    lines = [line for line in said.splitlines() if _NODE.search(line)]
    named = [found[1] for line in lines if (found := _ON_NODE.search(line))]
    alone = row.node if row and "[" not in row.node and "," not in row.node else ""
    node = named[-1] if named else alone or (str(ended["node"]) if ended and not row else "")
    where = f"node {node} failed" if node else "a node failed, or a process was lost"
    return Failure("node", where, "ask the cluster's administrators about that node", node or None)


def _traceback(tail: Sequence[str]) -> bool:
    """Whether the stage itself said what was wrong, which then counts."""
    return any("Traceback (most recent call last)" in line for line in tail)
