"""Jobs on SLURM: what each asks of the site, what it runs, and how all are seen and cancelled.

Rule: what is said here of a job's environment counts. Of the submitter's, which sbatch hands on, whatever speaks
of another job, of another launcher's processes or of the arithmetic stays behind (`submission`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pi_repro.launch import job as jobs
from pi_repro.launch import runtimes
from pi_repro.launch.container import Image
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.runner import LocalHandle, LocalRunner
from pi_repro.launch.slurm import attempts, queue, submission
from pi_repro.launch.slurm.attempts import Attempt
from pi_repro.launch.slurm.queue import Queue, Row
from pi_repro.launch.slurm.script import Script
from pi_repro.launch.slurm.waiting import SlurmHandle
from pi_repro.provenance import capture
from pi_repro.provenance.determinism_env import environment
from pi_repro.spec import supplied
from pi_repro.spec.site import Site

#: Seconds that a submission which was broken off may take to show in the queue.
_SUBMITS_S = 5.0


@dataclass
class SlurmRunner:
    """Submits jobs to a site.

    Attributes:
        site: where.
        places: the site's folders.
        image: what stages run in; None for the host's Python.
    """

    site: Site
    places: Places
    image: Image | None = None
    outlives: bool = True
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Queue(self.site.poll_s)

    def start(self, job: Job) -> SlurmHandle | LocalHandle:
        """Attach to the job's live submission, or submit it; kinds that the site runs here start here."""
        if job.kind in self.site.here:
            return LocalRunner().start(job)
        handle = SlurmHandle(job, self.site, self.places, self.queue, self.submit)
        handle.poll()
        return handle

    def view(self, fingerprints: Iterable[str]) -> dict[str, str] | None:
        """What SLURM says now of this workspace's jobs of these fingerprints; those without a live one are left out.

        Takes as long as squeue does; None when SLURM does not answer.
        """
        live = self._live(sorted(set(fingerprints)))
        return None if live is None else {row.name: str(row) for row in live}

    def cancel(self, fingerprints: Iterable[str], *, patience_s: float | None = None) -> dict[str, str]:
        """Stop this workspace's jobs of these fingerprints: what runs saves its state first, what waits is removed.

        One that is just being submitted stops as soon as it begins.

        Args:
            fingerprints: of stages.
            patience_s: how long to wait for it; what still lives then is ended by SLURM. None: the site's signal_s.

        Returns:
            fingerprint -> what became of its job; those without one are left out.
        """
        wanted = sorted(set(fingerprints))
        begin = time.monotonic()
        end = begin + (self.site.signal_s if patience_s is None else patience_s)
        told: dict[str, str] = {}
        asked: set[str] = set()
        for name in wanted:
            if self._scratch(name).is_dir() and not (self.places.store / name / "manifest.json").is_file():
                self._tell(name)
        while wanted:
            live = self._live(wanted)
            if live is None:
                told |= dict.fromkeys(wanted, "SLURM does not answer; try again")
                break
            for row in live:
                if row.job_id not in asked:
                    self._tell(row.name)
                    asked.add(row.job_id)
                    waits = row.state == "PENDING"
                    how = "was taken out of the queue" if waits else "saved its state and ended"
                    told[row.name] = f"job {row.job_id} {how}"
                    queue.ask_to_save(row)
                elif time.monotonic() > end:
                    told[row.name] = f"job {row.job_id} did not save in time and was ended; its last checkpoint stays"
                    queue.end(row.job_id)
                elif row.state == "PENDING":
                    queue.end(row.job_id)
            submitting = [name for name in wanted if name not in told and self._submitting(name)]
            for name in submitting:
                self._tell(name)  # who began to submit may just have removed an older word
            now = time.monotonic()
            if (not live and (not submitting or now > begin + _SUBMITS_S)) or now > end + self.site.poll_s:
                told |= dict.fromkeys(submitting, "it was just being submitted; its job will stop as it begins")
                break
            time.sleep(min(1.0, self.site.poll_s))
        return told

    def _live(self, names: Sequence[str]) -> list[Row] | None:
        """Live jobs of this workspace; another clone's have the same names. None when SLURM does not answer."""
        found = queue.rows(names) if names else {}
        if found is None:
            return None
        return [row for row in found.values() if row.lives and row.workdir == str(self.places.workspace)]

    def _scratch(self, name: str) -> Path:
        return self.places.scratch / name

    def _tell(self, name: str) -> None:
        """Leave word for the batch script and for who waits that the job was stopped by a person."""
        self._scratch(name).mkdir(parents=True, exist_ok=True)
        (self._scratch(name) / "cancelled").touch()

    def _submitting(self, name: str) -> bool:
        newest = attempts.newest(self._scratch(name))
        return newest is not None and newest.job is None and newest.refused is None

    def submit(self, job: Job, attempt: Attempt) -> str:
        """Hand a job to SLURM; returns its number.

        Raises:
            RequestError: SLURM refuses it.
            Later: it can't take it now.
        """
        places = self.places
        for folder in (job.scratch / "work", places.store, places.downloads):
            folder.mkdir(parents=True, exist_ok=True)
        file = jobs.write(job)
        ask = submission.ask_of(job, self.site, attempt.number, attempt.excluded)
        script = Script(
            attempt=attempt.number,
            scratch=job.scratch,
            published=places.store / job.fingerprint / "manifest.json",
            command=self._command(job, file),
            tasks=ask.tasks,
            cpus=ask.cpus,
            requeues=self.site.requeues,
            modules=self.site.modules,
            prologue=self.image.prologue(places.workspace) if self.image else (),
        )
        return submission.submit(job.scratch / "attempts", self.site, ask, script.text())

    def _command(self, job: Job, file: Path) -> list[str]:
        """What runs one process of a job."""
        mode, places = job.payload["settings"].get("mode", "exact"), self.places
        variables = environment({}, mode, job.processes) | supplied.variables()
        variables |= {
            "PIREPRO_JOB_LAUNCHER": "slurm",
            "PIREPRO_STALL_MINUTES": str(self.site.stall_minutes),
            capture.COMMAND: capture.typed(sys.argv, places.workspace),
        }
        if os.environ.get(capture.DEV) == "1":
            variables[capture.DEV] = "1"
        if self.site.interface:
            variables["PIREPRO_IFACE"] = self.site.interface
        if self.image:
            variables[capture.GIT] = json.dumps(capture.git_state(places.workspace))
        binds = [places.workspace, places.scratch, places.store, places.downloads, places.data_root]
        binds += supplied.copies().values()
        return process_command(
            self.site,
            self.image,
            ["pi_repro.launch.worker", str(file)],
            variables=variables,
            binds=[path for path in binds if path is not None],
            workdir=places.workspace,
            gpus=submission.on_gpus(job),
        )


def process_command(
    site: Site,
    image: Image | None,
    words: Sequence[str],
    *,
    variables: Mapping[str, str],
    binds: Sequence[Path],
    workdir: Path,
    gpus: bool,
) -> list[str]:
    """The words that run one process of a job, as the site runs stages.

    Args:
        site: where.
        image: what it runs in; None for the host's Python.
        words: module of this package and its arguments.
        variables: of its environment; they win over the site's.
        binds: folders that a container sees at their own paths.
        workdir: the workspace, whose code it runs.
        gpus: whether it gets the node's GPUs.
    """
    variables = {**variables, "PYTHONPATH": str(workdir)}
    if image:
        variables |= {capture.IMAGE: image.digest, "PIREPRO_IMAGE_MANIFEST": image.manifest}
    return runtimes.wrap(
        site.runtime,
        [runtimes.python_of(site.runtime), "-m", *words],
        environment={**site.environment, **variables},
        binds=list(dict.fromkeys(binds)),
        workdir=workdir,
        gpus=gpus,
    )
