"""What a training will publish, gathered in scratch while it runs.

Rule: a file is whole before the checkpoint that lists it is written, and is compared with its
sha256 on resume; what a kill made late is made again with the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import files_under, path_digest, sha256_file

from . import checkpoint, weights
from .checkpoint import State


class Kept:
    """Weights at kept epochs and full states at listed updates.

    Args:
        folder: in scratch, theirs alone.
        notes: what a checkpoint listed, to go on from there.
    """

    def __init__(self, folder: Path, notes: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.weights: list[dict[str, Any]] = list(notes["weights"]) if notes else []
        self.states: list[dict[str, Any]] = list(notes["states"]) if notes else []

    def keep_weights(self, about: Mapping[str, Any], tensors: weights.Tensors) -> None:
        """Keep weights.

        Args:
            about: what the file says of itself; has "epoch", "update" and "samples".
            tensors: an open_clip state dict.
        """
        file = f"weights/epoch-{about['epoch']:04d}.safetensors"
        sha256 = weights.write(self.folder / file, tensors, about)
        row = {key: about[key] for key in ("epoch", "update", "samples")}
        self.weights.append({**row, "file": file, "sha256": sha256})

    def keep_state(self, state: State) -> None:
        """Keep a full state; nothing in it tells where it was computed."""
        name = f"states/{checkpoint.name_of(state.update)}"
        (self.folder / "states").mkdir(parents=True, exist_ok=True)
        checkpoint.write(self.folder / name, state)
        self.states.append({"update": state.update, "folder": name, "digest": path_digest(self.folder / name)})

    def notes(self) -> dict[str, Any]:
        """What is kept so far, as JSON."""
        return {"weights": list(self.weights), "states": list(self.states)}

    def check(self) -> None:
        """Compare everything kept so far with what was written.

        Raises:
            StateError: something is missing or damaged, by name.
        """
        for row in self.weights:
            file = self.folder / row["file"]
            if not file.is_file() or sha256_file(file) != row["sha256"]:
                raise StateError("kept weights are missing or damaged", where=str(file))
        for row in self.states:
            folder = self.folder / row["folder"]
            if path_digest(folder) != row["digest"]:
                raise StateError("a kept state is damaged", where=str(folder))

    def publish(self, out: Path) -> None:
        """Bring all of it, and nothing else, into the output folder."""
        files = [self.folder / row["file"] for row in self.weights]
        files += [file for row in self.states for file in files_under(self.folder / row["folder"])]
        for file in files:
            target = out / file.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, target)
