"""Handing a batch script to SLURM, by submitit: it writes the #SBATCH lines and calls sbatch.

Rule: whatever a site or a spec says reaches sbatch as the value of one option. No function is pickled:
the script's body is ours.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from pi_repro.errors import RequestError
from pi_repro.launch.job import Job
from pi_repro.provenance.determinism_env import ENVIRONMENT
from pi_repro.spec.site import Site

#: Verbs that compute on a GPU where the experiment has some.
_ON_GPU = frozenset({"initialize", "pretrain", "joint", "finetune", "evaluate", "probe"})

#: What sbatch says of a job that it may well take later, or may have taken.
_LATER = (
    *("Unable to contact", "Socket timed out", "Communication", "Connection refused", "timed out", "Zero Bytes"),
    *("temporarily", "try again", "Submission rate", "MaxSubmitJob", "GrpSubmitJob", "MaxJobCount"),
    *("Transport endpoint", "Unexpected message", "slurmdbd", "in standby mode"),
)

#: sbatch's own defaults in the environment, which would win over the script: kept where the site is silent.
_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
}
_NAMABLE = re.compile(r"[^%\\\x00-\x1f\x7f]*")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER")
#: What says something of another job, another launcher's processes, or the arithmetic.
_STRANGE = ("SBATCH_", "SLURM_", "PIREPRO_", "MASTER_")
_STRANGE_NAMES = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "NVIDIA_TF32_OVERRIDE", *ENVIRONMENT})


class Later(Exception):
    """SLURM could not take the job now; whether it did after all is seen in the queue."""


@dataclass(frozen=True)
class Ask:
    """What a job asks of SLURM.

    Attributes:
        name: its name.
        comment: for people.
        output: file of the script's own output, with SLURM's %j.
        minutes: time limit.
        tasks: processes, one a GPU.
        nodes: nodes.
        tasks_per_node: most of them on a node.
        cpus: of a process.
        gpus: GPUs of a node; 0 for none.
        memory_gb: of a node; None for the cluster's default.
        excluded: nodes that it must not get.
        workdir: where it runs; None for the folder of who submits it.
        array: numbers of an array's tasks as sbatch takes them ("0-7%4"), which may run side by side; None: one
            job, and never beside another of its name.
    """

    name: str
    comment: str
    output: Path
    minutes: int
    tasks: int = 1
    nodes: int = 1
    tasks_per_node: int = 1
    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    excluded: tuple[str, ...] = ()
    workdir: Path | None = None
    array: str | None = None


def on_gpus(job: Job) -> bool:
    """Whether a job computes on GPUs."""
    return job.resources.gpus > 0 and job.kind in _ON_GPU


def ask_of(job: Job, site: Site, attempt: int, excluded: tuple[str, ...] = ()) -> Ask:
    """What a stage asks of SLURM."""
    gpu, tasks = on_gpus(job), job.processes
    most = site.gpus_per_node if gpu else site.tasks_per_node or tasks
    nodes = math.ceil(tasks / most)
    each = math.ceil(tasks / nodes)
    memory = site.memory_per_gpu_gb if gpu else site.memory_per_process_gb
    return Ask(
        name=job.fingerprint,
        comment=f"pirepro {job.name} #{attempt}",
        workdir=job.places.workspace,
        output=job.scratch / "slurm-%j.txt",
        minutes=site.minutes[job.kind],  # type: ignore[index]
        tasks=tasks,
        nodes=nodes,
        tasks_per_node=each,
        cpus=site.cpus_per_gpu if gpu else site.cpus_per_process,
        gpus=each if gpu else 0,
        memory_gb=None if memory is None else memory * each,
        excluded=excluded,
    )


def parameters(ask: Ask, site: Site) -> dict[str, Any]:
    """The options as submitit takes them."""
    partition = site.partition if ask.gpus else site.cpu_partition or site.partition
    gres = f"gpu:{site.gpu_type}:{ask.gpus}" if site.gpu_type else f"gpu:{ask.gpus}"
    further = {
        "ntasks": ask.tasks,
        # To the batch shell alone, which passes it on. Half of a short limit is left to work in.
        "signal": f"B:USR2@{min(site.signal_s, ask.minutes * 30)}",
        "requeue": True,
        "output": str(ask.output),
        "chdir": str(ask.workdir) if ask.workdir else None,
        "reservation": site.reservation,
        "array": ask.array,
    }
    chosen = {
        "job_name": ask.name,
        "comment": ask.comment,
        "time": ask.minutes,
        "nodes": ask.nodes,
        "ntasks_per_node": ask.tasks_per_node,
        "cpus_per_task": ask.cpus,
        "gres": gres if ask.gpus else None,
        "mem": None if ask.memory_gb is None else f"{math.ceil(ask.memory_gb * 1024)}M",
        "partition": partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": ",".join(ask.excluded) or None,
        # Tasks of one array have one name, too.
        "dependency": None if ask.array else "singleton",
    }
    return {
        **{name: _literal(value) for name, value in chosen.items() if value is not None},
        "additional_parameters": {name: _literal(value) for name, value in further.items() if value is not None},
        "use_srun": False,
        "stderr_to_stdout": True,
        "wckey": None,
    }


class TrapExecutor(SlurmExecutor):
    """submitit's executor for a script that traps and requeues itself."""

    def __init__(self, folder: Path, site: Site) -> None:
        super().__init__(folder)
        self._site = site
        self._script: Path | None = None

    def run(self, body: str) -> str:
        """Submit a script's body; returns the job's number. Of what sbatch did not take nothing is left."""
        try:
            return str(self._submit_command(body).job_id)
        except BaseException:
            if self._script is not None:
                self._script.unlink(missing_ok=True)
            raise

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        """sbatch without what a person's environment, or a job that we are in, says of another job.

        sbatch hands its own environment on to the job.
        """
        self._script = submission_file_path
        kept = {*_KEPT, *(name for name, field in _DEFAULTS.items() if getattr(self._site, field) is None)}
        strange = [
            name for name in os.environ if (name.startswith(_STRANGE) or name in _STRANGE_NAMES) and name not in kept
        ]
        words = [word for name in sorted(strange) for word in ("-u", name)]
        return ["env", *words, *super()._make_submission_command(submission_file_path)]


