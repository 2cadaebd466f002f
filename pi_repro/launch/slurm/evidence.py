"""What a job left in its folder: how it ended, how far it came, what it said last."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from pi_repro.launch.job import Job
from pi_repro.launch.slurm import attempts
from pi_repro.launch.slurm.attempts import Attempt

_LINES, _SHOWN = 40, 8
#: How the batch script begins what it prints.
_BEGIN = "== attempt "


def ended(scratch: Path, attempt: Attempt) -> dict[str, Any] | None:
    """What the batch script of an attempt wrote when it ended for good; None before, or when it was killed."""
    content = attempts.content(scratch / "ended.json")
    same = content.get("attempt") == attempt.number and attempt.job in (None, content.get("job"))
    return content if same else None


def job_of(scratch: Path, attempt: Attempt) -> str | None:
    """SLURM's number of an attempt that nobody noted, from what it wrote itself."""
    content = ended(scratch, attempt)
    return str(content["job"]) if content else None


def progress(scratch: Path) -> str:
    """A digest of the names of what the stage has finished: checkpoints, results. Hidden ones are unfinished."""
    found = []
    for root, folders, names in os.walk(scratch / "work"):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = folders + [name for name in names if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(root, name), scratch) for name in shown]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]


def output_file(job: Job, job_id: str) -> Path:
    """What the batch script and its processes print past the log."""
    return job.scratch / f"slurm-{job_id}.txt"


def tail(job: Job, job_id: str) -> list[str]:
    """The last lines of a job's output and log, of its last start alone."""
    return [*_output(job, job_id)[-_LINES:], *_log(job, job_id)[-_LINES:]]


def unsaid(job: Job, job_id: str) -> list[str]:
    """The last lines that a job's last start printed; none where its log says what went wrong."""
    if any(" E " in line[:24] for line in _log(job, job_id)):
        return []
    return [line for line in _output(job, job_id) if not line.startswith(_BEGIN)][-_SHOWN:]


def say(job: Job, text: str) -> None:
    """A line in the job's log."""
    with job.log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} I {text}\n")


def _output(job: Job, job_id: str) -> list[str]:
    lines = _lines(output_file(job, job_id))
    start = max((number for number, line in enumerate(lines) if line.startswith(_BEGIN)), default=0)
    return lines[start:]


def _log(job: Job, job_id: str) -> list[str]:
    lines, mark = _lines(job.log), f"slurm job {job_id}: begins on "
    begin = max((number for number, line in enumerate(lines) if mark in line), default=len(lines))
    return lines[begin:]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
