"""YFCC15M's fetcher against a hub of three small parquet files: shards, captions, failures, views, kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from pi_repro.data import conversion, fingerprints, transforms
from pi_repro.data.shards import Shards
from pi_repro.data.yfcc import fetch as fetcher
from pi_repro.data.yfcc.tokens import Caption, Reader
from pi_repro.errors import RequestError, StateError
from pi_repro.files import path_digest, sha256_file
from pi_repro.spec.card import Card

from . import mini_yfcc as mini
from .servers import HubServer

PHOTO = {"columns": {"image": "images", "text": "texts", "photo_id": "photo"}}
GOOD = mini.ROWS - len(mini.BROKEN)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({mini.REPO: repository}, commits={mini.REPO: mini.COMMIT}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(autouse=True)
def here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, unless a test says otherwise."""
    monkeypatch.setattr(conversion, "processors", lambda: 1)


def fetch(folder: Path, card: Card, **more: Any) -> tuple[Shards, dict[str, Any], mini.MiniStage]:
    stage = mini.MiniStage.below(folder, **more)
    shutil.rmtree(stage.out)
    stage.out.mkdir()
    fetcher.fetch(card, stage)
    shards = Shards.open(stage.out, stage.data_root)
    shards.verify()
    return shards, json.loads((stage.out / "card.json").read_text()), stage


def sources(shards: Shards) -> dict[str, dict[str, Any]]:
    """key -> the json member."""
    return {shards.key(row): json.loads(shards.read("json", row)) for row in range(shards.count)}


def test_pairs_are_the_parquets_rows(hub: HubServer, tmp_path: Path) -> None:
    shards, card, stage = fetch(tmp_path, mini.card(**PHOTO))
    assert shards.count == card["count"] == 3 * GOOD - 10 and card["warnings"] == []
    assert [shard.name for shard in shards.shards] == [f"data-train-{n:05d}-of-00003.tar" for n in range(3)]
    tokenize = SimpleTokenizer()
    for row in range(shards.count):
        about = json.loads(shards.read("json", row))
        file = int(about["file"][11:16])
        image, ids = mini.rows(file)[about["row"]]
        assert ids is not None and shards.read("image", row) == image
        assert about["ids"] + [0] * (about["width"] - len(about["ids"])) == ids
        again = tokenize([shards.read("text", row).decode()])[0].tolist()
        assert again == [number if place <= ids.index(49407) else 0 for place, number in enumerate(ids)]
        pixels = np.asarray(transforms.decode(shards.read("image", row)).convert("RGB"))
        assert shards.column("phash")[row] == fingerprints.phash(pixels)
        assert shards.column("photo_id")[row] == 10_000 * file + about["row"]
        assert about["source"] == {"owner": f"user {about['row']}", "photo": 10_000 * file + about["row"]}
    assert card["captions"]["ids_per_row"] == {"77": 3 * GOOD}
    assert card["captions"]["not_the_same_ids_again"] == 0 and card["captions"]["completed_by_a_sign"] > 0
    assert "SimpleTokenizer" in card["captions"]["tokenizer"]
    samples = json.loads((stage.out / "samples.json").read_text())
    assert len(samples) == min(100, shards.count) and samples[0]["segments"][0] in samples[0]["caption"]
    before = hub.sent
    shutil.rmtree(stage.out)
    stage.out.mkdir()
    fetcher.fetch(mini.card(**PHOTO), stage)
    assert hub.sent - before < 10_000, "a second fetch downloads no file"
    assert not list((stage.data_root or Path()).rglob("*.parquet"))


def test_failures_are_counted_listed_and_bounded(hub: HubServer, tmp_path: Path) -> None:
    _, card, stage = fetch(tmp_path, mini.card())
    listed = [line.split("\t") for line in (stage.out / "failures.tsv").read_text().splitlines()]
    assert card["failures"]["count"] == len(listed) == 3 * len(mini.BROKEN)
    for _file, key, reason in listed:
        assert reason.startswith(mini.BROKEN[int(key[-6:])]) and "0x" not in reason
    with pytest.raises(StateError, match="too many rows cannot be used"):
        fetch(tmp_path, mini.card(failures_allowed=0.1))
    with pytest.raises(StateError, match="most of a file cannot be used"):
        fetch(tmp_path / "other", mini.card(segment=1))


