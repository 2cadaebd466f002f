"""Kill -9 at random moments, across the stages: `python -m tests.e2e.kills --kills 100 --log kills.log`.

Each trial takes one stage of a demo-tiny with longer trainings, starts its job in an empty place beside the
inputs that were published, with 1, 2 or 4 processes where the stage can share its work, kills all of them or
one at a random moment, starts the job again with another number of processes until it is published, and
compares every byte with the run that nothing disturbed. Jobs are forked from one process that has the
libraries loaded, so that the moments fall into work and not into imports.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pi_repro.provenance.determinism_env import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import open_clip  # noqa: F401  loaded once for all jobs
import torch  # noqa: F401

from pi_repro.launch import job as jobs
from pi_repro.launch import worker
from pi_repro.launch.job import Job, job_of
from pi_repro.launch.places import Places, find
from pi_repro.launch.store import Store
from pi_repro.plan import params
from pi_repro.plan.resolve import resolve_all
from pi_repro.spec.fingerprint import environment_id

from .conftest import Workspace, make_workspace

FORK = multiprocessing.get_context("fork")
SPEC = "specs/demo-tiny.yaml"


@dataclass(frozen=True)
class Trial:
    """One kill and what followed."""

    stage: str
    processes: tuple[int, ...]
    victim: str
    moment: float
    hit: bool
    resumed: int
    identical: bool

    def line(self) -> str:
        """For the log."""
        how = f"killed {self.victim} after {self.moment:.2f} s" if self.hit else "ended before the kill"
        then = f"resumed from update {self.resumed}" if self.resumed else "begun again or gone on"
        return (
            f"{self.stage:<32} processes {'>'.join(map(str, self.processes)):<5} {how}, {then}: "
            f"{'identical' if self.identical else 'DIFFERENT'}"
        )


def main() -> int:
    """Run the trials; exit status 1 if any ended in other bits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20260101)
    parser.add_argument("--log", type=Path)
    wanted = parser.parse_args()
    log = wanted.log.open("w") if wanted.log else sys.stdout
    with tempfile.TemporaryDirectory() as folder:
        done = []
        for trial in trials(Path(folder), wanted.kills, random.Random(wanted.seed)):
            done.append(trial)
            print(f"{len(done):>3} {trial.line()}", file=log, flush=True)
    for line in summary(done):
        print(line, file=log, flush=True)
    return 0 if all(trial.identical for trial in done) else 1


def summary(done: list[Trial]) -> list[str]:
    """What README says."""
    kinds = collections.Counter(trial.stage.partition("@")[0] for trial in done)
    return [
        f"{len(done)} kills, {sum(trial.hit for trial in done)} hit a running job: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        f"{sum(trial.resumed > 0 for trial in done)} resumed from an update > 0, "
        f"{sum(len(set(trial.processes)) > 1 for trial in done)} went on with another number of processes",
        f"{sum(trial.identical for trial in done)} of {len(done)} identical",
    ]


def trials(folder: Path, kills: int, dice: random.Random) -> Iterator[Trial]:
    """Kill, go on and compare, as often as asked."""
    workspace = make_workspace(folder / "ws")
    workspace.edit("demo-tiny.yaml", "epochs: 4\n    batch: 64", "epochs: 60\n    batch: 64")
    workspace.edit("demo-tiny.yaml", "epochs: 2\n    batch: 32", "epochs: 20\n    batch: 32")
    workspace.edit("demo-tiny.yaml", "publish_states: [4]", "publish_states: [60]")
    workspace.run("pirepro", "plan", "--write")
    workspace.run("pirepro", "run", SPEC)
    every = all_jobs(workspace)
    lasts: dict[str, float] = {}
    hits = 0
    while hits < kills:
        job, digest = every[hits % len(every)]
        if job.kind not in lasts:
            # How long the stage takes when nothing happens, as forked here.
            begun = time.monotonic()
            place = fresh(job, folder / "measure")
            assert finish(place) and digest == Store(place.places.store).digest(place.fingerprint)
            lasts[job.kind] = time.monotonic() - begun
            shutil.rmtree(folder / "measure")
        trial = one(fresh(job, folder / "trial"), digest, dice.uniform(0, lasts[job.kind]), dice)
        shutil.rmtree(folder / "trial")
        # A kill that came too late killed nothing and does not count.
        hits += trial.hit
        if trial.hit or not trial.identical:
            yield trial


