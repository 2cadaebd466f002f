"""Fractal triplets: the same bytes everywhere, balanced sides, systems that differ as the card says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pi_repro.data.fractals import systems
from pi_repro.data.fractals.triplets import fetch
from pi_repro.data.shards import Shards
from pi_repro.errors import Interrupted, StateError
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Resources
from pi_repro.spec.loading import load_card
from pi_repro.stages.context import StageContext

CARD = load_card(Path(__file__).parents[2] / "specs/data/tiny-fractals.yaml")


def rendered(folder: Path, card: Card = CARD, should_stop: Callable[[], bool] = lambda: False) -> Path:
    (folder / "out").mkdir(parents=True)
    resources = Resources.model_construct()
    fetch(card, StageContext("fetch@x", {}, {}, folder, folder / "out", resources, should_stop=should_stop))
    return folder / "out"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards.open(rendered(tmp_path_factory.mktemp("fractals")))


def test_the_bytes_are_those_of_any_other_machine(shards: Shards) -> None:
    """Computed with and without AVX2, AVX-512 and FMA in numpy; another digest means that the recipe changed."""
    assert shards.sha256 == "d57802ffa1aa993ccf603b11de624408e5e48f928808cfff9574d2f43cb6f1eb"


def test_sides_are_balanced_exactly_and_splits_are_as_large_as_told(shards: Shards) -> None:
    label, split = shards.column("label"), shards.column("split")
    assert [int((split == number).sum()) for number in range(3)] == [188, 30, 40]
    assert [int(label[split == number].sum()) for number in range(3)] == [94, 15, 20]
    assert set(shards.column("votes")) == {0}


def pixels(shards: Shards, member: str, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shards.read(member, row))).convert("RGB")).astype(int)


def test_the_closer_side_is_the_changed_reference(shards: Shards) -> None:
    right, same = 0, 0
    for row in range(60):
        sides = [pixels(shards, side, row) for side in ("left", "right")]
        errors = [float(((side - pixels(shards, "ref", row)) ** 2).mean()) for side in sides]
        right += errors.index(min(errors)) == shards.column("label")[row]
        same += min(errors) == 0
    assert right > 45 and same == 0


def test_all_three_bear_one_palette_and_white(shards: Shards) -> None:
    for row in range(5):
        image = pixels(shards, "ref", row)
        share = (image != 255).any(axis=2).mean()
        assert 0.06 <= share <= 0.7


def test_a_system_does_not_depend_on_who_is_drawn_beside_it() -> None:
    keys = [("k", "system", number) for number in range(6)]
    walks = [("k", "walk", number) for number in range(6)]
    many = systems.drawn(keys)
    painted, _ = systems.counts(many, 32, 50, 20, walks)
    one = systems.drawn(keys[4:5])
    assert one.maps.tobytes() == many.maps[4:5].tobytes()
    alone, _ = systems.counts(one, 32, 50, 20, walks[4:5])
    assert np.array_equal(alone[0], painted[4])
    assert painted.sum(axis=(1, 2, 3)).tolist() == [50 * 20] * 6


def test_maps_contract_and_a_change_is_small() -> None:
    keys = [("k", number) for number in range(200)]
    drawn = systems.drawn(keys)
    values = np.linalg.svd(drawn.maps[..., [0, 1, 2, 3]].reshape(-1, 2, 2), compute_uv=False)
    assert values.max() <= 0.85 + 1e-12
    present = (drawn.maps != 0).any(axis=-1).sum(axis=1)
    assert set(present) == {2, 3, 4}
    changed = systems.changed(drawn, 0.2, [("c", number) for number in range(200)])
    ratio = changed.maps[drawn.maps != 0] / drawn.maps[drawn.maps != 0]
    assert 0.8 <= ratio.min() < 0.81 and 1.19 < ratio.max() <= 1.2
    last = np.take_along_axis(drawn.chances, (present - 1)[:, None], 1)
    assert (last == 65536).all() and (np.diff(drawn.chances) >= 0).all()


def test_a_card_that_promises_another_number_or_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="another number"):
        rendered(tmp_path / "a", CARD.model_copy(update={"count": 5}))
    with pytest.raises(StateError, match="too few systems"):
        rendered(tmp_path / "b", CARD.model_copy(update={"settings": {**CARD.settings, "fill": [0.98, 0.99]}}))


def test_it_stops_when_asked(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        rendered(tmp_path, CARD, lambda: True)
