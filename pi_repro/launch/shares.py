"""One share of a dataset's shards: what a task of a job array makes, and what anyone may make by hand.

Rule: a share makes parts in the data root and nothing else. No index is written and nothing is published: the stage
that fetches finds every part whole and puts them together. Shares may overlap, be repeated and be killed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_repro.errors import RequestError
from pi_repro.files import digest_of
from pi_repro.plan import graph
from pi_repro.spec.card import Card
from pi_repro.stages.context import StageContext
from pi_repro.stages.fetch import MODULES

from . import datasets, inspect, progress
from .places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A fetcher's own function: card, context, number of the share, how many there are.
Share = Callable[[Card, StageContext, int, int], None]


def identity(card: Card, places: Places) -> str:
    """The name that all shares of a dataset have in common; another card, code or environment has another."""
    return digest_of({"shares of": sorted(inspect.fingerprints(datasets.plan_of(card), places))})


def task_folder(folder: Path, task: int) -> Path:
    """Where one share of those in `folder` says how far it is."""
    return folder / f"task-{task:05d}"


def of_card(card: Card) -> Share:
    """What makes a share of a card's shards.

    Raises:
        RequestError: its fetcher can't be shared out, or its shards do not stay in the data root.
    """
    module: Any = import_module(MODULES[card.fetcher]) if card.fetcher in MODULES else None
    found: Share | None = getattr(module, "share", None)
    if found is None or card.location != "site":
        raise RequestError(
            "the shards of this dataset can't be made in shares",
            where=f"card {card.name}",
            given=f"fetcher {card.fetcher}, location {card.location}",
            allowed="location site, and a fetcher that offers `share`",
            todo=f"pirepro data fetch {card.name}",
        )
    return found


def share(name: str, task: int, of: int, places: Places) -> None:
    """Make share `task` of `of` of a dataset's shards.

    Args:
        name: of the card.
        task: this one, from 0.
        of: how many there are.
        places: the workspace's, or the site's.

    Raises:
        RequestError: no such card or share, or the dataset can't be shared out.
        StateError: a source or the room for it is missing, or what came is wrong.
        Interrupted: asked to stop by SIGTERM, SIGUSR2 or Ctrl-C; whole parts stay.
    """
    if not 0 <= task < of:
        raise RequestError("no such share", given=f"{task} of {of}", allowed=f"0 to {of - 1}")
    card = datasets.named(name, places).card
    make = of_card(card)
    folder = task_folder(places.scratch / identity(card, places), task)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PIREPRO_DOWNLOADS"] = str(places.downloads)
    with _stoppable() as stop:
        context = StageContext(
            name=f"share {task} of {of} of {name}",
            settings={"card": card.model_dump(mode="json")},
            inputs={},
            scratch=folder,
            out=folder / "out",
            resources=graph.FETCHING,
            data_root=places.data_root,
            progress=progress.Writer(folder),
            should_stop=lambda: bool(stop),
            log=_logger(),
        )
        make(card, context, task, of)


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A list that a request to stop fills, while this lasts."""
    stop: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    before = {number: signal.signal(number, lambda signum, _frame: stop.append(signum)) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _logger() -> logging.Logger:
    """Lines on the error output, which a job array keeps as each task's log."""
    log = logging.getLogger("pirepro")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers = [handler]
    return log
