"""What SLURM knows of our jobs: one squeue call for all of them, and how one ended.

Rule: a controller that is down says nothing about a job. Looking never blocks and never fails; who looks
is told when the view was taken and why there is no newer one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO

#: States in which SLURM has done with a job; in all others it lives.
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
_FORMAT = "%i|%j|%T|%N|%Z|%k|%r"
#: Seconds after which a call that hangs is given up; SLURM's own limits are shorter.
_PATIENCE_S = 90.0
#: Reasons of SLURM's own for holding a job; JobHeldUser and JobHeldAdmin are people's.
_STUCK = re.compile(r"requeued.held|JobHoldMaxRequeue")
_ATTEMPT = re.compile(r"#(\d+)$")
#: How the comments of our jobs begin.
_OURS = "|pirepro "


@dataclass(frozen=True)
class Row:
    """A job as SLURM tells it.

    Attributes:
        job_id: SLURM's number.
        name: the fingerprint.
        state: SLURM's long name of its state, in capitals.
        reason: why it waits, or why it ended.
        node: where it runs or ran, as SLURM lists nodes ("n[1-2]"); "" before.
        attempt: our number of the submission; None where it is not told.
        status: exit status of the batch script, 128 + signal when killed; None where it is not told.
        workdir: folder that it runs in, which tells our clone's jobs from another's; "" where it is not told.
    """

    job_id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""
    attempt: int | None = None
    status: int | None = None
    workdir: str = ""

    @property
    def lives(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in ENDED

    @property
    def stuck(self) -> bool:
        """Held by SLURM itself after a node could not start it: it waits for a person, for ever."""
        return self.state == "PENDING" and bool(_STUCK.search(self.reason))

    def __str__(self) -> str:
        if self.state == "PENDING":
            return f"job {self.job_id} pending ({self.reason})"
        where = f" on {self.node}" if self.node else ""
        return f"job {self.job_id}{where}" + ("" if self.state == "RUNNING" else f", {self.state.lower()}")


@dataclass(frozen=True)
class View:
    """All jobs of this user that have the names that were asked for.

    Attributes:
        began: time.monotonic() at which SLURM was asked: what happened before is in it.
        names: the names that were asked for.
        jobs: by number.
    """

    began: float
    names: frozenset[str]
    jobs: dict[str, Row]

    def named(self, name: str) -> list[Row]:
        """Jobs of a name, oldest first."""
        return sorted((row for row in self.jobs.values() if row.name == name), key=lambda row: int(row.job_id))


def rows(names: Iterable[str]) -> dict[str, Row] | None:
    """This user's jobs of these names by number, also those that ended minutes ago; None without an answer.

    Another clone's jobs for the same stages have the same names: `Row.workdir` tells them apart.
    """
    said = answer(_squeue(names))
    return None if said is None else parse(said)


def ended(job_id: str, *, accounting: bool) -> Row | None:
    """How a job ended: of sacct where there is one, else of scontrol while it remembers; None if neither knows.

    Accounting that missed a job's end takes it for running ever after: it is believed while the controller has it.

    Args:
        job_id: SLURM's number.
        accounting: whether sacct can be asked.
    """
    if accounting:
        said = answer(["sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobID,JobName,State,ExitCode,NodeList"])
        for line in (said or "").splitlines():
            parts = line.split("|")
            if parts[0] == job_id and len(parts) == 5 and parts[2].strip():
                state = parts[2].split()[0]  # "CANCELLED by 0"
                row = Row(job_id, parts[1], state, node=_nodes(parts[4]), status=_status(parts[3]))
                return None if row.lives and _forgotten(job_id) else row
    return parse_job(answer(_show(job_id)) or "")


def ask_to_save(row: Row) -> None:
    """Have a job save its state and end; one that does not run has nothing to save."""
    answer(["scancel", row.job_id] if row.state == "PENDING" else ["scancel", "--batch", "--signal=USR2", row.job_id])


def end(job_id: str) -> None:
    """Have SLURM end a job; whether it did, the next look shows."""
    answer(["scancel", job_id])


def parse(text: str) -> dict[str, Row]:
    """Rows of squeue's answer, by job number."""
    found = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 7 or not parts[0].isdigit():
            continue
        # A folder's name or a comment may hold a bar.
        workdir, _, comment = "|".join(parts[4:-1]).partition(_OURS)
        number = _ATTEMPT.search(comment)
        found[parts[0]] = Row(
            parts[0],
            parts[1],
            parts[2].upper(),
            parts[-1],
            _nodes(parts[3]),
            attempt=int(number[1]) if number else None,
            workdir=workdir,
        )
    return found


