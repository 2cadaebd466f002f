"""What a site must have for its jobs to work, found out by one tiny job that goes the way of every stage.

The job says what it sees (`inquire`), the login node answers it and compares (`findings`): nothing is
concluded from the name of a file system or of a host.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pi_repro.errors import PireproError
from pi_repro.files import write_json
from pi_repro.launch import runtimes
from pi_repro.launch.container import Image, image_of
from pi_repro.launch.doctor import Check
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import attempts, findings, probe, queue, sites, submission
from pi_repro.launch.slurm.findings import Trip
from pi_repro.launch.slurm.queue import Row
from pi_repro.launch.slurm.script import Script
from pi_repro.provenance import capture
from pi_repro.provenance.determinism_env import ENVIRONMENT
from pi_repro.spec.site import Site

#: Minutes that the job may take: torch's first import from a busy file system takes some.
_MINUTES = 10
#: Seconds that the job waits for the login node's answer: a network file system may show it late.
_HEARING_S = 90
#: Seconds until files of a job that ended are seen, and until sacct knows it.
_LATE_S = 20.0
_LOOK_S = 0.2
#: Stages that never ask for a GPU; the others go where GPUs are when their experiment has some.
_WITHOUT_GPU = frozenset({"fetch", "draw", "report"})

#: Run on the node's host before the image is checked; its words: folder, then those of that check.
_OUTSIDE = (
    'scontrol --oneliner show job "$SLURM_JOB_ID" >/dev/null 2>&1 && : >"$1/scontrol"; '
    'nvidia-smi -L >"$1/gpus.txt" 2>/dev/null; shift; [ $# = 0 ] || exec "$@"'
)


def examine(
    site_name: str, places: Places, say: Callable[[str], None] = lambda _: None, patience_s: float = 1800.0
) -> list[Check]:
    """All checks of a site, in the order in which they should be mended.

    Args:
        site_name: name or path.
        places: of the workspace.
        say: told what is going on, a line each time.
        patience_s: how long the job may wait in the queue, seconds.

    Raises:
        RequestError: no such site, or errors in its file.
    """
    site = sites.load(site_name, places.workspace)
    here = sites.places(site, places)
    checks, partition = _slurm(site)
    if partition is None:
        return checks
    try:
        image = image_of(site.runtime, here.workspace)
    except (PireproError, OSError) as error:
        return [*checks, Check("image", False, _short(error), getattr(error, "todo", None) or "make image")]
    try:
        trip = _trip(site, here, image, partition, say, patience_s)
    except (PireproError, submission.Later) as error:
        todo = getattr(error, "todo", None) or "try again when SLURM takes jobs"
        return [*checks, Check("job", False, _short(error), todo)]
    except OSError as error:
        todo = "scratch, store and downloads in the site's file: folders that you may write"
        return [*checks, Check("folders", False, _short(error), todo)]
    return [*checks, *findings.checks(trip, site, image)]


def _slurm(site: Site) -> tuple[list[Check], probe.Partition | None]:
    """What is known before any job, and the partition to try; None where a job makes no sense."""
    try:
        found = probe.partitions()
    except PireproError as error:
        return [Check("SLURM", False, f"{error.problem}: {error.given}", error.todo or "")], None
    names = ", ".join(part.name for part in found)
    checks = [Check("SLURM", True, f"partitions {names}")]
    part = None
    bounds: list[Check] = []
    for field in ("cpu_partition", "partition"):
        wanted = getattr(site, field)
        # "a,b" lets SLURM choose; the first is looked at.
        first = wanted.split(",")[0] if wanted else None
        part = next((part for part in found if part.name == first or (first is None and part.default)), None)
        if part is None and first:
            part = _hidden(first)
        if part is None and (wanted or field == "partition"):
            todo = f"{field} in the site's file: one of {names}"
            said = f"{wanted!r} is not there, or down" if wanted else "none is named, and the cluster has no default"
            return [*checks, Check(field, False, said, todo)], None
        if part is not None and (wanted or field == "partition"):
            bounds += _bounds(site, part, field)
    return [*checks, *bounds], part


def _hidden(name: str) -> probe.Partition | None:
    """A partition that the cluster does not list for everybody."""
    try:
        return next(iter(probe.partitions(name)), None)
    except PireproError:
        return None


def _bounds(site: Site, part: probe.Partition, field: str) -> Iterator[Check]:
    """Jobs that ask for more time than their partition gives wait for ever."""
    other = site.cpu_partition is not None
    kinds = [kind for kind in site.minutes if kind not in site.here]
    kinds = [kind for kind in kinds if not other or field == "cpu_partition" or kind not in _WITHOUT_GPU]
    over = {kind for kind in kinds if part.minutes is not None and site.minutes[kind] > part.minutes}
    if over:
        # An experiment with GPUs sends the rest to the other partition.
        needed = not other or field == "partition" or bool(over & _WITHOUT_GPU)
        yield Check(
            "minutes",
            False,
            f"jobs in {part.name} may take {part.minutes} min, and {', '.join(sorted(over))} ask for more",
            f"minutes in the site's file: at most {part.minutes}, or they wait for ever",
            needed,
        )


def _trip(
    site: Site,
    here: Places,
    image: Image | None,
    partition: probe.Partition,
    say: Callable[[str], None],
    patience_s: float,
) -> Trip:
    """Send the job, talk to it, gather what it left; its folder goes afterwards, and so does the job."""
    gpu = partition.gpus > 0
    token = secrets.token_hex(8)
    folder = here.scratch / f"doctor-{token}"
    name = f"pirepro-doctor-{token}"
    watched = {
        "workspace": here.workspace,
        "scratch": here.scratch,
        "store": here.store,
        "downloads": here.downloads,
        **({"data_root": here.data_root} if here.data_root else {}),
    }
    for path in (here.store, here.downloads):
        path.mkdir(parents=True, exist_ok=True)
    job_id = None
    try:
        attempts.make(folder, 1, "asked", "")
        request = {"folder": str(folder), "token": token, "wait_s": _HEARING_S, "gpu": gpu}
        request |= {"folders": {field: str(path) for field, path in watched.items()}}
        write_json(folder / "request.json", request)
        ask = submission.Ask(
            name=name,
            comment=f"pirepro doctor --site {site.name}",
            workdir=here.workspace,
            output=folder / "slurm-%j.txt",
            minutes=max(1, min(_MINUTES, partition.minutes or _MINUTES)),
            cpus=site.cpus_per_gpu if gpu else site.cpus_per_process,
            gpus=int(gpu),
            memory_gb=site.memory_per_gpu_gb if gpu else site.memory_per_process_gb,
        )
        script = Script(
            attempt=1,
            scratch=folder,
            published=folder / "findings.json",
            command=_command(site, list(dict.fromkeys(watched.values())), image, folder / "request.json", gpu),
            tasks=1,
            cpus=ask.cpus,
            requeues=1,
            modules=site.modules,
            prologue=("bash", "-c", _OUTSIDE, "bash", str(folder), *(image.prologue(here.workspace) if image else ())),
        )
        with _held(folder / "lock"):
            job_id = submission.submit(folder / "attempts", site, ask, script.text())
            say(f"job {job_id} submitted")
            row, waited = _wait(folder, job_id, name, site.poll_s, say, patience_s)
        return Trip(
            job_id=job_id,
            gpu=gpu,
            waited_s=waited,
            ended=(folder / "ended.json").exists(),
            answer=_json(folder / "findings.json"),
            row=row,
            said=tuple(_lines(folder / "log.txt")[-2:] + _lines(folder / f"slurm-{job_id}.txt")[-8:]),
            scontrol=(folder / "scontrol").exists(),
            host_gpus=tuple(_lines(folder / "gpus.txt")),
            accounted=_accounted(job_id, site),
        )
    finally:
        if job_id is not None and not (folder / "ended.json").exists():
            queue.end(job_id)
        shutil.rmtree(folder, ignore_errors=True)


def _command(site: Site, binds: Sequence[Path], image: Image | None, request: Path, gpu: bool) -> list[str]:
    """As a stage's process is started, with another module; the first of the binds is the workspace."""
    workspace = binds[0]
    variables = {**ENVIRONMENT, "PYTHONPATH": str(workspace)}
    if image:
        variables |= {capture.IMAGE: image.digest, "PIREPRO_IMAGE_MANIFEST": image.manifest}
    words = [runtimes.python_of(site.runtime), "-m", "pi_repro.launch.slurm.inquire", str(request)]
    return runtimes.wrap(
        site.runtime, words, environment={**site.environment, **variables}, binds=binds, workdir=workspace, gpus=gpu
    )


