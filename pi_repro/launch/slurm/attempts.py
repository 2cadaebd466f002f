"""Submissions of a fingerprint, numbered: whoever creates number n submits it, and nobody else does.

<scratch>/<fingerprint>/attempts/0001.json  made with O_EXCL before sbatch: who submits, and why again
<scratch>/<fingerprint>/attempts/0001.job   renamed into place after: the job's number, or why there is none
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.files import sync_folder, write_json
from pi_repro.launch import identity


@dataclass(frozen=True)
class Attempt:
    """One submission.

    Attributes:
        number: from 1.
        maker: process that submits it (`identity.me`); empty while that is being written.
        because: what ended the one before ("node", "killed", "time" ...); "asked" when a person did.
        progress: what the stage had finished by then: a digest of the names in its scratch folder.
        excluded: nodes that it must not get.
        job: SLURM's number; None until it is known, or when there is no job.
        refused: why SLURM made no job of it, "" when it was broken off; None until that is known.
    """

    number: int
    maker: dict[str, Any]
    because: str
    progress: str
    excluded: tuple[str, ...]
    job: str | None
    refused: str | None


def newest(scratch: Path) -> Attempt | None:
    """The last attempt of a job's scratch folder, or None."""
    number = max(_numbers(scratch), default=0)
    return read(scratch, number) if number else None


def read(scratch: Path, number: int) -> Attempt:
    """An attempt that exists."""
    folder = scratch / "attempts"
    made, then = content(folder / f"{number:04}.json"), content(folder / f"{number:04}.job")
    return Attempt(
        number,
        made.get("maker", {}),
        made.get("because", ""),
        made.get("progress", ""),
        tuple(made.get("excluded", ())),
        then.get("job"),
        then.get("refused"),
    )


def make(scratch: Path, number: int, because: str, progress: str, excluded: Iterable[str] = ()) -> Attempt | None:
    """Take number n; None when somebody else did."""
    folder = scratch / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    maker = {**identity.me(), "time": int(time.time())}
    about = {"maker": maker, "because": because, "progress": progress, "excluded": list(excluded)}
    try:
        handle = os.open(folder / f"{number:04}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(about))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    return read(scratch, number)


def record(scratch: Path, number: int, *, job: str | None = None, refused: str | None = None) -> None:
    """Note the job's number, or why there is none."""
    write_json(scratch / "attempts" / f"{number:04}.job", {"job": job, "refused": refused})


def maker_lives(attempt: Attempt) -> bool | None:
    """Whether who submits it is still there; None when another host (or nobody) can tell."""
    return identity.alive(attempt.maker)


def is_mine(attempt: Attempt) -> bool:
    """Whether this very process made an attempt."""
    return attempt.maker.get("pid") == os.getpid() and maker_lives(attempt) is True


def alike(scratch: Path, because: str, progress: str) -> int:
    """How many attempts in a row were made for this reason at this progress, up to the newest.

    Those that never became a job count for nothing.
    """
    count = 0
    for number in sorted(_numbers(scratch), reverse=True):
        attempt = read(scratch, number)
        if attempt.refused is not None:
            continue
        if (attempt.because, attempt.progress) != (because, progress):
            break
        count += 1
    return count


def content(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty while it is not there, or not yet whole.

    Raises:
        OSError: a file server's trouble says nothing of the file: whoever waits looks again.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _numbers(scratch: Path) -> list[int]:
    try:
        names = os.listdir(scratch / "attempts")
    except FileNotFoundError:
        return []
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]
