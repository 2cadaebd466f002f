"""Zero-shot classification by clip_benchmark's protocol.

Rule: a class is the mean of its normalized prompt embeddings, normalized again; logits are 100 times the
cosine; an image is given the class of the highest logit. Where a set has several right labels an image (ReaL), the
given class is also right when it is among them, and images without any are left out of that figure alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from pi_repro.data.shards import Shards
from pi_repro.errors import StateError

from .benchmark import Conditions
from .embed import Embedder, Pulse, Texts, chunks, no_pulse
from .metrics import classification_metrics, join, rank_first_right
from .pictures import Pictures
from .prompts import Prompts
from .real import RealLabels
from .results import Result
from .suite import SetEntry


class ZeroShot:
    """A classification set, open.

    Args:
        entry: its line in the suite's list.
        shards: its samples, verified.
        conditions: what holds for all sets.

    Raises:
        StateError: prompts unusable, or labels and class names don't fit.
    """

    def __init__(self, entry: SetEntry, shards: Shards, conditions: Conditions) -> None:
        self._entry = entry
        self._dataset_sha256 = shards.sha256
        self._conditions = conditions
        self._prompts = Prompts.read(entry.folder)
        self._label = shards.column("label").astype(np.int32)
        self._check_labels()
        self._real = RealLabels.read(entry.folder, shards.count, self.classes)
        self._pictures = Pictures(shards, [("image", row) for row in range(shards.count)], conditions)
        self._texts = Texts(self._prompts.texts(), conditions.tokenizer)

    @property
    def id(self) -> str:
        """The set's id."""
        return self._entry.id

    @property
    def classes(self) -> int:
        """How many classes there are to choose from."""
        return len(self._prompts.classnames)

    def judge(self, embedder: Embedder, pulse: Pulse = no_pulse) -> Result:
        """Ranks of the true class of each image, and the metrics that follow."""
        classifier = class_embeddings(self._texts.embed(embedder, pulse), self.classes)
        images = self._pictures.embed(embedder, pulse)
        label = torch.from_numpy(self._label.astype(np.int64)).to(images.device)
        every_class = torch.arange(self.classes, device=images.device)
        parts = []
        for start, real, chunk in chunks(images, embedder.batch):
            logits = (100.0 * chunk @ classifier.T)[:real]
            right = label[start : start + real, None] == every_class[None, :]
            parts.append(rank_first_right(logits, right))
        ranking = join(parts)
        items = {"rank": ranking.rank, "label": self._label, "predicted": ranking.first}
        return Result(self.id, self._record(items), items)

    def _record(self, items: dict[str, np.ndarray]) -> dict[str, object]:
        metrics = classification_metrics(items["rank"], items["label"], items["predicted"], self.classes)
        if self._real is not None:
            metrics["real_acc1"] = self._real.accuracy(items["predicted"])
        return {
            "dataset": self.id,
            "task": "classification",
            "family": self._entry.fields.get("family"),
            "metrics": metrics,
            "n": len(self._label),
            "classes": self.classes,
            "chance": 1 / self.classes,
            "templates": list(self._prompts.templates),
            "classnames_sha256": self._prompts.classnames_sha256,
            "templates_sha256": self._prompts.templates_sha256,
            "preprocess": self._conditions.preprocess.record,
            "precision": self._conditions.precision,
            "batch": self._conditions.batch,
            "dataset_sha256": self._dataset_sha256,
            **({} if self._real is None else {"real_n": self._real.n, "real_labels_sha256": self._real.sha256}),
        }

    def _check_labels(self) -> None:
        low, high = int(self._label.min()), int(self._label.max())
        if low < 0 or high >= self.classes:
            raise StateError(
                "labels and class names don't fit",
                where=str(self._entry.folder),
                given=f"labels {low} to {high}, {self.classes} class names",
            )


def class_embeddings(prompts: torch.Tensor, classes: int) -> torch.Tensor:
    """Class vectors [C, D] from unit prompt features [C * T, D], class by class."""
    mean = prompts.view(classes, -1, prompts.shape[1]).mean(dim=1)
    return functional.normalize(mean, dim=-1)
