"""Curves for people who watch a training in TensorBoard or Weights & Biases; nobody else reads them.

Rule: a logger repeats lines of the ledger, in a folder that is no output. It is imported only when resources
ask for it; one that is not installed is refused before the first update, and one that fails later is dropped
with a warning, for no curve is worth a training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pi_repro.errors import StateError
from pi_repro.files import digest_of
from pi_repro.stages.context import StageContext

from . import ledger

#: Moves the curves; a stage's lie in its folder of that name below it.
FOLDER = "PIREPRO_LOGS"
#: Logger -> the module that it needs, and what is used of it.
MODULES = {"tensorboard": ("torch.utils.tensorboard", "SummaryWriter"), "wandb": ("wandb", "init")}


@dataclass(frozen=True)
class Run:
    """The curves of one attempt at a stage: the stage's name, an id it keeps, where they lie, the first update."""

    name: str
    id: str
    folder: Path
    first: int


class Logger(Protocol):
    """Writes the curves of one stage."""

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """Write the values of an update."""

    def flush(self) -> None:
        """Make sure that a kill loses nothing written so far."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """An event file.

    Args:
        module: torch.utils.tensorboard.
        run: the stage's curves; what an attempt that was killed had logged past its checkpoint is hidden.
    """

    def __init__(self, module: Any, run: Run) -> None:
        self._writer = module.SummaryWriter(str(run.folder), purge_step=run.first)

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def flush(self) -> None:
        """See `Logger`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class WandB:
    """A run that keeps its id however often it is resumed; nothing leaves the machine unless WANDB_MODE says so.

    Args:
        module: wandb.
        run: the stage's curves.
    """

    def __init__(self, module: Any, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = module.init(
            project="pi_repro",
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE") or "offline",
            save_code=False,
            settings=module.Settings(console="off", disable_git=True),
        )

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=update)

    def flush(self) -> None:
        """See `Logger`; lines go to a process of wandb's own, which outlives this one."""

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


KINDS: dict[str, Callable[[Any, Run], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Loggers:
    """All loggers that a stage's resources ask for.

    They are opened at the first line, when the loader's processes have been forked already: a fork takes no
    thread along, but the locks that it holds.

    Args:
        context: of the stage.

    Raises:
        StateError: one is not installed.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._modules: dict[str, Any] = {name: _module(name) for name in context.resources.loggers}
        self._open: dict[str, Logger] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Repeat a line of the ledger: loss, lr, grad_norm and, where there is one, logit_scale."""
        values = {name: line[name] for name in ("loss", "lr", "logit_scale") if name in line}
        values["grad_norm"] = ledger.value(line["grad_norm_bits"])
        for name in [name for name in self._modules if name not in self._open]:
            self._try(name, self._begin, name, line["update"])
        for name, logger in list(self._open.items()):
            self._try(name, logger.add, line["update"], values)

    def flush(self) -> None:
        """Called with each checkpoint, so that the curve of a resumed stage has no gap."""
        for name, logger in list(self._open.items()):
            self._try(name, logger.flush)

    def close(self) -> None:
        """Write what is left."""
        for name, logger in list(self._open.items()):
            self._try(name, logger.close)
        self._open.clear()

    def _begin(self, name: str, first: int) -> None:
        stage, folder = self._context.name, folder_of(self._context)
        # Scratch belongs to the fingerprint, so a resumed stage has the same id and a changed one another.
        key = f"{stage.replace('@', '-')}-{digest_of(str(self._context.scratch))[:12]}"
        self._open[name] = KINDS[name](self._modules[name], Run(stage, key, folder, first))
        self._context.log.info("%s writes to %s", name, folder)

    def _try(self, name: str, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self._context.log.warning("%s failed and is left out from here on: %r", name, error)
            self._open.pop(name, None)
            self._modules.pop(name, None)


def folder_of(context: StageContext) -> Path:
    """Where a stage's curves lie: beside the scratch of all stages, where neither publishing nor `pirepro gc` looks."""
    named = os.environ.get(FOLDER)
    return (Path(named).expanduser() if named else context.scratch.parents[2] / "logs") / context.name


def _module(name: str) -> Any:
    path, used = MODULES[name]
    try:
        module = import_module(path)
        # A folder named wandb, which wandb leaves behind, can be imported too.
        getattr(module, used)
        return module
    except (ImportError, AttributeError) as error:
        raise StateError(
            "this logger is not installed",
            where="resources.loggers",
            given=f"{name} ({error})",
            todo="in the checkout: pip install -e '.[loggers]'; or take it out of the spec, which changes no bit",
        ) from None
