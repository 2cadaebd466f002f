"""When, on what and by what a stage was executed.

Rule: kept outside the outputs, and names no user, host or path. What can alter bits is told in full:
code (commit and the digest of what differs from it), lock or image, packages, processor, GPU, driver,
threads. Reading it costs a fraction of a second and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pi_repro import __version__
from pi_repro.files import sha256_file
from pi_repro.spec.fingerprint import LOCK

from .determinism_env import cores
from .git import output

#: Environment variable -> what it carries from the launcher to the worker.
COMMAND: Final = "PIREPRO_COMMAND"  # what a person typed
IMAGE: Final = "PIREPRO_IMAGE_DIGEST"  # of the container, where there is one
DEV: Final = "PIREPRO_DEV"  # "1": a person let a changed checkout run
GIT: Final = "PIREPRO_GIT"  # `git_state` at the submission, for containers, which hold no git

#: What computes; every other package is told only where it is not the locked one.
_PACKAGES: Final = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "webdataset",
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "matplotlib",
    "resvg-py",
    "ssimulacra2",
)
#: Whose content decides what a stage's code does.
_CODE: Final = ("pi_repro", LOCK)
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
#: Numbers only: names of partitions, accounts and nodes tell who and where.
_SLURM: Final = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_NNODES",
    "SLURM_NTASKS",
)


def record(
    stage: str,
    payload: Mapping[str, Any],
    workspace: Path,
    begun: float,
    *,
    git: Mapping[str, Any] | None = None,
    processes: int = 1,
    device: str = "cpu",
    attempts: int = 1,
) -> dict[str, Any]:
    """The provenance of a stage that just ended.

    Args:
        stage: its name.
        payload: what its fingerprint hashes.
        workspace: the checkout whose code ran.
        begun: Unix time at which this attempt began.
        git: `git_state` as it was when the code was imported; None reads it now.
        processes: how many computed it together.
        device: "cpu" or "cuda"; with the latter each process has a GPU of its own.
        attempts: how often it began, the last time included.

    Returns:
        JSON content. wall_s and device_hours are those of the attempt that published, in seconds and
        in hours times devices; a device is a process on CPU, or a GPU.
    """
    now = time.time()
    return {
        "stage": stage,
        "command": f"pirepro stage {stage}",
        "argv": os.environ.get(COMMAND) or f"pirepro stage {stage}",
        "environment": payload["environment"],
        "inputs": payload["inputs"],
        "git": dict(git) if git is not None else git_state(workspace),
        "lock": sha256_file(workspace / LOCK),
        "image": os.environ.get(IMAGE),
        "dev": os.environ.get(DEV) == "1",
        "begun": _utc(begun),
        "ended": _utc(now),
        "attempts": attempts,
        "wall_s": round(now - begun, 1),
        "device_hours": round((now - begun) * processes / 3600, 4),
        "devices": {"kind": "gpu" if device == "cuda" else "cpu process", "count": processes},
        "processes": processes,
        "python": platform.python_version(),
        "packages": {"pi_repro": __version__} | {name: found for name in _PACKAGES if (found := _version(name))},
        "differs_from_lock": differs_from_lock((workspace / LOCK).read_text()),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "gpus": gpu_models(),
        "driver": driver_version(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "slurm": {name: os.environ[name] for name in _SLURM if name in os.environ},
    }


def typed(arguments: Sequence[str], workspace: Path) -> str:
    """A command line as a person types it in the workspace, without this machine's paths.

    The program loses its folder, a path inside the workspace becomes relative to it, and of any other
    absolute path (or one that leaves the workspace) only the last name stays.

    Args:
        arguments: sys.argv.
        workspace: the checkout.
    """
    program = Path(arguments[0]).name.replace("__main__.py", "pirepro")
    return shlex.join([program, *(_typed(argument, workspace) for argument in arguments[1:])])


def git_state(workspace: Path) -> dict[str, Any]:
    """Commit of the code, whether the code differs from it, and the sha256 of the difference.

    Returns:
        {"commit", "dirty"}, and "diff" when dirty: sha256 of `git diff HEAD` over the package and the
        lock, and of the content of modules that git does not know yet. Without git, what the launcher
        knew; commit is None where that is nothing.
    """
    commit = _git(workspace, "rev-parse", "HEAD").decode().strip()
    if not commit and GIT in os.environ:
        return dict(json.loads(os.environ[GIT]))
    changed = _git(workspace, "status", "--porcelain", "-z", "--", *_CODE)
    state: dict[str, Any] = {"commit": commit or None, "dirty": bool(changed)}
    if changed:
        plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        digest = hashlib.sha256(_git(workspace, "diff", "HEAD", *plain, "--", *_CODE))
        for name in sorted(_git(workspace, "ls-files", "-o", "--exclude-standard", "-z", "--", *_CODE).split(b"\0")):
            path = workspace / os.fsdecode(name)
            if name and path.is_file():
                digest.update(name + b"\0" + sha256_file(path).encode())
        state["diff"] = digest.hexdigest()
    return state


def differs_from_lock(lock: str) -> dict[str, str | None]:
    """Package -> installed version (None: not installed), for those that are not the locked ones.

    Args:
        lock: text of a requirements file with `name==version` lines.
    """
    found = {}
    for name, locked in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE):
        installed = _version(name)
        # A wheel's own build (2.15.0+cu130) has the version that the lock names without it.
        if installed != locked and (installed or "").split("+")[0] != locked:
            found[name] = installed
    return found


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def gpu_models() -> list[str]:
    """Names of the machine's NVIDIA GPUs; empty without a driver."""
    folder = Path("/proc/driver/nvidia/gpus")
    names = []
    for path in sorted(folder.glob("*/information")) if folder.is_dir() else []:
        names += [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("Model")]
    return names


def driver_version(report: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Version of the NVIDIA driver, None without one.

    Args:
        report: the kernel module's own report; its line "NVRM version: ..." holds "580.95.05".
    """
    try:
        found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", report.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1) if found else None


def _typed(argument: str, workspace: Path) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    path = Path(value)
    if path.is_absolute():
        inside = path.is_relative_to(workspace)
        value = path.relative_to(workspace).as_posix() if inside else path.name
    elif ".." in path.parts:
        value = path.name
    return option + equals + value


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(workspace: Path, *arguments: str) -> bytes:
    return output(workspace, *arguments) or b""