def parse_job(text: str) -> Row | None:
    """The job of `scontrol show job`; None when it has forgotten it."""
    fields = dict(re.findall(r"(?:^|\s)(JobId|JobName|JobState|Reason|NodeList|ExitCode)=(\S*)", text))
    if "JobState" not in fields:
        return None
    return Row(
        fields.get("JobId", ""),
        fields.get("JobName", ""),
        fields["JobState"].upper(),
        fields.get("Reason", ""),
        _nodes(fields.get("NodeList", "")),
        status=_status(fields.get("ExitCode", "")),
    )


@dataclass
class Queue:
    """One view for all who wait, renewed every `poll_s` seconds by a squeue of its own process.

    Attributes:
        poll_s: seconds from one call to the next.
        trouble: what SLURM said instead of an answer; "" while it answers.
    """

    poll_s: float
    trouble: str = ""
    _names: set[str] = field(default_factory=set)
    _view: View | None = None
    _call: _Call | None = None
    _last: float = float("-inf")

    def watch(self, name: str) -> None:
        """Ask for jobs of this name, too."""
        self._names.add(name)

    def forget(self, name: str) -> None:
        """Ask for them no longer."""
        self._names.discard(name)

    def look(self) -> View | None:
        """The newest view; None before the first."""
        if self._call is not None and self._call.over:
            said, self.trouble = self._call.take()
            if said is not None:
                self._view = View(self._call.began, self._call.names, parse(said))
            self._call = None
        if self._call is None and self._names and time.monotonic() - self._last >= self.poll_s:
            self._last = time.monotonic()
            try:
                self._call = _Call(frozenset(self._names))
            except OSError as error:  # no SLURM on this host, or no room for a process or a file
                self.trouble = str(error)
        return self._view


class _Call:
    """A squeue under way."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names, self.began = names, time.monotonic()
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            _squeue(names), stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, env=_environment()
        )

    @property
    def over(self) -> bool:
        if time.monotonic() - self.began > _PATIENCE_S:
            self._process.kill()
            self._process.wait()
        return self._process.poll() is not None

    def take(self) -> tuple[str | None, str]:
        """Its answer, or None and what it said instead."""
        with self._out as out, self._err as err:
            out.seek(0)
            err.seek(0)
            said = err.read().decode(errors="replace").strip().splitlines()
            if self._process.returncode == 0:
                return out.read().decode(errors="replace"), ""
            return None, said[-1] if said else f"squeue ended with status {self._process.returncode}"


def _squeue(names: Iterable[str]) -> list[str]:
    asked = (f"--user={os.getuid()}", f"--name={','.join(sorted(names))}")
    return ["squeue", "--all", "--noheader", "--states=all", f"--format={_FORMAT}", *asked]


def _show(job_id: str) -> list[str]:
    return ["scontrol", "--oneliner", "show", "job", job_id]


def _environment() -> dict[str, str]:
    """Without a person's own defaults, which hide rows or columns, or keep scancel from a job."""
    strange = ("SQUEUE_", "SACCT_", "SCANCEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(strange)}


def answer(command: Sequence[str]) -> str | None:
    """A command's answer; None when it fails, hangs or is not installed."""
    done = _run(command)
    return done.stdout if done is not None and done.returncode == 0 else None


def _forgotten(job_id: str) -> bool:
    """Whether the controller says that it has no such job; one that does not answer says nothing."""
    done = _run(_show(job_id))
    return done is not None and done.returncode != 0 and "Invalid job id" in done.stderr


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A command that was run; None when it hangs or is not installed."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            env=_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _nodes(text: str) -> str:
    return "" if text in ("(null)", "None assigned", "N/A") else text


def _status(text: str) -> int | None:
    """Exit status of SLURM's "status:signal"."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found:
        return None
    return 128 + int(found[2]) if found[2] != "0" else int(found[1])
