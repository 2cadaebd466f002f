"""Waiting for a fingerprint on SLURM: attach to its job, or submit it, and again where the stage is not at fault.

Rule: one job a fingerprint. What the store holds is the truth of success; SLURM and ended.json only say why
there is nothing in it yet. Whoever waits may die at any moment: all that counts lies in the job's folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pi_repro.errors import RequestError
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import attempts, evidence, failures, queue, submission
from pi_repro.launch.slurm.attempts import Attempt
from pi_repro.launch.slurm.queue import Queue, Row, View
from pi_repro.spec.site import Site

#: Seconds that an unfinished submission of an unseen process is given; and of one that is known to be dead,
#: whose sbatch may just have reached SLURM.
GRACE_S, SETTLE_S = 30.0, 3.0
#: Seconds for which a live process may take to submit.
_STALE_S = 600.0
#: Seconds after which a job that SLURM shows no more is taken for ended: files travel, too.
_GONE_S = 5.0
#: Seconds for which a job that ended well may have published what can't be seen here yet.
_TRAVEL_S = 60.0
#: Seconds between tries while SLURM takes no jobs.
_LATER_S = 20.0


@dataclass
class SlurmHandle:
    """One who waits for a fingerprint; there may be several, on several hosts.

    Attributes:
        job: what is waited for.
        site: where.
        places: the site's folders.
        queue: the view that all share.
        submit: hands an attempt to SLURM, gives the job's number.
        note: where it is now, for people.
        why: after a failure, what happened and what to do.
    """

    job: Job
    site: Site
    places: Places
    queue: Queue
    submit: Callable[[Job, Attempt], str]
    note: str = "submitting"
    why: str = ""
    _status: int | None = None
    _next: float = 0.0
    _later: float = 0.0
    # Attempts up to this one had ended when we came: they are not what we wait for.
    _before: int = field(init=False)
    # What is waited for (an attempt's job, a job's return) -> since when, time.monotonic().
    _since: dict[str, float] = field(default_factory=dict)
    # A job that was told to stop before we came is not ours either, though it lives.
    _stopping: bool = field(init=False)

    def __post_init__(self) -> None:
        self._stopping = (self.job.scratch / "cancelled").exists()
        newest = attempts.newest(self.job.scratch)
        # One without a job is being submitted by somebody right now; a job that was told to stop is not ours.
        submitting = newest is not None and newest.job is None and newest.refused is None and not self._stopping
        self._before = 0 if newest is None else newest.number - submitting
        self.queue.watch(self.job.fingerprint)

    def poll(self) -> int | None:
        """0 once it is published, another status when it failed for good, None while it goes on. Never blocks long.

        A file server's trouble says nothing of the job: it is noted, and looked again.
        """
        if self._status is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + min(1.0, self.site.poll_s)
            try:
                self._status = self._step()
            except OSError as error:
                self.note = f"the job's files can't be read or written now: {error}"
            if self._status is not None:
                self.queue.forget(self.job.fingerprint)
        return self._status

    def stop(self) -> None:
        """Nothing: the job goes on without us."""

    def _step(self) -> int | None:
        if self._manifest.is_file():
            return 0
        view = self.queue.look()
        attempt = attempts.newest(self.job.scratch)
        if attempt is None:
            return self._submit(1, "asked")
        if attempt.refused is not None:
            return self._refused(attempt)
        if attempt.job is None:
            return self._unfinished(attempt, view)
        row = view.jobs.get(attempt.job) if view and self.job.fingerprint in view.names else None
        if row is not None and row.lives and not row.stuck:
            if not (self._stopping and attempt.number <= self._before):
                self._before = min(self._before, attempt.number - 1)
            self._since.clear()
            self.note = self._told(row)
            return None
        if evidence.ended(self.job.scratch, attempt) is None and not self._gone(attempt, view):
            self.note = self._told(row, _submitted(attempt, attempt.job))
            return None
        return self._ended(attempt, row)

    @property
    def _manifest(self) -> Path:
        return self.places.store / self.job.fingerprint / "manifest.json"

    def _submit(self, number: int, because: str, excluded: Sequence[str] = (), said: str = "") -> int | None:
        """Submit attempt n, unless another process just did; then we wait for that one. Its log gets what is said."""
        if time.monotonic() < self._later:
            return None
        holder = self.job.lease.holder()
        if holder is not None and not holder.get("slurm_job"):
            self.note = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} works on it"
            return None
        scratch = self.job.scratch
        made = attempts.make(scratch, number, because, evidence.progress(scratch), excluded)
        if made is None:
            return None
        if said:
            evidence.say(self.job, said)
        if because == "asked":
            for left in ("cancelled", "attempts/deaths.txt"):
                (scratch / left).unlink(missing_ok=True)
        return self._hand_over(made)

    def _hand_over(self, attempt: Attempt) -> int | None:
        """Give an attempt of ours to SLURM."""
        try:
            job = self.submit(self.job, attempt)
        except submission.Later as error:
            self.note, self._later = f"SLURM takes no jobs now: {error}", time.monotonic() + _LATER_S
            self._since.clear()  # it may have taken this one: the queue is looked at anew
            return None
        except RequestError as error:
            attempts.record(self.job.scratch, attempt.number, refused=str(error))
            if not attempt.excluded:
                self.why = str(error)
                return error.exit_status
            return self._submit(attempt.number + 1, attempt.because)  # no node may be left without the excluded
        attempts.record(self.job.scratch, attempt.number, job=job)
        self.note = _submitted(attempt, job)
        self._since.clear()
        return None

    def _refused(self, attempt: Attempt) -> int | None:
        if attempt.number <= self._before:
            return self._submit(attempt.number + 1, "asked")
        if not attempt.refused:  # it was broken off
            return self._submit(attempt.number + 1, attempt.because, attempt.excluded)
        if attempt.excluded:
            return self._submit(attempt.number + 1, attempt.because)
        self.why = attempt.refused
        return RequestError.exit_status

    def _unfinished(self, attempt: Attempt, view: View | None) -> int | None:
        """Somebody submits it, or died while doing so: SLURM knows whether there is a job."""
        since = self._waited(f"unfinished {attempt.number}")
        named = view.named(self.job.fingerprint) if view and view.began > since else []
        ours = [row for row in named if row.workdir == str(self.job.places.workspace)]  # another clone's has this name
        job = next((row.job_id for row in ours if row.attempt == attempt.number), None)
        job = job or evidence.job_of(self.job.scratch, attempt)
        if job is not None:
            attempts.record(self.job.scratch, attempt.number, job=job)
            return None
        mine = attempts.is_mine(attempt)
        lives = False if mine else attempts.maker_lives(attempt)
        patience = {True: _STALE_S, False: SETTLE_S, None: GRACE_S}[lives]
        # SLURM must have answered after that time: a controller that is down may have the job.
        if view is None or view.began < since + patience:
            if not mine:
                self.note = f"process {attempt.maker.get('pid', '?')} on {attempt.maker.get('host', '?')} submits it"
            return None
        if mine:
            return self._hand_over(attempt) if time.monotonic() >= self._later else None
        attempts.record(self.job.scratch, attempt.number, refused="")
        because = "asked" if attempt.number <= self._before else attempt.because
        return self._submit(attempt.number + 1, because, attempt.excluded)

    def _gone(self, attempt: Attempt, view: View | None) -> bool:
        """Whether SLURM has shown for a while that the job ended, or can't show it any more."""
        since = self._waited(f"gone {attempt.job}")
        patience = _GONE_S + self.site.poll_s
        return view is not None and self.job.fingerprint in view.names and view.began >= since + patience

    def _ended(self, attempt: Attempt, row: Row | None) -> int | None:
        """A job that ended without publishing, as far as can be seen from here."""
        for folder in (self.places.store, self._manifest.parent):
            # A network file system remembers for a while that a name was not there: its lists are read anew.
            with suppress(FileNotFoundError):
                os.listdir(folder)
        if self._manifest.is_file():
            return 0
        if attempt.number <= self._before:
            return self._submit(attempt.number + 1, "asked")
        scratch, site = self.job.scratch, self.site
        assert attempt.job is not None
        told = evidence.ended(scratch, attempt)
        if row is not None and row.stuck:
            queue.end(attempt.job)
        elif told is None:  # accounting knows more than the queue
            row = queue.ended(attempt.job, accounting=site.accounting) or row
            if row is not None and row.lives and not row.stuck:
                return None
        failure = failures.classify(
            row,
            told,
            evidence.tail(self.job, attempt.job),
            stage=self.job.kind,
            gpus=submission.on_gpus(self.job),
            cancelled=(scratch / "cancelled").exists(),
        )
        if failure.kind == "unpublished" and time.monotonic() < self._waited(f"files {attempt.job}") + _TRAVEL_S:
            self.note = f"job {attempt.job} ended well; what it published can't be seen here yet"
            return None
        alike = attempts.alike(scratch, failure.kind, evidence.progress(scratch)) + 1
        given_up = bool(told and told.get("final")) or alike >= site.retries
        if failure.kind in failures.AGAIN and not given_up:
            excluded = [*attempt.excluded, failure.node] if failure.node else attempt.excluded
            said = f"job {attempt.job}: {failure.text}; submitted again"
            return self._submit(attempt.number + 1, failure.kind, tuple(dict.fromkeys(excluded)), said)
        self.why = self._why(failure, attempt.job, alike)
        return failure.status

    def _why(self, failure: failures.Failure, job_id: str, alike: int) -> str:
        times = f" ({alike} times)" if alike > 1 else ""
        lines = [f"job {job_id}: {failure.text}{times}", f"to do:   {failure.todo}"]
        if failure.kind != "cancelled":
            lines[1:1] = [f"  {line}" for line in evidence.unsaid(self.job, job_id)]
        return "\n".join([*lines, f"output:  {evidence.output_file(self.job, job_id)}"])

    def _told(self, row: Row | None, instead: str = "") -> str:
        trouble = self.queue.trouble
        note = str(row) if row else instead
        return f"{note}; SLURM does not answer ({trouble})" if trouble else note

    def _waited(self, what: str) -> float:
        """Since when we wait for this."""
        return self._since.setdefault(what, time.monotonic())


def _submitted(attempt: Attempt, job_id: str) -> str:
    return f"job {job_id} submitted" + ("" if attempt.because == "asked" else f" (again: {attempt.because})")
