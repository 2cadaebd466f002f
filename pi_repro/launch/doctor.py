"""What an environment must have for the promises to hold, looked at one by one without importing torch."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pi_repro.plan import params
from pi_repro.provenance import capture
from pi_repro.provenance.determinism_env import cores
from pi_repro.spec.fingerprint import LOCK, environment_id

from . import requirements
from .places import Places


@dataclass(frozen=True)
class Check:
    """One finding; `needed` tells an error from a note."""

    what: str
    good: bool
    found: str
    todo: str = ""
    needed: bool = True


def examine(places: Places) -> list[Check]:
    """All checks, in the order in which they should be mended."""
    return [
        _platform(),
        _python(),
        _packages(places.workspace),
        _cpu(),
        _dvc(places.workspace),
        _git(places.workspace),
        _params(places),
        _npm(),
        _disk(places),
        _flock(places),
        _gpus(),
    ]


def _platform() -> Check:
    found = f"{platform.system()} {platform.machine()}"
    return Check("platform", found == "Linux x86_64", found, "use Linux x86-64, or the container (Dockerfile)")


def _python() -> Check:
    found = platform.python_version()
    return Check(
        "Python",
        sys.version_info[:2] in ((3, 11), (3, 12)),
        found,
        "use Python 3.11 or 3.12: make env PYTHON=python3.11",
    )


def _packages(workspace: Path) -> Check:
    wrong = []
    for line in (workspace / LOCK).read_text().splitlines():
        if "==" not in line or line.startswith((" ", "#", "-")):
            continue
        name, _, wanted = line.split(";")[0].strip(" \\").partition("==")
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "absent"
        if found.split("+")[0] != wanted.split("+")[0]:
            wrong.append(f"{name} {found} (locked {wanted})")
    text = (
        "as locked" if not wrong else ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    )
    return Check("packages", not wrong, f"{text}; environment {environment_id(workspace)}", "make env")


def _cpu() -> Check:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return Check(
        "CPU",
        " avx2" in flags,
        f"{capture.cpu_model()}, {cores()} cores",
        "exact mode pins AVX2 kernels; use a machine that has them",
    )


def _dvc(workspace: Path) -> Check:
    there = importlib.util.find_spec("dvc") is not None and (workspace / ".dvc" / "config").is_file()
    return Check("DVC", there, f"DVC {version('dvc')}" if there else "not set up", "make env")


def _git(workspace: Path) -> Check:
    state = capture.git_state(workspace)
    if not state["commit"]:
        return Check(
            "git", False, "no commit here", "clone the repository, so that provenance can name a commit", needed=False
        )
    return Check(
        "git",
        not state["dirty"],
        f"commit {state['commit'][:12]}{', code changed since' if state['dirty'] else ''}",
        "commit your changes, so that provenance names the code that ran",
        needed=False,
    )


def _params(places: Places) -> Check:
    current = params.is_current(places.workspace, params.plan(places.workspace))
    return Check(
        "params.json", current, "is what the specs say" if current else "differs from the specs", "pirepro plan --write"
    )


def _npm() -> Check:
    npm = Path(sys.executable).with_name("npm")
    if not npm.exists():
        return Check("npm client", False, "not beside Python", "make env")
    done = subprocess.run([str(npm), "--version"], capture_output=True, text=True, check=False, timeout=60)
    return Check("npm client", done.returncode == 0, done.stdout.strip() or done.stderr.strip()[:200], "make env")


def _disk(places: Places) -> Check:
    free = shutil.disk_usage(places.workspace).free
    return Check(
        "disk", free > 5e9, f"{free / 1e9:,.1f} GB free", "free 5 GB, or set PIREPRO_STORE and PIREPRO_SCRATCH"
    )


def _flock(places: Places) -> Check:
    from .lease import Lease

    places.scratch.mkdir(parents=True, exist_ok=True)
    probe = places.scratch / ".probe"
    with Lease(probe) as lease:
        works = lease.acquire() and Lease(probe).holder() is not None
    probe.unlink(missing_ok=True)
    return Check(
        "file locks",
        works,
        "work in scratch" if works else "do not work in scratch",
        "set PIREPRO_SCRATCH to a file system with flock",
    )


def _gpus() -> Check:
    found = requirements.gpus()
    return Check(
        "GPUs",
        bool(found),
        ", ".join(gpu.name for gpu in found) or "none",
        "none is needed for the demo; the paper's spec needs CUDA GPUs",
        needed=False,
    )
