"""The probes of one stage, open: their images drawn and decoded once, then any number of checkpoints.

Rule: which images are looked at is drawn by a key of the set alone, so every arm, seed and checkpoint is looked at on
the same ones. A probe's result is a function of the weights, those it is compared with, the data and the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pi_repro.data.randomness import some
from pi_repro.data.shards import Shards
from pi_repro.errors import RequestError, StateError
from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.embed import Embedder, Pulse
from pi_repro.evaluation.pictures import Pictures
from pi_repro.evaluation.results import Result
from pi_repro.evaluation.suite import SetEntry, read_suite
from pi_repro.files import sha256_file
from pi_repro.spec.probes import Probes

from . import linear, rsa
from .cka import debiased_cka, linear_cka
from .clip_loss import PairLoss
from .distance import Tensors, distances
from .exact import Floats
from .sharpness import sharpness
from .spectrum import mean_cosine, spectrum

FEATURES, DISTANCE, SHARPNESS, RSA, LINEAR = "features", "distance", "sharpness", "rsa", "linear"


@dataclass(frozen=True)
class Images:
    """Some images of one set.

    Attributes:
        name: the set's id.
        rows: [n] which samples of it, rising.
        pictures: ready to be embedded.
        dataset_sha256: of the set's index.
    """

    name: str
    rows: npt.NDArray[np.int64]
    pictures: Pictures
    dataset_sha256: str

    def embed(self, embedder: Embedder, pulse: Pulse) -> npt.NDArray[np.float32]:
        """Unit-length features [n, D]."""
        features: npt.NDArray[np.float32] = self.pictures.embed(embedder, pulse).cpu().numpy()
        return features


class Bench:
    """What probes need besides weights.

    Args:
        probes: what is asked.
        suite: the suite's folder.
        conditions: how images are decoded and batched.
        pairs: the pretraining pairs' folder; None where no probe reads them.
        given: role -> file that the user gave.
        data_root: where shards of site data live.

    Raises:
        RequestError: a set that the suite does not have, or a matrix and a list that don't fit it.
        StateError: a shard or given file is missing or damaged, by name.
    """

    def __init__(
        self,
        probes: Probes,
        suite: Path,
        conditions: Conditions,
        pairs: Path | None,
        given: Mapping[str, Path],
        data_root: Path | None,
    ) -> None:
        self.probes, self.conditions, self._data_root = probes, conditions, data_root
        self._entries = {entry.id: entry for entry in read_suite(suite)}
        self._about = {
            "preprocess": conditions.preprocess.record,
            "precision": conditions.precision,
            "batch": conditions.batch,
        }
        self._open: dict[str, Shards] = {}
        self.features = None
        if probes.features is not None:
            self.features = self._drawn(probes.features.set, probes.features.images)
        self._linear: dict[str, tuple[Images, linear.Labels]] = {}
        for name in probes.linear.sets if probes.linear else ():
            images = self._drawn(name, probes.linear.images if probes.linear else None)
            self._linear[f"{LINEAR}/{name}"] = images, self._shards(name).column("label")[images.rows].astype(np.int64)
        self._rsa: tuple[Images, Floats] | None = None
        if probes.rsa is not None:
            keys = rsa.read_images(given["rsa-images"], probes.rsa.images)
            matrix = rsa.read_matrix(given["rsa-matrix"], probes.rsa.matrix, len(keys))
            self._rsa = self._listed(probes.rsa.set, keys, probes.rsa.images), rsa.upper(matrix)
        self._pairs: tuple[Images, torch.Tensor] | None = None
        if probes.sharpness is not None:
            assert pairs is not None
            self._pairs = self._some_pairs(pairs, probes.sharpness.pairs)

    def names(self, *, sharp: bool) -> tuple[str, ...]:
        """Probes of one checkpoint, in order."""
        asked = [FEATURES] if self.features else []
        asked += [DISTANCE] if self.probes.distance else []
        asked += [*self._linear] + ([RSA] if self._rsa else [])
        return tuple(asked + ([SHARPNESS] if self._pairs and sharp else []))

    def look(self, name: str, embedder: Embedder, pulse: Pulse) -> Result:
        """One of the probes that need the weights alone: linear, rsa or sharpness."""
        if name == RSA:
            return self._similar(embedder, pulse)
        if name == SHARPNESS:
            return self._sharp(embedder, pulse)
        return self._readout(name, embedder, pulse)

    def alike(self, own: npt.NDArray[np.float32], others: Mapping[str, tuple[npt.NDArray[np.float32], str]]) -> Result:
        """Spectrum of some features, and their likeness to others of the same images.

        Args:
            own: [n, D].
            others: "draw", "start", "twin" -> features and the sha256 of their weights.
        """
        assert self.features is not None and self.probes.features is not None
        similarity = self.probes.features.similarity
        mine = own.astype(np.float64)
        order = rsa.dissimilarities(mine, similarity)
        likeness = {}
        for role, (features, sha256) in others.items():
            other = features.astype(np.float64)
            likeness[role] = {
                "cka": linear_cka(mine, other),
                "cka_debiased": debiased_cka(mine, other),
                "rsa_spearman": rsa.spearman(order, rsa.dissimilarities(other, similarity)),
                "weights_sha256": sha256,
            }
        found = spectrum(mine)
        record = {
            "probe": FEATURES,
            **self._of(self.features),
            "similarity": similarity,
            "spectrum": {
                "dimensions": own.shape[1],
                "effective_rank": found.effective_rank,
                "participation_ratio": found.participation_ratio,
                "first_share": found.first_share,
                "mean_cosine": mean_cosine(mine),
            },
            "likeness": likeness,
        }
        return Result(FEATURES, record, {"features": own, "row": self.features.rows, "variance": found.variances})

    def moved(self, weights: Tensors, others: Mapping[str, tuple[Tensors, str]]) -> Result:
        """Distance of weights to others, per group; `others` as in `alike`."""
        tables = {role: distances(weights, tensors) for role, (tensors, _) in others.items()}
        groups = list(next(iter(tables.values())))
        record = {
            "probe": DISTANCE,
            "groups": groups,
            "to": {
                role: {
                    "weights_sha256": others[role][1],
                    "groups": {group: asdict(each) for group, each in table.items()},
                }
                for role, table in tables.items()
            },
        }
        items = {f"{role}.l2": np.array([table[group].l2 for group in groups]) for role, table in tables.items()}
        return Result(DISTANCE, record, items)

    def _similar(self, embedder: Embedder, pulse: Pulse) -> Result:
        assert self._rsa is not None and self.probes.rsa is not None
        images, wanted = self._rsa
        features = images.embed(embedder, pulse)
        found = rsa.dissimilarities(features.astype(np.float64), self.probes.rsa.similarity)
        record = {
            "probe": RSA,
            **self._of(images),
            "matrix": self.probes.rsa.matrix,
            "similarity": self.probes.rsa.similarity,
            "spearman": rsa.spearman(found, wanted),
            "kendall_tau_a": rsa.kendall_tau_a(found, wanted),
            "pairs": len(wanted),
        }
        return Result(RSA, record, {"features": features, "row": images.rows})

    def _readout(self, name: str, embedder: Embedder, pulse: Pulse) -> Result:
        assert self.probes.linear is not None
        images, labels = self._linear[name]
        features = images.embed(embedder, pulse).astype(np.float64)
        train, test = linear.split(labels, self.probes.linear.train, "probe split", images.name)
        if not len(train) or not len(test):
            raise RequestError("a half of the split is empty", where=f"set {images.name}", given=len(labels))
        classes = int(labels.max()) + 1
        ridge = linear.fit(features[train], labels[train], classes, self.probes.linear.penalties)
        predicted = ridge.outputs(features[test]).argmax(axis=1)
        right = predicted == labels[test]
        record = {
            "probe": LINEAR,
            **self._of(images),
            "acc1": float(right.mean()),
            "train_acc1": float((ridge.outputs(features[train]).argmax(axis=1) == labels[train]).mean()),
            "n_train": len(train),
            "n_test": len(test),
            "classes": len(np.unique(labels)),
            # What naming the training half's largest class scores.
            "majority": float((labels[test] == np.bincount(labels[train]).argmax()).mean()),
            "penalty": ridge.penalty,
            "penalties": list(self.probes.linear.penalties),
            "leave_one_out": list(ridge.errors),
        }
        items = {
            "row": images.rows[test],
            "label": labels[test].astype(np.int32),
            "predicted": predicted.astype(np.int32),
        }
        return Result(name, record, items)

    def _sharp(self, embedder: Embedder, pulse: Pulse) -> Result:
        assert self._pairs is not None and self.probes.sharpness is not None
        asked, (images, tokens) = self.probes.sharpness, self._pairs
        exact = Embedder(embedder.model, embedder.prepare, embedder.device, "fp32", embedder.batch)
        loss = PairLoss(exact, images.pictures, tokens, asked.towers, pulse)
        try:
            found = sharpness(loss.weights, loss.at, loss.gradient(), asked.radii, asked.directions)
        finally:
            loss.close()
        random = found.random
        record = {
            "probe": SHARPNESS,
            **self._of(images),
            "precision": "fp32",
            "towers": asked.towers,
            "moving": len(loss.weights),
            "radii": list(asked.radii),
            "directions": asked.directions,
            "loss": found.loss,
            "gradient_norm": found.gradient_norm,
            "random_mean": random.mean(axis=0).tolist(),
            "random_max": random.max(axis=0).tolist(),
            "ascent": found.ascent.tolist(),
        }
        return Result(SHARPNESS, record, {"random": random, "ascent": found.ascent, "row": images.rows})

    def _of(self, images: Images) -> dict[str, Any]:
        about = {"set": images.name, "images": len(images.rows), "dataset_sha256": images.dataset_sha256}
        return {**about, **self._about}

    def _shards(self, name: str) -> Shards:
        if name not in self._entries:
            raise RequestError(
                "the suite has no such set", where="science.probes", given=name, allowed=", ".join(self._entries)
            )
        if name not in self._open:
            entry: SetEntry = self._entries[name]
            self._open[name] = entry.open(self._data_root)
        return self._open[name]

    def _drawn(self, name: str, images: int | None) -> Images:
        shards = self._shards(name)
        rows = np.sort(some(shards.count, images or shards.count, "probe", name)).astype(np.int64)
        return self._images(name, shards, rows)

    def _listed(self, name: str, keys: tuple[str, ...], where: str) -> Images:
        shards = self._shards(name)
        row_of: dict[str, int] = {}
        for row in range(shards.count):
            if row_of.setdefault(key := shards.key(row), row) != row:
                raise StateError("two samples of a set have one key", where=f"set {name}", given=key)
        if strange := [key for key in keys if key not in row_of]:
            known = ", ".join(list(row_of)[:3])
            raise RequestError(
                f"{len(strange)} of the listed images are not in the set", where=where, given=", ".join(strange[:3]),
                allowed=f"keys of samples of {name}, such as {known}",
            )  # fmt: skip
        return self._images(name, shards, np.array([row_of[key] for key in keys], dtype=np.int64))

    def _some_pairs(self, folder: Path, count: int) -> tuple[Images, torch.Tensor]:
        shards = Shards.open(folder, self._data_root)
        if not {"image", "text"} <= set(shards.members):
            raise StateError("pairs have an image and a text", where=str(folder), given=", ".join(shards.members))
        rows = np.sort(some(shards.count, count, "probe", "pairs")).astype(np.int64)
        verify_used(shards, rows)
        texts = [shards.read("text", int(row)).decode("utf-8") for row in rows]
        tokens = self.conditions.tokenizer(texts).to(torch.int64)
        return self._images(shards.name, shards, rows), tokens

    def _images(self, name: str, shards: Shards, rows: npt.NDArray[np.int64]) -> Images:
        pictures = Pictures(shards, [("image", int(row)) for row in rows], self.conditions)
        return Images(name, rows, pictures, shards.sha256)


def verify_used(shards: Shards, rows: npt.NDArray[np.int64]) -> None:
    """Check the shards that hold some rows; of a terabyte, those alone.

    Raises:
        StateError: a shard is missing, cut or altered, by name.
    """
    shards.verify(contents=False)
    for shard in {shard.name: shard for row in rows for shard in [shards.shard_of(int(row))]}.values():
        if (found := sha256_file(shard.path)) != shard.sha256:
            raise StateError(
                "shard is damaged: its sha256 differs from the index",
                where=str(shard.path),
                given=found,
                allowed=shard.sha256,
                todo="fetch the dataset again",
            )