def test_a_row_that_is_odd_costs_no_more_than_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that one of two decoders refuses, more pixels than there is room for, a photo id of 64 bits."""
    plain = mini.picture(0)
    profile = b"\xff\xe2" + (15).to_bytes(2, "big") + b"ICC_PROFILE\0\x01"
    images = [mini.picture(row) for row in range(1, 13)]
    images += [plain[:2] + profile + plain[2:], mini.picture(20, "PNG", (100, 70)), plain, plain]
    many = len(images)
    words = pa.Array.from_buffers(
        pa.string(), many, [None, pa.py_buffer(np.arange(0, 2 * many + 2, 2, np.int32)), pa.py_buffer(b"a\xff" * many)]
    )
    table = pa.table(
        {
            "images": pa.StructArray.from_arrays([pa.array(images, pa.binary()), words], ["bytes", "path"]),
            "texts": [mini.ids_of("dog")] * many,
            "photo": pa.array([*range(many - 1), 2**63], pa.uint64()),
            "owner": words,
        }
    )
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub/odd.parquet")
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"mini-hub": str(tmp_path / "hub")}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    shards, card, _ = fetch(tmp_path, mini.card(short_side=32, holdout=0, **PHOTO))
    assert {int(row["key"][-2:]): row["reason"][:23] for row in card["failures"]["first"]} == {
        12: "image cannot be decoded",
        13: "image cannot be decoded",
        15: "no photo id",
    }
    assert shards.count == many - 3
    assert {about["source"]["owner"] for about in sources(shards).values()} == {"a\ufffd"}


def test_same_bytes_from_several_processes_array_tasks_and_a_local_copy(
    hub: HubServer, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, one = fetch(tmp_path / "one", mini.card())
    shared = mini.MiniStage.below(tmp_path / "shared")
    for number in (1, 0):
        fetcher.share(mini.card(), shared, number, 2)
    fetcher.fetch(mini.card(), shared)
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"mini-hub": str(repository)}))
    monkeypatch.setattr(conversion, "processors", lambda: 2)
    _, _, several = fetch(tmp_path / "several", mini.card())
    for other in (shared, several):
        for kind in ("out", "data_root"):
            assert path_digest(getattr(other, kind)) == path_digest(getattr(one, kind))
    assert len(list((repository / "data").iterdir())) == mini.FILES, "the copy stays"


def test_images_in_structs_and_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = mini.write(tmp_path / "hub", files=1, struct_images=True, group=1000)
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"mini-hub": str(copy)}))
    shards, card, _ = fetch(tmp_path, mini.card(short_side=32))
    sizes = {transforms.decode(shards.read("image", row)).size for row in range(shards.count)}
    assert sizes == {(43, 32)} and shards.count == GOOD - 10
    assert card["warnings"] == [
        "the card promises 89 pairs, 23 are there",
        "the card promises 3 parquet files, 1 are there",
    ]


def test_views_share_the_shards(hub: HubServer, tmp_path: Path) -> None:
    base, _, stage = fetch(tmp_path, mini.card(**PHOTO))
    train = sources(base)
    digests = {path: sha256_file(path) for path in stage.data_root.rglob("*.tar")}  # type: ignore[union-attr]
    found = {}
    for name, settings in (
        ("held", {"side": "holdout"}),
        ("few", {"subset": 30}),
        ("fewer", {"subset": 20}),
        ("left", {"exclude": [*list(train)[:2], 10_001, "nobody"]}),
    ):
        view = mini.card(name, shards_of="mini-yfcc", **PHOTO, **settings)  # type: ignore[arg-type]
        shards, card, _ = fetch(tmp_path, view)
        found[name] = set(sources(shards))
        assert shards.folder == stage.out and card["shards"]["home"].startswith("mini-yfcc/")
        if name == "left":
            assert card["excluded"] == len(set(train) - found[name]) and "nobody" in card["warnings"][-1]
    assert digests == {path: sha256_file(path) for path in stage.data_root.rglob("*.tar")}  # type: ignore[union-attr]
    assert len(found["held"]) == 10 and not found["held"] & set(train)
    assert found["fewer"] < found["few"] < set(train) and len(found["few"]) == 30
    assert not any(key.endswith("00000-of-00003-000001") for key in found["left"])


def test_an_exclude_list_in_a_file_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone.txt").write_text("# asked for by the photographer\n10002  # his\n")
    pinned = {"path": "gone.txt", "sha256": sha256_file(tmp_path / "gone.txt")}
    shards, _, _ = fetch(tmp_path, mini.card(**PHOTO, exclude_file=pinned, holdout=0))
    assert shards.count == 3 * GOOD - 1 and 10_002 not in shards.column("photo_id")
    (tmp_path / "gone.txt").write_text("10003\n")
    with pytest.raises(StateError, match="another one than the card means"):
        fetch(tmp_path, mini.card(**PHOTO, exclude_file=pinned, holdout=0))


def test_a_damaged_or_other_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = mini.write(tmp_path / "hub")
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"mini-hub": str(copy)}))
    with pytest.raises(StateError, match=r"00000-of-00003\.parquet: parquet file has no such column"):
        fetch(tmp_path / "a", mini.card(columns={"image": "picture"}))
    with pytest.raises(StateError, match="column owner has another type"):
        fetch(tmp_path / "b", mini.card(columns={"text": "owner"}))
    path = copy / "data/train-00001-of-00003.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StateError, match=r"00001-of-00003\.parquet: parquet file is damaged"):
        fetch(tmp_path / "c", mini.card())
    with pytest.raises(RequestError, match="caption"):
        fetch(tmp_path / "d", mini.card(captions="nice"))


_SCRIPT = """
import sys
from pathlib import Path
from pi_repro.data import conversion
from pi_repro.data.yfcc import fetch
from tests.data import mini_yfcc as mini
conversion.processors = lambda: 1
fetch.fetch(mini.card(), mini.MiniStage.below(Path(sys.argv[1])))
"""


def test_killed_at_random_and_gone_on_with(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path / "whole", mini.card())
    home = tmp_path / "cut/site/mini-yfcc"
    draw = random.Random()
    hub.faults.slow = 0.02
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(tmp_path / "cut")], env=os.environ)
    while not list(home.glob("*/.parts/*.json")) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(draw.random() * 0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hub.faults.slow = 0.0
    shutil.rmtree(tmp_path / "cut/out", ignore_errors=True)  # as a job begins
    _, _, stage = fetch(tmp_path / "cut", mini.card())
    for kind in ("out", "site"):
        assert path_digest(tmp_path / "whole" / kind) == path_digest(tmp_path / "cut" / kind)
    assert stage.data_root is not None and not list(stage.data_root.rglob("*.making"))


@pytest.mark.parametrize("seed", range(3))
def test_captions_come_back_as_their_ids(seed: int) -> None:
    """Texts of all kinds, cut anywhere; and rows that are none."""
    draw = random.Random(seed)
    alphabet = [
        "word",
        "don't",
        "é",
        "日本",
        "🎉",
        "!!",
        "12",
        "&amp;",
        "<b>",
        " ",
        "Ünïcödé",
        "x",
        "_",
        "'s",
        "supercali",
    ]
    texts = [
        "".join(draw.choice(alphabet) + draw.choice(["", " "]) for _ in range(draw.randrange(40))) for _ in range(300)
    ]
    tokenize = SimpleTokenizer(context_length=16)
    rows = [row.numpy() for row in tokenize(texts)]
    found = Reader(16).read(rows)
    assert all(isinstance(caption, Caption) for caption in found)
    exact = [caption for caption in found if isinstance(caption, Caption) and caption.exact]
    assert np.array_equal(
        tokenize([caption.text for caption in exact]).numpy(),
        np.stack(
            [row for row, caption in zip(rows, found, strict=True) if isinstance(caption, Caption) and caption.exact]
        ),
    )
    # What is left over was cut where no text ends so.
    rest = [caption.text for caption in found if isinstance(caption, Caption) and not caption.exact]
    assert len(rest) <= 0.01 * len(found), rest


def test_rows_of_several_captions_and_rows_that_are_none() -> None:
    pair = np.array([*mini.ids_of("first one"), *mini.ids_of("second one")])
    assert [Reader(77, segment).read([pair])[0] for segment in (0, 1)] == [
        Caption("first one", True),
        Caption("second one", True),
    ]
    assert Reader(77).segments(pair) == ["first one", "second one"]
    short = np.array([49406, 1929, 49407])
    assert Reader(77).read(
        [short, None, short[1:], np.array([49406, 5, 49407, 7]), np.array([49406, 60000, 49407])]
    ) == [
        Caption("dog", True),
        "no token ids",
        "token ids without start or end",
        "token ids that are no caption of this tokenizer",
        "token ids that are no caption of this tokenizer",
    ]
    assert Reader(77, 2).read([pair]) == ["154 token ids, and segment 2 is to be read"]
