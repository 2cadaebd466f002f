"""One way to compute: kernels pinned, one thread, generators keyed.

Rule: a process that trains or evaluates calls `enter` first. Whatever could choose another kernel
is fixed there or refused there, but in mode fast, which takes the quickest; torch's generators are
never carried along but reseeded from (seed, update, micro-batch) before each forward pass.
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal

import torch

from pi_repro.errors import StateError
from pi_repro.provenance.capture import cpu_model
from pi_repro.provenance.determinism_env import ENVIRONMENT

from . import attention


def enter(device: str, number: int = 0, mode: Literal["exact", "fast"] = "exact") -> torch.device:
    """Make this process exact, or fast, and give the device to compute on.

    Args:
        device: "cpu" or "cuda".
        number: which of the GPUs that this process sees.
        mode: as the recipe says.

    Raises:
        StateError: the process was started without the variables that choose kernels (exact), or there
            is no such device.
    """
    exact = mode == "exact"
    if exact:
        _check_environment()
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(exact)
    # Filling fresh memory costs time and alters no result; the tests leave it on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device == "cuda" and (shown := torch.cuda.device_count()) <= number:
        raise StateError(
            f"no CUDA device {number} here", given=f"{shown} are shown", todo="run this stage where a GPU a process is"
        )
    if device == "cuda":
        _set_cuda(exact)
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    return torch.device(device)


def _set_cuda(exact: bool) -> None:
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not exact
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = not exact
    if exact:
        attention.pin()


def _check_environment() -> None:
    wrong = {name: os.environ.get(name) for name, value in ENVIRONMENT.items() if os.environ.get(name) != value}
    todo = "start the stage by pirepro, or first: export " + " ".join(f"{k}={v}" for k, v in ENVIRONMENT.items())
    if wrong:
        given = ", ".join(f"{name}={value or '(not set)'}" for name, value in wrong.items())
        raise StateError("the environment leaves the choice of kernels open", given=given, todo=todo)
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        raise StateError("torch was imported before its kernels were pinned", given="AVX512", todo=todo)


def device_model(device: torch.device) -> str:
    """What must be the same for the same bits: the model of the processor or GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def reseed(seed: int, update: int, micro_batch: int) -> None:
    """Seed torch's generators, on every device, for one forward pass.

    Args:
        seed: of the training.
        update: counted from 1.
        micro_batch: its number within the update, over all accumulated batches; -1 for the optimizer's step. Before
            the first update: 0 for an adapter, 1 for a label source.
    """
    digest = hashlib.sha256(f"forward,{seed},{update},{micro_batch}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
