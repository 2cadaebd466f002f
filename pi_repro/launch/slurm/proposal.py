"""From what was found on a cluster to a site file that a person can read and change.

Pure: what a person wishes goes in, the text of a YAML file comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.launch.slurm.probe import RUNTIMES, Found, Partition
from pi_repro.spec.site import MINUTES, SIGNAL_S

#: CPUs that feed one GPU well; more would only wait longer in the queue.
_CPUS_PER_GPU = 16
#: Part of a node's memory that its jobs ask for: the system needs the rest.
_SHARE = 0.9
_PLAIN = re.compile(r"(?!~$)[A-Za-z/~][A-Za-z0-9_./$-]*")  # ~ alone is YAML's null
_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}  # YAML's, of one version or another


@dataclass(frozen=True)
class Wishes:
    """What a person chooses; the rest follows from what was found.

    Attributes:
        partition: where jobs with GPUs go.
        cpu_partition: where the others go; None: to `partition`.
        account: who is charged; None: the default.
        runtime: kind of the container runtime, or "none".
        image: the runtime's image; None for kind none.
        scratch: folder that the nodes share; None: in the workspace.
        data_root: folder of large sets; None: not set.
    """

    partition: str | None = None
    cpu_partition: str | None = None
    account: str | None = None
    runtime: str = "none"
    image: str | None = None
    scratch: str | None = None
    data_root: str | None = None


def likely(found: Found) -> Wishes:
    """What most people would choose: GPUs from the default partition or the largest that has some."""
    default = next((part for part in found.partitions if part.default), None)
    with_gpus = sorted(
        (part for part in found.partitions if part.gpus), key=lambda part: (not part.default, -part.nodes * part.gpus)
    )
    partition = with_gpus[0] if with_gpus else default
    other = default if default and partition and with_gpus and not default.gpus else None
    accounts = found.accounts
    # Folders beside the home, which is often small: scratch may hold states of several GB.
    roots = [path for path, kind in found.roots[:-1] if "shared" in kind]
    runtime = next((kind for kind in kinds(found) if image_for(kind, found)), "none")
    return Wishes(
        partition=partition.name if partition else None,
        cpu_partition=other.name if other else None,
        account=accounts.default or next(iter(accounts.names), None),
        runtime=runtime,
        image=image_for(runtime, found),
        scratch=str(roots[0] / "pi-repro") if roots else None,
        data_root=str(roots[0] / "pi-repro-data") if roots else None,
    )


def kinds(found: Found) -> list[str]:
    """The kinds of runtime that work here, the preferred first; a template means pyxis."""
    return [*dict.fromkeys(RUNTIMES[name] for name in found.runtimes), *(["template"] if found.pyxis else [])]


def image_for(kind: str, found: Found) -> str | None:
    """An image that `make image` made and this kind of runtime takes; None where there is none."""
    if kind in ("podman", "docker"):
        return next((reference for tool, reference in found.stored if tool == kind), None)
    # Folders first: a squashfs file needs FUSE, which not every node has.
    takes = {"apptainer": (".sif",), "charliecloud": ("", ".squashfs"), "template": (".squashfs",)}.get(kind, ())
    ends = {path: end if (end := Path(path).suffix) in (".sif", ".squashfs") else "" for path in found.images}
    return next((path for end in takes for path in found.images if ends[path] == end), None)


def text(name: str, found: Found, wishes: Wishes) -> str:
    """The site file."""
    part = _partition(found, wishes.partition)
    parts = [part, _partition(found, wishes.cpu_partition)] if wishes.cpu_partition else [part]
    sections = [
        [f"# Site {name}, from what `pirepro site init` found. Check it with `pirepro doctor --site {name}`."],
        [_line("name", name)],
        _where(found, wishes),
        _amounts(part),
        _times([item.minutes for item in parts if item and item.minutes is not None]),
        _folders(found, wishes),
        _runtime(found, wishes),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _partition(found: Found, name: str | None) -> Partition | None:
    """The one of a name; without a name the cluster's default."""
    return next((part for part in found.partitions if part.name == name or (name is None and part.default)), None)


