"""What a login node tells about its cluster, asked in forms that are meant for programs, never read off tables.

What can't be found out is left open (None, empty) rather than guessed.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.launch import container
from pi_repro.provenance.image import MANIFEST

_PATIENCE_S = 60

#: Runtimes in the order of preference: command -> kind of a site's runtime. Apptainer was Singularity once.
RUNTIMES = {
    "apptainer": "apptainer",
    "singularity": "apptainer",
    "ch-run": "charliecloud",
    "podman": "podman",
    "docker": "docker",
}

#: File systems that other hosts may mount too.
_SHARED = re.compile(r"^(nfs4?|lustre|gpfs|beegfs\w*|ceph|wekafs|panfs|afs|pvfs2|orangefs|glusterfs|cifs|fuse\.\w+)$")


@dataclass(frozen=True)
class Partition:
    """A partition as its nodes are; of unlike nodes, what each has at least.

    Attributes:
        name: SLURM's name.
        default: whether jobs go there that name none.
        nodes: how many.
        cpus: of a node.
        memory_gb: of a node, GB as SLURM counts them (2^30 bytes).
        gpus: GPUs of a node; 0 where none of its nodes has one.
        gpu_types: the gres types of its GPUs.
        minutes: the longest job; None where there is no limit.
    """

    name: str
    default: bool
    nodes: int
    cpus: int
    memory_gb: float
    gpus: int
    gpu_types: tuple[str, ...]
    minutes: int | None


@dataclass(frozen=True)
class Accounts:
    """What accounting knows of this user.

    Attributes:
        default: account of a job that names none; None where there is none.
        names: accounts that the user may charge.
        qos: qualities of service that the user may ask for.
    """

    default: str | None
    names: tuple[str, ...]
    qos: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """All that was found out.

    Attributes:
        partitions: those this user can see.
        accounts: what may be charged.
        accounting: whether sacct answers.
        runtimes: container commands on PATH, the preferred first.
        pyxis: whether srun takes --container-image.
        roots: folders of this user, the home last, with the kind of their file systems.
        images: what `make image` made in this workspace: paths in it.
        stored: (command, reference) of the images that container.lock lists and podman or docker has.
    """

    partitions: tuple[Partition, ...]
    accounts: Accounts
    accounting: bool
    runtimes: tuple[str, ...]
    pyxis: bool
    roots: tuple[tuple[Path, str], ...]
    images: tuple[str, ...] = ()
    stored: tuple[tuple[str, str], ...] = ()


def probe(workspace: Path) -> Found:
    """Ask SLURM and this host, and look for images in the workspace.

    Raises:
        StateError: there is no SLURM here, or it does not answer.
    """
    if not shutil.which("sinfo") or not shutil.which("sbatch"):
        raise StateError(
            "no SLURM on this host: sinfo and sbatch are not on PATH",
            todo="run this on a login node of the cluster (`module load slurm`, where it takes one)",
        )
    return Found(
        partitions=partitions(),
        accounts=accounts(),
        accounting=accounting(),
        runtimes=tuple(name for name in RUNTIMES if shutil.which(name)),
        pyxis="--container-image" in (_ask(["srun", "--help"]) or ""),
        roots=roots(),
        images=images(workspace),
        stored=stored(workspace),
    )


def partitions(hidden: str | None = None) -> tuple[Partition, ...]:
    """The partitions that are up, in SLURM's order.

    Args:
        hidden: ask for the one of this name, which the cluster may hide; None: for all that it shows.

    Raises:
        StateError: SLURM does not answer.
    """
    command = ["sinfo", "--noheader", "--exact", "--format=%P|%D|%c|%m|%l|%a|%G"]
    command += ["--all", f"--partition={hidden}"] if hidden else []
    try:
        done = _run(command)
        problem = done.stderr.strip()[:300] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        raise StateError(
            "SLURM does not answer", given=problem, todo="try `sinfo`; ask the cluster's support where it fails too"
        )
    return read_partitions(done.stdout)


def read_partitions(text: str) -> tuple[Partition, ...]:
    """Partitions from sinfo's rows, one for each group of like nodes: `name*|nodes|cpus|MiB|limit|up|gres`."""
    found: dict[str, Partition] = {}
    for row in text.splitlines():
        # With SLURM_CLUSTERS, by which jobs go to another cluster, "CLUSTER: name" comes first.
        if row.count("|") < 6:
            continue
        name, nodes, cpus, memory, limit, up, gres = row.split("|", 6)
        if up.strip() != "up":
            continue
        gpus, types = read_gres(gres)
        part = Partition(
            name=name.removesuffix("*"),
            default=name.endswith("*"),
            nodes=int(nodes),
            cpus=int(cpus.rstrip("+")),
            memory_gb=int(memory.rstrip("+")) / 1024,
            gpus=gpus,
            gpu_types=types,
            minutes=read_minutes(limit),
        )
        old = found.get(part.name)
        found[part.name] = part if old is None else _both(old, part)
    return tuple(found.values())