def submit(folder: Path, site: Site, ask: Ask, body: str) -> str:
    """Submit a script.

    Args:
        folder: keeps the script as it was submitted, as <job>_submission.sh.
        site: where.
        ask: what it needs.
        body: of the script.

    Returns:
        The job's number.

    Raises:
        RequestError: SLURM refuses such a job; says why. Or the folder's name is a pattern to SLURM.
        Later: SLURM does not answer, or takes no more jobs now.
    """
    if not _NAMABLE.fullmatch(str(ask.output.parent)):
        raise RequestError(
            "SLURM can't write below this folder: % and \\ are patterns to it, and a name has one line",
            given=str(ask.output.parent),
            todo="move the scratch folder: `scratch` of the site, or PIREPRO_SCRATCH",
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = TrapExecutor(folder, site)
    except RuntimeError:
        raise RequestError(
            "no SLURM here: sbatch and srun are not on PATH", todo="run on the cluster's login node"
        ) from None
    executor.update_parameters(**parameters(ask, site))
    try:
        # submitit prints what sbatch says; here it goes into the error.
        with contextlib.redirect_stderr(io.StringIO()):
            return executor.run(body)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip() or "sbatch failed and said nothing"
        if any(sign.lower() in said.lower() for sign in _LATER):
            raise Later(_short(said)) from error
        raise RequestError(
            "SLURM refuses this job",
            where=ask.comment,
            given=_short(said),
            allowed=f"what `sinfo` and `sacctmgr show assoc` list; it asked for {_asked(ask, site)}",
            todo=f"change the site {site.name!r}: its file under slurm/sites/",
        ) from error


def _literal(value: object) -> object:
    """A value that sbatch reads back as it is: submitit quotes for a shell, sbatch also knows the backslash."""
    return value.replace("\\", "\\\\") if isinstance(value, str) else value


def _short(said: str) -> str:
    """The end of sbatch's words: the limit that is broken is named before the last line."""
    return "; ".join(line.strip() for line in said.splitlines()[-3:])[-500:]


def _asked(ask: Ask, site: Site) -> str:
    partition = site.partition if ask.gpus else site.cpu_partition or site.partition
    gpus = f", {ask.gpus} GPUs a node" if ask.gpus else ""
    memory = f", {ask.memory_gb:g} GB a node" if ask.memory_gb else ""
    return (
        f"{ask.nodes} nodes x {ask.tasks_per_node} tasks x {ask.cpus} CPUs{gpus}{memory}, {ask.minutes} min, "
        f"partition {partition or '(default)'}"
    )