def all_jobs(workspace: Workspace) -> list[tuple[Job, str]]:
    """Every stage's job with the digest of what it published."""
    places = find(workspace.root)
    plan = params.plan(workspace.root)
    store = Store(places.store)
    done = resolve_all(plan, environment_id(workspace.root), store.digest)
    found = []
    for stage in plan.stages:
        item = done[stage.name]
        assert item.digest is not None
        found.append((job_of(item, plan.parents[stage.name], done, places), item.digest))
    return found


def fresh(job: Job, root: Path) -> Job:
    """The job in a place of its own, in which only its inputs are published."""
    store = root / "store"
    store.mkdir(parents=True)
    for rows in job.inputs.values():
        for _, fingerprint in rows:
            link = store / fingerprint
            if not link.is_symlink():
                link.symlink_to(job.places.store / fingerprint, target_is_directory=True)
    places = Places(job.places.workspace, root / "scratch", store, job.places.downloads, job.places.data_root)
    return replace(job, places=places)


def one(job: Job, digest: str, moment: float, dice: random.Random) -> Trial:
    """One kill at a moment, then on to the end."""
    sizes = [size(job, dice)]
    running = start(job, sizes[0])
    time.sleep(moment)
    alive = [process for process in running if process.is_alive()]
    victims = alive if dice.random() < 0.5 else alive[-1:] if dice.random() < 0.5 else alive[:1]
    for process in victims:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    hit = bool(victims) and Store(job.places.store).digest(job.fingerprint) is None
    reap(running)
    for _ in range(3):
        if Store(job.places.store).digest(job.fingerprint) is not None:
            break
        sizes.append(size(job, dice))
        reap(start(job, sizes[-1]), patience_s=300)
    log = job.log.read_text() if job.log.is_file() else ""
    found = re.findall(r"resumed from update (\d+)", log)
    whom = "all" if len(victims) == len(running) else f"process {running.index(victims[0])}" if victims else "none"
    same = Store(job.places.store).digest(job.fingerprint) == digest
    return Trial(job.name, tuple(sizes), whom, moment, hit, int(found[-1]) if found else 0, same)


def finish(job: Job) -> bool:
    """Run it undisturbed."""
    reap(start(job, 1), patience_s=300)
    return Store(job.places.store).digest(job.fingerprint) is not None


def size(job: Job, dice: random.Random) -> int:
    """1, 2 or 4 processes, as many as the stage can use."""
    most = {"evaluate": 4, "pretrain": 4, "initialize": 2, "finetune": 2}.get(job.kind, 1)
    return dice.choice([each for each in (1, 2, 4) if each <= most])


def start(job: Job, processes: int) -> list[multiprocessing.process.BaseProcess]:
    """The processes of a job, as torchrun starts them."""
    path = jobs.write(replace(job, processes=processes))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        running.append(FORK.Process(target=work, args=(path, environment)))
        running[-1].start()
    return running


def work(path: Path, environment: dict[str, str]) -> None:
    """One process of a job."""
    os.setsid()
    os.environ.update(environment)
    errors = os.open(path.parent / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os._exit(worker.main(path))


def reap(running: list[multiprocessing.process.BaseProcess], patience_s: float = 10) -> None:
    """Wait for the processes; when one is lost, a launcher ends the others."""
    end = time.monotonic() + patience_s
    while any(process.is_alive() for process in running):
        if time.monotonic() > end or any(process.exitcode not in (None, 0) for process in running):
            time.sleep(0.5)
            for process in running:
                process.kill()
        time.sleep(0.02)
    for process in running:
        process.join()


if __name__ == "__main__":
    sys.exit(main())