def _both(one: Partition, other: Partition) -> Partition:
    """A partition of unlike nodes; those without GPU don't count where others have some."""
    if bool(one.gpus) != bool(other.gpus):
        return one if one.gpus else other
    return Partition(
        name=one.name,
        default=one.default,
        nodes=one.nodes + other.nodes,
        cpus=min(one.cpus, other.cpus),
        memory_gb=min(one.memory_gb, other.memory_gb),
        gpus=min(one.gpus, other.gpus),
        gpu_types=tuple(dict.fromkeys(one.gpu_types + other.gpu_types)),
        minutes=one.minutes,
    )


def read_gres(text: str) -> tuple[int, tuple[str, ...]]:
    """GPUs and their types from a gres list: `gpu:a100:4(S:0-1),shard:8` is (4, ("a100",))."""
    number, types = 0, []
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        words = item.strip().split(":")
        if words[0] != "gpu":
            continue
        count = words[-1] if words[-1].isdigit() else "1"
        number += int(count)
        if len(words) > 1 and not words[1].isdigit():
            types.append(words[1])
    return number, tuple(dict.fromkeys(types))


def read_minutes(text: str) -> int | None:
    """Minutes of SLURM's `[days-]hours:minutes:seconds` or `minutes:seconds`; None: no limit, or not known."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes


def accounts() -> Accounts:
    """What this user may charge; empty without accounting."""
    user = getpass.getuser()
    default = _ask(["sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=defaultaccount"]) or ""
    rows = _ask(["sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=account,qos"]) or ""
    pairs = [row.partition("|") for row in rows.splitlines() if row.strip()]
    return Accounts(
        default=default.strip().splitlines()[0].strip() or None if default.strip() else None,
        names=tuple(dict.fromkeys(account for account, _, _ in pairs if account)),
        qos=tuple(dict.fromkeys(name for _, _, listed in pairs for name in listed.split(",") if name)),
    )


def accounting() -> bool:
    """Whether sacct answers: without slurmdbd it fails."""
    return (
        _ask(["sacct", "--noheader", "--parsable2", "--allocations", "--format=jobid", "--starttime=now"]) is not None
    )


def accounted(job_id: str) -> tuple[str, ...]:
    """The jobs that sacct knows under a number: one, or none (yet)."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=jobid", f"--jobs={job_id}"]
    return tuple((_ask(words) or "").split())


def roots() -> tuple[tuple[Path, str], ...]:
    """Folders of this user that may hold scratch, each once, with the kind of its file system."""
    user = getpass.getuser()
    given = [os.environ.get(name) for name in ("SCRATCH", "PSCRATCH", "WORK", "WORKDIR")]
    given += [f"/scratch/{user}", f"/work/{user}", os.path.expanduser("~")]
    found: dict[Path, str] = {}
    for text in given:
        if text and os.path.isabs(text) and os.access(text, os.W_OK) and Path(text).is_dir():
            found.setdefault(Path(text), filesystem(Path(text)))
    return tuple(found.items())


def images(workspace: Path) -> tuple[str, ...]:
    """Flattened images under .pirepro/images: files of SIF or squashfs, and folders."""
    # What was not finished has a name with a dot.
    found = sorted((workspace / ".pirepro" / "images").glob("[!.]*"))
    kept = [path for path in found if path.suffix in (".sif", ".squashfs") or (path / MANIFEST).is_file()]
    return tuple(str(path.relative_to(workspace)) for path in kept)


def stored(workspace: Path) -> tuple[tuple[str, str], ...]:
    """(command, reference) of the images that container.lock lists and that podman or docker has here."""
    tools = [tool for tool in ("podman", "docker") if shutil.which(tool)]
    found = [(tool, f"localhost/pirepro:{name}") for tool in tools for name in container.listed(workspace)]
    return tuple((tool, name) for tool, name in found if _ask([tool, "image", "inspect", name]) is not None)


def filesystem(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The file system under a path: "lustre, shared", or "ext4, this host's own"."""
    try:
        rows = [line.split(" ") for line in mounts.read_text().splitlines()]
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    place = os.path.realpath(path)
    for row in rows:
        mount = row[1].encode().decode("unicode_escape")  # spaces stand as \040
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, row[2]
    return f"{kind}, shared" if _SHARED.match(kind) else f"{kind}, this host's own"


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Without a person's own defaults, which hide rows.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SINFO_", "SACCT_"))}
    return subprocess.run(
        list(words),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
        timeout=_PATIENCE_S,
        env=own,
    )


def _ask(words: Sequence[str]) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        done = _run(words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
