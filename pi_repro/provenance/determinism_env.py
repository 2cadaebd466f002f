"""What a stage's process is given: variables that choose arithmetic kernels, and locked packages alone.

Rule: exact mode has them set before torch is imported, by whoever starts a stage's process, and checked by
`pi_repro.training.determinism.enter`; mode fast has none of them, and all cores. This module imports no
torch, so that a launcher can read it.

The vector instructions are pinned to AVX2, which every x86-64 server of the last ten years has: left
alone, the libraries choose by processor, and another choice rounds otherwise. STRICT makes a result
independent of a buffer's alignment. Measured on one AVX-512 core against no pins, fp32 training steps:
+15 % time for a ViT of width 64, +40 % for width 128.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

#: Variable -> value. Thread counts change the order of additions, so exact mode has one.
ENVIRONMENT: Final[dict[str, str]] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "MKL_CBWR": "AVX2,STRICT",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "PYTHONHASHSEED": "0",
}


def environment(base: Mapping[str, str], mode: str, processes: int) -> dict[str, str]:
    """The environment of a stage's processes.

    Args:
        base: of whoever starts them.
        mode: "fast", or anything else for exact.
        processes: how many share this host.
    """
    if mode != "fast":
        return {**base, **ENVIRONMENT}
    free = {name: value for name, value in base.items() if name not in ENVIRONMENT}
    threads = str(max(1, cores() // processes))
    return {**free, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def threads_of_step(mode: str, base: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process that SLURM started, which only its own host can tell.

    Args:
        mode: "fast", or anything else for exact.
        base: its environment, made on another host.

    Returns:
        Thread counts of mode fast: the cores that SLURM gave the process; nothing for exact, or without SLURM.
    """
    if mode != "fast" or base.get("PIREPRO_JOB_LAUNCHER") != "slurm":
        return {}
    threads = base.get("SLURM_CPUS_PER_TASK") or str(cores())
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def hide_strangers() -> None:
    """Keep this process to requirements.lock: what a development environment holds besides is not importable.

    open_clip takes transformers when it finds it (clip_benchmark brings it along for the tests), which the
    container does not have; its import would also be half of a short stage's start.
    """
    sys.modules["transformers"] = None  # type: ignore[assignment]


def cores() -> int:
    """Cores that this process may use."""
    # macOS can't tell which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
