"""The triplets of a training: which of them it sees, and whose labels they bear.

Rule: the first process asks the label source before the others are waited for, since it may have to decode every
image once; all then hold the same labels. What came of it is told in training.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pi_repro.data import labels as sources
from pi_repro.data.labels import LabelSource, Question, Regrouped
from pi_repro.data.loader import TripletSource, micro_batches
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted, RequestError
from pi_repro.spec.training import Align, Augmentation, Auxiliary, Plugin
from pi_repro.stages.context import StageContext

from . import parts
from .determinism import reseed
from .processes import Group

_PART = 64


class Votes:
    """The training split of a dataset as a stage's settings want it.

    Args:
        settings: of the stage.
        size: of the model's input, pixels.
        context: of the stage.
    """

    def __init__(self, settings: Align | Auxiliary, size: int, context: StageContext) -> None:
        self.settings = settings
        self.size = size
        self.seed = int(context.settings["seed"])
        self.context = context
        # What the request may get wrong is found before any data is read.
        self._labeller = label_source(settings.labels) if settings.labels else None
        self._regrouped = False

    def open(self, shards: Shards) -> Callable[[Group], TripletSource]:
        """Ask for labels; what comes back makes the source, once the processes have met.

        Raises:
            RequestError: no triplets, or the label source gives no labels.
            StateError: an image cannot be decoded.
            Interrupted: asked to stop.
        """
        settings = self.settings
        source = TripletSource(shards, "train", settings.augmentation, self.size, self.seed, settings.fraction)
        found = None
        if self._labeller is not None and self.context.processes.rank == 0:
            reseed(self.seed, 0, 1)  # for a source that draws; an adapter has 0, 0
            asked = Question(source.triplets, source.rows, self.seed, lambda: self._pictures(shards, source.rows))
            found = _checked(self._labeller.labels(asked), source.rows, settings.labels)

        def relabelled(group: Group) -> TripletSource:
            if self._labeller is not None:
                mine = np.zeros((len(source.rows), 3), np.int64) if found is None else found
                everyone = group.gather(torch.from_numpy(mine).to(group.device))
                labels, *sides = everyone[: len(mine)].cpu().numpy().T
                self._regrouped = bool((sides[0] >= 0).all())
                source.relabel(labels.astype(np.uint8), np.stack(sides, axis=1) if self._regrouped else None)
            return source

        return relabelled

    def about(self, source: TripletSource) -> dict[str, Any]:
        """What training.json says of it, beside what it says of every dataset."""
        told: dict[str, Any] = {}
        if self.settings.fraction < 1:
            told["drawn"] = len(source.rows)
        if self.settings.labels is not None:
            told["labels"] = {"source": self.settings.labels.name, "of": len(source.rows)}
            # The votes were given to other pictures than the labels of regrouped triplets.
            if not self._regrouped:
                agree = int((source.labels == source.triplets.label(source.rows)).sum())
                told["labels"]["agree_with_votes"] = agree
        return told

    def _pictures(self, shards: Shards, rows: np.ndarray) -> Iterator[Mapping[str, torch.Tensor]]:
        context, resources = self.context, self.context.resources
        plain = TripletSource(shards, "train", Augmentation(kind="resize"), self.size, self.seed)
        plain.divide_caches(1 << 62)  # each image comes once
        schedule = ([(0, int(row)) for row in rows[at : at + _PART]] for at in range(0, len(rows), _PART))
        done = 0
        for part in micro_batches(
            plain, schedule, resources.workers, resources.prefetch, bytes_limit=resources.prefetch_mb << 20
        ):
            yield part
            done += len(part["label"])
            context.progress(done, len(rows), "triplets", "labels")
            if context.should_stop():
                raise Interrupted("stopped while triplets were labelled; run again to begin anew")


def label_source(plugin: Plugin) -> LabelSource:
    """The label source that a spec names.

    Raises:
        RequestError: unknown name or options.
    """
    return parts.make("labels", plugin, sources.BUILT_IN)


def _checked(answer: np.ndarray | Regrouped, rows: np.ndarray, plugin: Plugin | None) -> np.ndarray:
    """int64 [n, 3]: label, and the rows that stand left and right, -1 for a row's own sides."""
    labels = np.asarray(answer.labels if isinstance(answer, Regrouped) else answer)
    where = f"label source {plugin.name!r}" if plugin else None
    if labels.shape != rows.shape or not np.isin(labels, (0, 1)).all():
        raise RequestError(
            "a label source gives 0 or 1 for each row",
            where=where,
            given=f"shape {labels.shape}, values {np.unique(labels)[:4].tolist()}",
            allowed=f"shape {rows.shape}",
        )
    sides = answer.sides if isinstance(answer, Regrouped) else np.full((len(rows), 2), -1)
    if isinstance(answer, Regrouped) and (sides.shape != (len(rows), 2) or not np.isin(sides, rows).all()):
        raise RequestError("sides are rows of those asked, two for each", where=where, given=f"shape {sides.shape}")
    return np.column_stack([labels, sides]).astype(np.int64)
