"""Triplets: splits are kept apart, labels and images belong together."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pi_repro.data.loader import TripletSource, micro_batches
from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.triplets import TripletSet
from pi_repro.errors import RequestError, StateError
from pi_repro.spec.training import Augmentation

RESIZE = Augmentation(kind="resize")
CROP = Augmentation(kind="random_resized_crop", scale=(0.3, 0.9))
SPLIT_OF = [0, 0, 1, 0, 2, 0, 0, 1, 0, 2, 0]


def flat(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def gradient() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    with ShardWriter(tmp_path, "trip", "triplets", shard_size=3) as writer:
        for row, split in enumerate(SPLIT_OF):
            members = {
                "ref.png": flat(row),
                "left.png": flat(row + 50),
                "right.png": flat(row + 100),
                "json": b"{}",
            }
            writer.add(f"t{row}", members, {"label": row % 2, "split": split, "votes": 6})
    return Shards.open(tmp_path)


def test_rows_and_labels(shards: Shards) -> None:
    triplets = TripletSet(shards)
    assert triplets.rows("val").tolist() == [2, 7]
    assert sorted(np.concatenate([triplets.rows(split) for split in ("train", "val", "test")])) == list(range(11))
    labels = triplets.label(triplets.rows("train"))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 1, 1, 0, 0, 0]
    with pytest.raises(RequestError, match="no such split"):
        triplets.rows("all")


def test_order_of_a_split_visits_it_once_and_nothing_else(shards: Shards) -> None:
    order = TripletSet(shards).order("train", seed=4, block=2)
    for epoch in range(3):
        assert sorted(order.rows(epoch, 0, order.count)) == TripletSet(shards).rows("train").tolist()


def test_batch(shards: Shards) -> None:
    source = TripletSource(shards, "train", RESIZE, 4, seed=0)
    batch = source.batch([(0, 3), (0, 10), (5, 0)])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "ref": (3, 3, 4, 4),
        "left": (3, 3, 4, 4),
        "right": (3, 3, 4, 4),
        "label": (3,),
    }
    assert [batch[name][:, 0, 0, 0].tolist() for name in ("ref", "left", "right")] == [
        [3, 10, 0],
        [53, 60, 50],
        [103, 110, 100],
    ]
    assert batch["label"].tolist() == [1, 0, 0]
    assert source[0, 3]["left"].shape == (3, 4, 4)


def test_rows_of_another_split_are_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match="outside split train"):
        TripletSource(shards, "train", RESIZE, 4, seed=0).batch([(0, 3), (0, 2)])


def test_images_of_a_triplet_draw_for_themselves(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "trip", "triplets") as writer:
        members = {"ref.png": gradient(), "left.png": gradient(), "right.png": gradient()}
        writer.add("t", members, {"label": 0, "split": 0, "votes": 6})
    source = TripletSource(Shards.open(tmp_path), "train", CROP, 16, seed=0)
    batch, again = next(micro_batches(source, [[(0, 0)]], 0, 1)), source.batch([(0, 0)])
    assert not (batch["ref"] == batch["left"]).all()
    assert (batch["left"] == again["left"]).all()
    assert not (batch["ref"] == source.batch([(1, 0)])["ref"]).all()


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a", "a", "pairs") as writer:
        writer.add("k", {"png": b"", "txt": b""})
    with pytest.raises(RequestError, match="holds no triplets"):
        TripletSet(Shards.open(tmp_path / "a"))
    with ShardWriter(tmp_path / "b", "b", "triplets") as writer:
        writer.add("k", {"ref.png": b"", "left.png": b""}, {"label": 1, "split": 0})
    with pytest.raises(StateError, match="triplets are incomplete") as caught:
        TripletSet(Shards.open(tmp_path / "b"))
    assert "no right" in str(caught.value)
