"""When, where and by what a stage was executed. Kept outside the outputs; names no user and no path."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
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


def record(stage: str, payload: Mapping[str, Any], workspace: Path, begun: float) -> dict[str, Any]:
    """The provenance of a stage that just ended.

    Args:
        stage: its name.
        payload: what its fingerprint hashes.
        workspace: the checkout whose code ran.
        begun: Unix time of its begin.
    """
    return {
        "stage": stage,
        "command": f"pirepro stage {stage}",
        "environment": payload["environment"],
        "inputs": payload["inputs"],
        "git": git_state(workspace),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "wall_s": round(time.time() - begun, 1),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "gpus": gpu_models(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "slurm": {key: os.environ[key] for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if key in os.environ},
    }


def git_state(workspace: Path) -> dict[str, Any]:
    """Commit of the code and whether tracked files differ from it."""
    commit = _git(workspace, "rev-parse", "HEAD")
    dirty = _git(workspace, "status", "--porcelain", "--untracked-files=no", "--", "pi_repro", "requirements.lock")
    return {"commit": commit or None, "dirty": bool(dirty)}


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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(workspace: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(workspace), *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