def _wait(
    folder: Path, job_id: str, name: str, poll_s: float, say: Callable[[str], None], patience_s: float
) -> tuple[Row | None, float | None]:
    """Answer the job until it ended or took too long; the last that SLURM said of it, and when it began."""
    begin = time.monotonic()
    row, waited, answered, told = None, None, None, ""
    look = begin + min(1.0, poll_s)
    over: float | None = None  # when it was seen to have ended
    end = begin + patience_s
    while not (folder / "ended.json").exists():
        now = time.monotonic()
        started = _json(folder / "started.json")
        if started and started["time"] != answered:
            write_json(folder / "answer.json", {"to": started["time"], "time": time.time()})
            answered = started["time"]
            waited = now - begin if waited is None else waited
            # SLURM, which ends it then, may be silent.
            end = now + 60 * _MINUTES + _LATE_S
        if now >= look:
            look = now + poll_s
            row = (queue.rows([name]) or {}).get(job_id, row)
            if row is not None and str(row) != told:
                told = str(row)
                say(told)
            if over is None and row is not None and (row.stuck or not row.lives):
                over = now
        if now > end or (over is not None and now > over + _LATE_S):
            break
        time.sleep(_LOOK_S)
        with os.scandir(folder):  # makes some network file systems look for new names
            pass
    return row, waited


def _accounted(job_id: str, site: Site) -> bool:
    """Whether sacct comes to know the job; where the site says that there is none, one look is enough."""
    end = time.monotonic() + (_LATE_S if site.accounting else 0.0)
    while True:
        if job_id in probe.accounted(job_id):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(1.0)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock on a file of this process; nothing where there are no locks."""
    with path.open("w") as file:
        with suppress(OSError):  # the job finds out why
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return []


def _short(error: Exception) -> str:
    if not isinstance(error, PireproError):
        return str(error)
    return error.problem + (f": {error.given}" if error.given is not None else "")
