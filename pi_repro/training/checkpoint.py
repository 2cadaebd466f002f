"""States to resume from.

Rule: a state is a folder, weights.safetensors, optimizer.safetensors and state.json, which appears
whole or not at all: written aside, fsynced, renamed. state.json vouches for the other two and for
itself. On loading everything is checked; a damaged state is refused by name and set aside, and the
one before it is used. The two newest are kept. Nothing is pickled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pi_repro.errors import StateError
from pi_repro.files import digest_of, read_json, sync_folder, write_json

from . import weights

KEPT = 2
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_REFUSED = "refused-"


@dataclass(frozen=True)
class State:
    """Everything that the next update depends on.

    Attributes:
        update: updates done.
        weights: state dict of the model.
        optimizer: named state of the optimizer.
        notes: JSON: what else belongs to this moment.
    """

    update: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


def name_of(update: int) -> str:
    """The folder's name of a state; names sort by update up to a billion."""
    return f"update-{update:06d}"


def write(folder: Path, state: State) -> None:
    """Write a state; the folder is replaced if it exists."""
    aside = folder.with_name(f".{folder.name}.incoming")
    shutil.rmtree(aside, ignore_errors=True)
    content = {
        "update": state.update,
        "files": {
            _WEIGHTS: weights.write(aside / _WEIGHTS, state.weights, {"update": state.update}),
            _OPTIMIZER: weights.write(aside / _OPTIMIZER, state.optimizer, {"update": state.update}),
        },
        "notes": dict(state.notes),
    }
    write_json(aside / _STATE, {"state": content, "sha256": digest_of(content)})
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync_folder(folder.parent)


def read(folder: Path) -> State:
    """Read a state and check every byte of it.

    Raises:
        StateError: damaged or incomplete, by name.
    """
    file = folder / _STATE
    content = read_json(file)
    try:
        state, recorded = content["state"], content["sha256"]
        if digest_of(state) != recorded:
            raise StateError("file is damaged: its sha256 is not the recorded one", where=str(file))
        tensors = [weights.read(folder / name, state["files"][name]) for name in (_WEIGHTS, _OPTIMIZER)]
        return State(int(state["update"]), tensors[0], tensors[1], state["notes"])
    except (KeyError, TypeError, ValueError) as error:
        given = f"{type(error).__name__}: {error}"
        raise StateError("file is damaged: no state", where=str(file), given=given) from None


class Checkpoints:
    """The states of one training in scratch.

    Args:
        folder: theirs alone.
        device: model of the device that computes; a state of another is not resumed.
        log: told of every refusal.
    """

    def __init__(self, folder: Path, device: str, log: logging.Logger) -> None:
        self.folder = folder
        self.device = device
        self.log = log

    def save(self, state: State) -> None:
        """Write a state and delete all but the two newest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        notes = {**state.notes, "device": self.device}
        write(self.folder / name_of(state.update), State(state.update, state.weights, state.optimizer, notes))
        for old in self._states()[KEPT:]:
            shutil.rmtree(old)

    def latest(self, check: Callable[[State], None]) -> State | None:
        """The newest state that is whole; None when there is none.

        Args:
            check: raises StateError where the state does not fit what lies beside it.

        Raises:
            StateError: it was made on another model of device.
        """
        for folder in self._states():
            try:
                state = read(folder)
                check(state)
            except StateError as error:
                aside = folder.with_name(_REFUSED + folder.name)
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                self.log.warning("checkpoint %s refused and set aside; the one before is used: %s", folder.name, error)
                continue
            if state.notes["device"] != self.device:
                raise StateError(
                    "a training cannot change its device model and keep its bits",
                    where=f"checkpoint {folder.name}",
                    given=self.device,
                    allowed=str(state.notes["device"]),
                    todo="resume on that device model, or delete this stage's scratch folder to begin again",
                )
            return state
        return None

    def of(self, update: int) -> State:
        """The state of an update, which `latest` found whole in another process.

        Raises:
            StateError: it is not whole here.
        """
        return read(self.folder / name_of(update))

    def _states(self) -> list[Path]:
        """Newest first."""
        found = [path for path in self.folder.glob("update-*") if path.is_dir()] if self.folder.is_dir() else []
        return sorted(found, key=lambda path: int(path.name.partition("-")[2]), reverse=True)
