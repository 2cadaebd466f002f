"""Job arrays that make a dataset's shards: what was noted of each when it was submitted, and what SLURM says of it.

Rule: an array's name in SLURM is its folder's in scratch, which clones may share; only the folder that a task runs in
tells whose it is, and only this workspace's are ended.

<scratch>/<identity>/array.json           the newest array: its stage, SLURM's number and how many tasks
<scratch>/<identity>/slurm-<job>_<i>.txt  what task i printed
<scratch>/<identity>/<job>_<i>.json       how task i ended
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.files import write_json
from pi_repro.launch.slurm import attempts, queue

_NOTE = "array.json"


@dataclass(frozen=True)
class Array:
    """A job array of a dataset.

    Attributes:
        folder: its records and logs.
        job: SLURM's number.
        tasks: how many it has.
    """

    folder: Path
    job: str
    tasks: int

    def output(self, task: int) -> Path:
        """What a task printed."""
        return self.folder / f"slurm-{self.job}_{task}.txt"

    def ended(self) -> dict[int, int]:
        """Exit status of each task that said how it ended."""
        found = {}
        for task in range(self.tasks):
            content = attempts.content(self.folder / f"{self.job}_{task}.json")
            if "status" in content:
                found[task] = int(content["status"])
        return found


@dataclass(frozen=True)
class Task:
    """A task of an array as SLURM tells it; `index` is None for those that wait together."""

    name: str
    job: str
    index: int | None
    state: str
    reason: str
    workdir: str

    @property
    def lives(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in queue.ENDED


def note(folder: Path, stage: str, job: str | None, count: int) -> None:
    """Keep what is known of an array; `job` is None until SLURM has taken it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _NOTE, {"stage": stage, "job": job, "tasks": count})


def noted(scratch: Path) -> dict[Path, str]:
    """Folder -> stage of every dataset for which an array was ever submitted."""
    found = {path.parent: attempts.content(path).get("stage") for path in sorted(scratch.glob(f"*/{_NOTE}"))}
    return {folder: str(stage) for folder, stage in found.items() if stage}


def tasks(names: Iterable[str]) -> list[Task] | None:
    """Tasks of this user's arrays of these names, also those that ended minutes ago; None without an answer."""
    asked = f"--name={','.join(sorted(names))}"
    # A folder's name, which may hold a bar, comes last.
    said = queue.answer(["squeue", "--me", "--all", "--noheader", "--states=all", asked, "--format=%j|%F|%K|%T|%r|%Z"])
    if said is None:
        return None
    rows = [line.split("|", 5) for line in said.splitlines() if line.count("|") >= 5]
    return [
        Task(name, job, int(index) if index.isdigit() else None, state.upper(), reason, workdir)
        for name, job, index, state, reason, workdir in rows
    ]


def living(folder: Path) -> Array | None:
    """The array that is at work, also one whose submitter died before it could note its number.

    Raises:
        StateError: SLURM does not answer.
    """
    found = tasks([folder.name])
    if found is None:
        raise StateError("SLURM does not answer", todo="try again when squeue does")
    jobs = {task.job for task in found if task.lives}
    if not jobs:
        return None
    content = attempts.content(folder / _NOTE)
    job = str(content.get("job")) if content.get("job") in jobs else max(jobs, key=int)
    return Array(folder, job, int(content.get("tasks", 1)))


def cancel(wanted: dict[Path, str], workspace: Path, patience_s: float, poll_s: float) -> list[tuple[str, str]]:
    """End the arrays of some folders; each task keeps the shards that are whole.

    Args:
        wanted: folder -> stage, as `noted` gives them.
        workspace: whose they must be.
        patience_s: how long to wait for their end.
        poll_s: between two looks.

    Returns:
        (stage, what became of an array of it); nothing of those without one.
    """
    stages = {folder.name: stage for folder, stage in wanted.items()}
    asked: dict[str, str] = {}
    end = time.monotonic() + patience_s
    while wanted:
        found = tasks(stages)
        if found is None:
            return [(stage, "SLURM does not answer; try again") for stage in sorted(set(stages.values()))]
        alive = {task.job: stages[task.name] for task in _of(found, workspace, stages) if task.lives}
        for job in alive.keys() - asked.keys():
            queue.end(job)
        asked |= alive
        if not alive or time.monotonic() > end:
            return [
                (stage, f"array job {job} " + ("was asked to end" if job in alive else "was ended; whole shards stay"))
                for job, stage in sorted(asked.items(), key=lambda each: int(each[0]))
            ]
        time.sleep(poll_s)
    return []


def _of(found: Iterable[Task], workspace: Path, names: Collection[str]) -> list[Task]:
    return [task for task in found if task.workdir == str(workspace) and task.name in names]