def _where(found: Found, wishes: Wishes) -> list[str]:
    listed = ", ".join(f"{part.name} ({about(part)})" for part in found.partitions)
    lines = [f"# Where jobs go. Partitions: {listed or 'none is up'}."]
    lines.append(_line("partition", wishes.partition))
    if wishes.cpu_partition:
        lines.append(_line("cpu_partition", wishes.cpu_partition, "stages that use no GPU"))
    names = ", ".join(found.accounts.names)
    lines.append(_line("account", wishes.account, f"yours: {names}" if names else "null: the cluster's default"))
    qos = ", ".join(found.accounts.qos)
    lines.append(_line("qos", None, f"null: your default; yours: {qos}" if qos else "null: your default"))
    return lines


def _amounts(part: Partition | None) -> list[str]:
    gpus = max(1, part.gpus) if part else 1
    lines = ["# What a job asks for: a GPU's share of a node."]
    types = part.gpu_types if part else ()
    lines.append(
        _line(
            "gpu_type",
            None,
            f"null: any; the partition has {', '.join(types) or 'one kind'}"
            + ("; exact results need one kind" if len(types) > 1 else ""),
        )
    )
    lines.append(_line("gpus_per_node", gpus))
    lines.append(_line("cpus_per_gpu", max(1, min(_CPUS_PER_GPU, part.cpus // gpus)) if part else 1))
    memory = int(part.memory_gb * _SHARE / gpus) if part and part.memory_gb > 4 else None
    lines.append(_line("memory_per_gpu_gb", memory, None if memory else "null: the cluster's default"))
    return lines


def _times(limits: Sequence[int]) -> list[str]:
    """Limits that every partition allows: a stage without GPU goes to the other one."""
    limit = max(1, min(limits)) if limits else None
    minutes = {kind: min(most, limit or most) for kind, most in MINUTES.items()}
    lines = [
        "# Time limits, minutes. A training saves its state at the limit, is requeued and goes on, so a shorter",
        "# limit is fine and often starts sooner." + (f" The partitions allow {limit} at most." if limit else ""),
        "minutes:",
        *(f"  {kind}: {most}" for kind, most in minutes.items()),
    ]
    if (half := 30 * min(minutes.values())) < SIGNAL_S:
        lines.append(_line("signal_s", half, "seconds before the limit at which a stage is told to save"))
    return lines


def _folders(found: Found, wishes: Wishes) -> list[str]:
    seen = "; ".join(f"{path} ({kind})" for path, kind in found.roots)
    return [
        f"# Folders that login node and nodes share. Found: {seen or 'none'}.",
        _line("scratch", wishes.scratch, "where stages work; null: .pirepro/scratch in the clone"),
        _line("store", None, "published outputs; null: .pirepro/store in the clone"),
        _line("data_root", wishes.data_root, "shards of large or restricted sets"),
        "",
        _line("here", ["fetch"], "on the login node: compute nodes often have no internet"),
        _line("accounting", found.accounting, "whether sacct answers"),
        _line("interface", None, "network on which processes of several nodes meet (ib0); null: the host's address"),
    ]


def _runtime(found: Found, wishes: Wishes) -> list[str]:
    there = ", ".join(found.runtimes) or "none on PATH; `module avail` may know one"
    lines = [f"# The container. Runtimes here: {there}{', pyxis' if found.pyxis else ''}.", "runtime:"]
    lines.append("  " + _line("kind", wishes.runtime))
    if wishes.runtime == "apptainer" and "apptainer" not in found.runtimes:
        program = next((name for name in found.runtimes if RUNTIMES[name] == "apptainer"), None)
        lines += ["  " + _line("program", program)] if program else []
    if wishes.runtime == "template":
        words = ["--container-image={image}", "--container-mounts={binds}", "--container-workdir={workdir}"]
        lines.append("  " + _line("command", words))
    if wishes.image:
        lines.append("  " + _line("image", wishes.image))
    elif wishes.runtime == "none":
        known = " or ".join(kinds(found))
        lines.append(
            f"  # none is this host's Python. Once `make image` has made an image: kind {known}, and image."
            if known
            else "  # none is this host's Python."
        )
    return lines


def about(part: Partition) -> str:
    """A partition in a few words."""
    gpus = f"{part.gpus} x {'/'.join(part.gpu_types) or 'GPU'}" if part.gpus else "no GPU"
    return f"{part.nodes} node{'s' * (part.nodes != 1)} of {part.cpus} CPUs, {gpus}"


def _line(field: str, value: Any, comment: str | None = None) -> str:
    entry = f"{field}: {_yaml(value)}"
    return f"{entry:<34} # {comment}" if comment else entry


def _yaml(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
