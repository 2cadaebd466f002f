"""One node of the graph of stages: what it is called, what it reads and gives, how many processes share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.spec.experiment import Resources

#: Kind of training -> the name under which its settings stand.
SECTIONS = {"initialize": "align", "pretrain": "pretrain", "joint": "joint", "finetune": "align"}


@dataclass(frozen=True)
class Stage:
    """One node of the DAG.

    Attributes:
        kind: the verb.
        key: what it is done to; unique within the kind, `[a-z0-9-]+`.
        settings: resolved science settings.
        deps: role -> path of the folder it reads, relative to the workspace.
        out: path of the folder it gives.
        experiment: the experiment it belongs to; None for a shared fetch.
        resources: of the experiment, for whoever runs it; never hashed.
    """

    kind: str
    key: str
    settings: Mapping[str, Any]
    deps: Mapping[str, str]
    out: str
    experiment: str | None
    resources: Resources

    @property
    def name(self) -> str:
        """As DVC addresses it."""
        return f"{self.kind}@{self.key}"

    @property
    def processes(self) -> int:
        """Processes that compute it side by side."""
        return self.on(self.resources.world)

    def on(self, world: int) -> int:
        """Processes that compute it side by side when so many are offered: those that can share its work.

        Raises:
            RequestError: they can't divide its micro-batches.
        """
        if self.kind == "evaluate":
            return world
        settings = next((self.settings[name] for name in SECTIONS.values() if name in self.settings), None)
        if not settings:
            return 1
        most = int(settings["batch"]) // int(settings["micro_batch"])
        if most % min(world, most):
            raise RequestError(
                f"the {most} micro-batches of a batch can't be divided",
                where=self.name,
                given=f"{world} processes",
                allowed=", ".join(str(1 << power) for power in range(most.bit_length())),
            )
        return min(world, most)
