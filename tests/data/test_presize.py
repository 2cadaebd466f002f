"""Images made smaller at fetch: never larger, the same bytes twice, and only where a card asks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pi_repro.data.jpeg import plain_frame
from pi_repro.data.presize import presize
from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.errors import StateError
from pi_repro.files import path_digest
from pi_repro.spec.card import Card
from pi_repro.spec.loading import load_card

from .test_jpeg import file_of

CARDS = Path(__file__).parents[2] / "specs" / "data"


@pytest.mark.parametrize(("size", "result"), [((333, 250), (64, 85)), ((100, 401), (257, 64))])
@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("WEBP", "RGBA")])
def test_shorter_side(size: tuple[int, int], result: tuple[int, int], form: str, mode: str) -> None:
    content = file_of(*size, form=form, mode=mode)
    smaller = presize(content, 64)
    assert smaller is not None
    assert smaller == presize(content, 64)
    assert plain_frame(smaller) == (*result, 3)
    shrunk = Image.open(io.BytesIO(content)).convert("RGB").resize(result[::-1], Image.Resampling.LANCZOS)
    change = np.asarray(Image.open(io.BytesIO(smaller))).astype(int) - np.asarray(shrunk)
    assert abs(change.mean()) < 2


def test_nothing_is_enlarged_or_written_anew() -> None:
    assert presize(file_of(64, 200), 64) is None
    assert presize(file_of(30, 40, form="PNG"), 64) is None
    with pytest.raises(StateError, match="cannot be decoded"):
        presize(b"no image", 64)


def write(folder: Path, short_side: int | None) -> Shards:
    with ShardWriter(folder, "small", "pairs", short_side=short_side) as writer:
        writer.add("large", {"png": file_of(100, 80, form="PNG"), "txt": b"a"})
        writer.add("small", {"png": file_of(40, 30, form="PNG"), "txt": b"b"})
    return Shards.open(folder)


def test_writer_applies_it(tmp_path: Path) -> None:
    shards = write(tmp_path / "a", 50)
    shards.verify()
    assert shards.read("image", 0) == presize(file_of(100, 80, form="PNG"), 50)
    assert shards.read("image", 1) == file_of(40, 30, form="PNG")
    assert [shards.read("text", row) for row in (0, 1)] == [b"a", b"b"]
    assert path_digest(tmp_path / "a") == path_digest(write(tmp_path / "b", 50).folder)
    assert write(tmp_path / "c", None).read("image", 0) == file_of(100, 80, form="PNG")
    with ShardWriter(tmp_path / "t", "t", "triplets", short_side=50) as writer:
        writer.add("k", {f"{name}.png": file_of(100, 80, form="PNG") for name in ("ref", "left", "right")})
    assert plain_frame(Shards.open(tmp_path / "t").read("left", 0)) == (50, 62, 3)
    with pytest.raises(StateError, match="dataset bad, key 'k', jpg"):
        ShardWriter(tmp_path / "d", "bad", "pairs", short_side=50).add("k", {"jpg": b"", "txt": b""})


def test_a_card_says_so_in_its_hash_and_one_without_it_is_as_before() -> None:
    card = load_card(CARDS / "demo-pairs.yaml")
    plain = card.model_dump(mode="json")
    assert "short_side" not in plain
    smaller = Card.model_validate(plain | {"short_side": 256}).model_dump(mode="json")
    assert smaller == plain | {"short_side": 256}
    with pytest.raises(ValueError, match="takes no short_side"):
        Card.model_validate(load_card(CARDS / "demo-suite.yaml").model_dump() | {"short_side": 256})
