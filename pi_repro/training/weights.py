"""Tensors in files, and the digest of tensors in memory.

Rule: one set of tensors with one description has one file content: tensors in one order, one
metadata key holding canonical JSON (several keys come out in varying order). Never a pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pi_repro.errors import StateError
from pi_repro.files import canonical_json, read_json, sha256_file, write_atomic

#: The metadata key of every tensor file of this package.
METADATA = "pirepro"
#: What a weights folder says of itself.
TRAINING = "training.json"

Tensors = Mapping[str, torch.Tensor]


def write(file: Path, tensors: Tensors, about: Mapping[str, Any]) -> str:
    """Write tensors atomically and durably; gives the file's sha256."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata={METADATA: canonical_json(about)})
    write_atomic(file, content)
    return hashlib.sha256(content).hexdigest()


def read(file: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a file, on CPU, in memory of their own.

    Args:
        file: written by `write`, or any safetensors file.
        sha256: what the file must hash to, where known.

    Raises:
        StateError: missing or damaged, by name.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise StateError("weights are missing", where=str(file)) from None
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise StateError(
            "file is damaged: its sha256 is not the recorded one", where=str(file), given=found, allowed=sha256
        )
    try:
        # Cloned, because slices of one buffer are aligned as they fall and kernels may round by alignment.
        return {name: tensor.clone() for name, tensor in load(content).items()}
    except SafetensorError as error:
        raise StateError("file is damaged: no valid safetensors", where=str(file), given=str(error)) from None


def checksum(tensors: Tensors) -> str:
    """sha256 over the tensors sorted by name: name, type, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sums(tensors: Iterable[torch.Tensor]) -> str:
    """8 hex digits for each tensor: the sum of its 32-bit words modulo 2**32.

    Cheap enough for every update, and the same whatever the order of adding. One changed word always shows;
    several may cancel, an even number of changed signs does: `checksum` is the proof, this says where.
    """
    words = [tensor.detach().reshape(-1).view(torch.int32) for tensor in tensors]
    if words[0].device.type == "cpu":
        # numpy adds machine words several times faster than torch does on a CPU.
        totals = [int(np.add.reduce(each.numpy().view(np.uint32), dtype=np.uint32)) for each in words]
    else:
        totals = torch.stack([each.sum(dtype=torch.int64) for each in words]).tolist()
    return "".join(f"{total & 0xFFFFFFFF:08x}" for total in totals)


def last(folder: Path) -> Path:
    """The file that a later stage starts from: the last weights of a weights folder, checked.

    Raises:
        StateError: the folder is incomplete or the file damaged, by name.
    """
    training = read_json(folder / TRAINING)
    try:
        name = str(training["last"])
        sha256 = next(str(row["sha256"]) for row in training["checkpoints"] if row["file"] == name)
    except (KeyError, TypeError, StopIteration):
        raise StateError("file is damaged: it names no last weights", where=str(folder / TRAINING)) from None
    file = folder / name
    if not file.is_file():
        raise StateError("weights are missing", where=str(file))
    if (found := sha256_file(file)) != sha256:
        raise StateError(
            "weights are damaged: sha256 differs from the one recorded by their training",
            where=str(file),
            given=found,
            allowed=sha256,
        )
    return file
