"""The checkpoints that a training kept.

Rule: a weights file is compared with the sha256 that its training recorded before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, sha256_file
from pi_repro.training.weights import TRAINING


@dataclass(frozen=True)
class Checkpoint:
    """One kept state of the weights.

    Attributes:
        epoch: epochs finished; 0 is the start.
        update: updates done.
        samples: samples seen.
        file: the weights.
        sha256: of the file, as recorded by the training.
    """

    epoch: int
    update: int
    samples: int
    file: Path
    sha256: str

    @property
    def folder(self) -> str:
        """Where its results go."""
        return f"epoch-{self.epoch:04d}"

    def record(self) -> dict[str, Any]:
        """Its line in evaluation.json."""
        return {
            "epoch": self.epoch,
            "update": self.update,
            "samples": self.samples,
            "folder": self.folder,
            "sha256": self.sha256,
        }

    def verify(self) -> None:
        """Check the file.

        Raises:
            StateError: missing or altered, by name.
        """
        if not self.file.is_file():
            raise StateError("weights are missing", where=str(self.file))
        found = sha256_file(self.file)
        if found != self.sha256:
            raise StateError(
                "weights are damaged: sha256 differs from the one recorded by their training",
                where=str(self.file),
                given=found,
                allowed=self.sha256,
                todo="restore the file or run its stage again",
            )


@dataclass(frozen=True)
class Training:
    """What training.json says.

    Attributes:
        stage: draw, initialize, pretrain or finetune.
        model: the model's settings with its architecture.
        checkpoints: those kept, by rising epoch.
        last: the one a later stage starts from.
    """

    stage: str
    model: dict[str, Any]
    checkpoints: tuple[Checkpoint, ...]
    last: Checkpoint

    def at(self, epoch: int) -> Checkpoint:
        """The checkpoint of an epoch.

        Raises:
            RequestError: when it was not kept.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.epoch == epoch:
                return checkpoint
        kept = ", ".join(str(checkpoint.epoch) for checkpoint in self.checkpoints)
        raise RequestError("no weights were kept at this epoch", given=epoch, allowed=f"last, or one of {kept}")


def read_training(folder: Path) -> Training:
    """Read training.json of a weights folder.

    Raises:
        StateError: missing, damaged or without checkpoints, by name.
    """
    where = folder / TRAINING
    content = read_json(where)
    try:
        checkpoints = tuple(
            Checkpoint(int(c["epoch"]), int(c["update"]), int(c["samples"]), folder / c["file"], str(c["sha256"]))
            for c in sorted(content["checkpoints"], key=lambda c: int(c["epoch"]))
        )
        last = next(c for c in checkpoints if c.file == folder / content["last"])
        return Training(str(content["stage"]), dict(content["model"]), checkpoints, last)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise StateError(
            "file is damaged: no list of checkpoints", where=str(where), given=f"{type(error).__name__}: {error}"
        ) from None
