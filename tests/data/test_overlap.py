"""Near-duplicates: no pair is missed or given twice, memory is bounded, figures don't depend on the list's length."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pi_repro.data import fingerprints, hamming, overlap
from pi_repro.data.fingerprints import distance
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.errors import Interrupted, RequestError


def clustered(rng: np.random.Generator, count: int, centres: np.ndarray) -> np.ndarray:
    """Hashes some bits away from a few centres, so that every small distance occurs."""
    found = centres[rng.integers(0, len(centres), count)]
    for _ in range(6):
        turned = found ^ (np.int64(1) << rng.integers(0, 64, count))
        found = np.where(rng.random(count) < 0.5, turned, found)
    return found


@pytest.mark.parametrize("within", [0, 1, 2, 3, 4, 5, 8, 12])
def test_near_pairs_are_those_of_comparing_all(within: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and steps, and a hash that fills several steps alone, so that every border is crossed."""
    monkeypatch.setattr(hamming, "BLOCK", 700)
    monkeypatch.setattr(hamming, "STEP", 500)
    rng = np.random.default_rng(within)
    centres = rng.integers(-(2**63), 2**63, 60, dtype=np.int64)
    left, right = clustered(rng, 2_000, centres), clustered(rng, 300, centres)
    left[:900], right[:3] = left[5], left[5]
    apart = distance(left[:, None], right[None])
    expected = {(int(a), int(b), int(apart[a, b])) for a, b in zip(*np.nonzero(apart <= within), strict=True)}
    found = [
        row
        for pairs in hamming.near(left, right, within)
        for row in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.bits.tolist(), strict=True)
    ]
    assert len(found) == len(set(found)) and set(found) == expected and len(expected) >= 2_700


def test_nothing_is_near_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert not list(hamming.near(none, none, 4)) and not list(hamming.near(none, np.ones(3, np.int64), 4))
    with pytest.raises(ValueError, match="bits"):
        list(hamming.near(none, none, hamming.MOST + 1))


@pytest.mark.full
def test_a_large_search_is_exact_and_small_in_memory() -> None:
    """1M x 20k with planted pairs: all of them, and the process stays under 400 MB."""
    code = (
        "import numpy as np, re, pathlib\n"
        "from pi_repro.data.hamming import near\n"
        "rng = np.random.default_rng(0)\n"
        "left = rng.integers(-2**63, 2**63, 1_000_000, dtype=np.int64)\n"
        "right = rng.integers(-2**63, 2**63, 20_000, dtype=np.int64)\n"
        "right[:1000] = left[::1000] ^ (np.int64(1) << np.arange(1000) % 63) ^ (np.int64(1) << np.arange(1000) % 31)\n"
        "found = sum(int((pairs.right < 1000).sum()) for pairs in near(left, right, 4))\n"
        # Not getrusage's, which a process inherits from the one that started it.
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(found, int(peak) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, peak = map(int, done.stdout.split())
    assert found == 1000 and peak < 400


def picture(seed: int, size: int = 96) -> Image.Image:
    """Soft coloured noise, unlike for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def sets(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Sixty pairs, whose index has hashes and photo ids; two evaluation sets with five near-duplicates among them."""
    with ShardWriter(tmp_path / "train", "train", "pairs", shard_size=25) as writer:
        for number in range(60):
            content = encoded(picture(number)) if number else encoded(Image.new("RGB", (64, 64), "white"))
            extra = {"phash": fingerprints.phash_of(content), "photo_id": 7_000_000_000 + number}
            writer.add(f"p{number}", {"jpg": content, "txt": b"."}, extra)
    judged = {"a": [1, 2, 3, 101, 102], "b": [50, 59, 103]}
    for name, seeds in judged.items():
        with ShardWriter(tmp_path / name, name, "classification", layout="suite") as writer:
            for seed in seeds:
                smaller = encoded(picture(seed).resize((72, 72), Image.Resampling.LANCZOS), quality=70)
                writer.add(f"e{seed}", {"jpg": smaller, "cls": b"0"}, {"label": 0})
            writer.add("blank", {"png": encoded(Image.new("RGB", (30, 30)), "PNG"), "cls": b"0"}, {"label": 0})
            writer.add("bad", {"jpg": b"no image", "cls": b"0"}, {"label": 0})
    return {"train": tmp_path / "train"}, {name: tmp_path / name for name in judged}


def test_evaluation_images_in_the_training_set_are_found(
    sets: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, quiet = overlap.Options(threads=2), overlap.Watch()
    ours = overlap.side("train", sets[0], None, tmp_path / "cache", options, quiet)
    theirs = overlap.side("suite", sets[1], None, tmp_path / "cache", options, quiet)
    summary = overlap.compare(ours, theirs, tmp_path / "out", options)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["pairs"] == summary["listed"] == sum(summary["pairs_by_bits"]) == 5
    assert [row["near_duplicates"] for row in summary["right"]["sets"]] == [3, 2]
    assert [(row["without_structure"], row["undecodable"]) for row in summary["right"]["sets"]] == [(1, 1), (1, 1)]
    assert summary["left"]["sets"][0]["without_structure"] == 1 and summary["left"]["near_duplicates"] == 5
    rows = [line.split("\t") for line in (tmp_path / "out" / "pairs.tsv").read_text().splitlines()]
    assert [(row[1], row[3], row[6], row[7]) for row in rows[1:]] == [
        ("a", "e1", "p1", "7000000001"),
        ("a", "e2", "p2", "7000000002"),
        ("a", "e3", "p3", "7000000003"),
        ("b", "e50", "p50", "7000000050"),
        ("b", "e59", "p59", "7000000059"),
    ]
    with Image.open(tmp_path / "out" / "pairs.png") as page:
        assert page.size[0] > 1000
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def no_more(content: bytes) -> int:
        raise AssertionError("a kept hash was computed again")

    monkeypatch.setattr(fingerprints, "phash_of", no_more)
    again = overlap.side("suite", sets[1], None, tmp_path / "cache", options, quiet)
    overlap.compare(ours, again, tmp_path / "out", options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first

    short = overlap.compare(ours, again, tmp_path / "short", overlap.Options(listed=2, pictures=0))
    assert short["listed"] == 2 and short["pairs"] == 5 and not (tmp_path / "short" / "pairs.png").exists()


def test_triplets_are_compared_by_every_image(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "t", "t", "triplets") as writer:
        for number in range(4):
            members = {f"{name}.png": encoded(picture(3 * number + at), "PNG") for at, name in enumerate("abc")}
            renamed = dict(zip(("ref.png", "left.png", "right.png"), members.values(), strict=True))
            writer.add(f"t{number}", renamed, {"label": 0, "split": 0, "votes": 6})
    quiet, options = overlap.Watch(), overlap.Options(threads=1)
    same = overlap.side("t", {"t": tmp_path / "t"}, None, tmp_path / "cache", options, quiet)
    assert [part.name for part in same.parts] == ["t, ref", "t, left", "t, right"]
    assert overlap.compare(same, same, tmp_path / "out", options)["pairs_by_bits"] == [12, 0, 0, 0, 0]


def test_stopping_and_wrong_requests(sets: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path) -> None:
    stop = overlap.Watch(should_stop=lambda: True)
    with pytest.raises(Interrupted):
        overlap.side("suite", sets[1], None, tmp_path / "cache", overlap.Options(), stop)
    with pytest.raises(RequestError, match="no such distance"):
        overlap.Options(within=40)
