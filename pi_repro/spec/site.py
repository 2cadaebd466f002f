"""A site: all that differs between clusters, and nothing that changes a bit (it is never hashed).

Values are free text where SLURM's are: whoever hands them to a shell quotes them. What no quoting mends,
a control character or a line's end, is refused here.
"""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from pi_repro.errors import RequestError

from . import yamlfile
from .base import Count, Frozen, Name, Positive
from .validation import validate

#: Kinds of stages, as in dvc.yaml (a test holds it to `plan.graph.KINDS`).
Kind = Literal["fetch", "draw", "initialize", "pretrain", "joint", "finetune", "evaluate", "probe", "report"]

#: Time limits of jobs, minutes.
MINUTES: dict[str, int] = {
    "fetch": 24 * 60,
    "draw": 30,
    "initialize": 8 * 60,
    "pretrain": 24 * 60,
    "joint": 24 * 60,
    "finetune": 8 * 60,
    "evaluate": 8 * 60,
    "probe": 4 * 60,
    "report": 60,
}

#: Seconds before its limit at which a stage is told to save.
SIGNAL_S = 120

#: What the words of a command template may hold.
PLACEHOLDERS = ("image", "workdir", "binds")

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)


def _one_line(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(f"text holds a control character or a line's end, {character!r}: {text[:60]!r}")
    return text


def _expanded(text: str) -> str:
    # Not every login sets USER; the system knows it anyhow.
    known = os.environ if "USER" in os.environ else {**os.environ, "USER": getpass.getuser()}

    def value(match: re.Match[str]) -> str:
        name = match[1].strip("{}")
        if name not in known:
            raise ValueError(f"variable {name!r} is not set here: {text!r}; write the path out")
        return known[name]

    # ~ first: what a variable holds is a path already.
    return _one_line(_VARIABLE.sub(value, os.path.expanduser(text)))


def _absolute(text: str) -> str:
    path = _expanded(text)
    if not os.path.isabs(path):
        raise ValueError(f"path is not absolute: {text!r}; begin it with / or ~ or a variable that does")
    return os.path.normpath(path)


def _bind(text: str) -> str:
    host, colon, inside = text.partition(":")
    if colon and (not os.path.isabs(inside) or ":" in inside):
        raise ValueError(f"a bind is 'host' or 'host:inside', both absolute: {text!r}")
    return _absolute(host) + colon + inside


_NonEmpty = StringConstraints(min_length=1)
Text = Annotated[str, _NonEmpty, AfterValidator(_one_line)]
Folder = Annotated[str, _NonEmpty, AfterValidator(_one_line), AfterValidator(_absolute)]
Bind = Annotated[str, _NonEmpty, AfterValidator(_one_line), AfterValidator(_bind)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Line = Annotated[str, AfterValidator(_one_line)]


class Runtime(Frozen):
    """What a stage's Python runs in."""

    kind: Literal["none", "apptainer", "charliecloud", "podman", "docker", "template"] = Field(
        description="none: the host's Python, without a container"
    )
    program: Text | None = Field(
        default=None,
        description="apptainer only: its command, where that is another, like singularity; null: apptainer",
    )
    image: Text | None = Field(
        default=None, description="file or folder (from the workspace, where not absolute); podman, docker: reference"
    )
    binds: tuple[Bind, ...] = Field(
        default=(), description="further folders seen inside: 'host' or 'host:inside', absolute; ~ and $NAME expanded"
    )
    options: tuple[Text, ...] = Field(default=(), description="further words of the runtime's command, one an entry")
    command: tuple[Text, ...] = Field(
        default=(), description="template only: the command's words, with {image}, {workdir} and {binds}"
    )
    python: Text | None = Field(
        default=None, description="Python inside; null: the image's, and for kind none the one that submits"
    )

    @field_validator("image")
    @classmethod
    def _image_expanded(cls, image: str | None) -> str | None:
        return _expanded(image) if image and image.startswith(("~", "$")) else image

    @model_validator(mode="after")
    def _belongs_together(self) -> Runtime:
        if (self.kind == "template") != bool(self.command):
            raise ValueError("kind template needs `command`, and no other kind takes it")
        if self.program and self.kind != "apptainer":
            raise ValueError("only kind apptainer takes `program`")
        if self.kind == "none" and (self.image or self.binds or self.options):
            raise ValueError("kind none is the host itself: it takes no image, binds or options")
        if self.kind not in ("none", "template") and not self.image:
            raise ValueError(f"kind {self.kind} needs `image`: the file, folder or reference that `make image` made")
        used = {name for word in self.command for name in re.findall(r"\{(\w*)\}", word)}
        if used - set(PLACEHOLDERS):
            raise ValueError(
                f"command holds {', '.join(sorted(f'{{{name}}}' for name in used - set(PLACEHOLDERS)))}; "
                f"known are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
            )
        if "image" in used and not self.image:
            raise ValueError("command holds {image}, but `image` is not given")
        return self


class Site(Frozen):
    """One YAML file under slurm/sites/."""

    name: Name
    partition: Text | None = Field(default=None, description="SLURM's partition; null: the cluster's default")
    cpu_partition: Text | None = Field(default=None, description="of stages without GPU; null: as `partition`")
    account: Text | None = Field(default=None, description="who is charged; null: your default account")
    qos: Text | None = Field(default=None, description="quality of service; null: your default")
    constraint: Text | None = Field(default=None, description="features that nodes must have, as sbatch takes them")
    reservation: Text | None = Field(default=None, description="a reservation to run in")
    gpu_type: Text | None = Field(default=None, description="gpu:TYPE of the partition's gres; null: any")
    gpus_per_node: Count = Field(default=1, description="GPUs that a node has")
    cpus_per_gpu: Count = Field(default=8, description="CPUs of a job for each of its GPUs")
    memory_per_gpu_gb: Positive | None = Field(default=None, description="GB (2^30 bytes) a GPU; null: the cluster's")
    cpus_per_process: Count = Field(default=1, description="CPUs of a process of a job without GPU")
    memory_per_process_gb: Positive | None = Field(
        default=None, description="GB (2^30 bytes) a process of a job without GPU; null: the cluster's"
    )
    tasks_per_node: Count | None = Field(
        default=None, description="processes on a node, of jobs without GPU; null: all on one node"
    )
    minutes: dict[Kind, Count] = Field(
        default_factory=lambda: dict(MINUTES),
        validate_default=True,
        description="time limit of each kind of stage, minutes; a training saves its state at the limit, is "
        "requeued and goes on, so a shorter limit is fine and often starts sooner",
    )
    signal_s: Annotated[int, Field(ge=1, le=65_535)] = Field(
        default=SIGNAL_S, description="seconds before the limit at which a stage is told to save"
    )
    requeues: Count = Field(default=100, description="times that one job is requeued, at most")
    max_jobs: Count = Field(default=100, description="jobs in the queue at once, at most")
    retries: Count = Field(default=3, description="failures alike after which a stage is given up")
    accounting: bool = Field(default=True, description="whether sacct answers (slurmdbd)")
    here: tuple[Kind, ...] = Field(
        default=("fetch",),
        description="kinds that run on the login node: compute nodes often have no internet",
    )
    scratch: Folder | None = Field(default=None, description="where stages work: shared, fast, survives a job")
    store: Folder | None = Field(default=None, description="where published outputs lie: shared")
    downloads: Folder | None = Field(default=None, description="where fetched archives lie")
    data_root: Folder | None = Field(default=None, description="where shards of large or restricted sets lie: shared")
    environment: dict[Variable, Line] = Field(
        default_factory=dict, description="variables of every job: NCCL_SOCKET_IFNAME, proxies, ..."
    )
    modules: tuple[Text, ...] = Field(default=(), description="`module load` of each, in this order, before a job")
    interface: Text | None = Field(
        default=None,
        description="network interface on which a job's processes meet, or several, 'ib0,eth0', of which each host "
        "has one; null: the host's address",
    )
    poll_s: Positive = Field(default=5.0, description="seconds between looks at the queue")
    stall_minutes: Count = Field(default=30, description="minutes after which processes give a silent peer up")
    runtime: Runtime

    @field_validator("minutes", mode="before")
    @classmethod
    def _defaults_beneath(cls, given: Any) -> Any:
        return {**MINUTES, **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _time_to_work(self) -> Site:
        for kind, minutes in self.minutes.items():
            if self.signal_s >= 60 * minutes:
                raise ValueError(
                    f"a {kind} has {minutes} min and is told to save {self.signal_s} s before its limit, at its start: "
                    f"raise minutes.{kind} or lower signal_s"
                )
        return self


KINDS: tuple[str, ...] = get_args(Kind)


def load(path: Path) -> Site:
    """Read and check a site; its file's name must be its name.

    Raises:
        RequestError: with every error found, each with file, line, field, given and allowed.
    """
    file = yamlfile.load(path)
    site = validate(Site, file)
    if site.name != path.stem:
        raise RequestError(
            "a site's name is its file's name", where=file.where(("name",)), given=site.name, allowed=path.stem
        )
    return site
