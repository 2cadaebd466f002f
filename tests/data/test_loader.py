"""The loader: the same bits for any workers, prefetch and start; no sample lost; no process left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pi_repro.data import loader
from pi_repro.data.loader import Batch, PairSource, Sample, micro_batches
from pi_repro.data.order import Order, steps_per_epoch
from pi_repro.data.randomness import generator
from pi_repro.data.shards import Shards
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.data.workers import next_batch
from pi_repro.errors import RequestError, StateError
from pi_repro.spec.training import Augmentation

#: Three workers on two cores are meant.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CENTER = Augmentation(kind="center_crop")
CROP = Augmentation(kind="random_resized_crop", scale=(0.3, 0.9))
MOCO = Augmentation(kind="mocov2", scale=(0.2, 1.0))
COUNT, UPDATE, MICRO = 29, 8, 4


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text), *text.encode()[:6].ljust(6)] for text in texts])


def write(folder: Path, damaged: int | None = None) -> Path:
    with ShardWriter(folder, "small", "pairs", shard_size=5) as writer:
        for row in range(COUNT):
            file = io.BytesIO()
            pixels = generator("pixels", row).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            form = "JPEG" if row % 3 == 1 else "PNG"
            Image.fromarray(pixels).save(file, form)
            content = file.getvalue()[: 300 if row == damaged else None]
            writer.add(
                f"k{row:04d}", {"jpg" if form == "JPEG" else "png": content, "txt": f"{row % 7} things".encode()}
            )
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards.open(write(tmp_path))


def schedule(order: Order, start: int, stop: int) -> Iterator[list[Sample]]:
    for update in range(start, stop):
        epoch, rows = order.update(update, UPDATE)
        for part in rows.reshape(-1, MICRO):
            yield [(epoch, int(row)) for row in part]


def run(source: PairSource, start: int = 0, stop: int = 7, workers: int = 0, prefetch: int = 2) -> list[Batch]:
    return list(micro_batches(source, schedule(source.order(2), start, stop), workers, prefetch))


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(ours, theirs, strict=True)
    )


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


#: Processes that earlier tests left to this one, as multiprocessing's tracker of what spawned ones share.
_STRANGERS: list[int] = []


@pytest.fixture(autouse=True)
def _strangers() -> None:
    _STRANGERS[:] = children(os.getpid())


def workers_here() -> list[int]:
    return [pid for pid in children(os.getpid()) if pid not in _STRANGERS]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.parametrize("augmentation", [CENTER, CROP, MOCO], ids=lambda a: a.kind)
def test_same_bits_for_any_workers_and_prefetch(shards: Shards, augmentation: Augmentation) -> None:
    def source() -> PairSource:
        return PairSource(shards, augmentation, 16, tokenize, seed=3)

    here = run(source())
    assert here[0]["image"].shape == (MICRO, 3, 16, 16)
    assert here[0]["image"].dtype == torch.uint8
    assert here[0]["text"].dtype == torch.int64
    for workers, prefetch in [(1, 1), (3, 1), (3, 5)]:
        torch.manual_seed(workers)
        np.random.seed(workers)
        assert same(run(source(), workers=workers, prefetch=prefetch), here)


@pytest.mark.parametrize(
    ("room", "workers", "ahead"), [(1, 1, 1), (2.5, 2, 1), (7, 3, 2), (100, 3, 4)], ids=["1", "2.5", "7", "all"]
)
def test_bytes_in_flight_are_bounded(
    shards: Shards, room: float, workers: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PairSource(shards, CROP, 16, tokenize, seed=3)
    here = run(source)
    one = source.batch_bytes(MICRO)
    assert one == sum(tensor.nbytes for tensor in here[0].values())
    asked: list[tuple[int, int]] = []

    def loading(*args: Any, **options: Any) -> Any:
        asked.append((options["num_workers"], options["prefetch_factor"]))
        return DataLoader(*args, **options)

    monkeypatch.setattr(loader, "DataLoader", loading)
    steps = schedule(source.order(2), 0, 7)
    assert same(list(micro_batches(source, steps, 3, 4, bytes_limit=int(room * one))), here)
    assert asked == [(workers, ahead)]


def test_an_empty_schedule_ends(shards: Shards) -> None:
    source = PairSource(shards, CROP, 16, tokenize, seed=3)
    assert [list(micro_batches(source, [], workers, 1)) for workers in (0, 1)] == [[], []]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_say_the_same(shards: Shards, workers: int) -> None:
    source = PairSource(shards, CROP, 16, tokenize, seed=3)
    pinned = list(micro_batches(source, schedule(source.order(2), 0, 3), workers, 2, pin=True))
    assert all(tensor.is_pinned() for batch in pinned for tensor in batch.values())
    assert same(pinned, run(source, stop=3))


def test_resuming_equals_going_on(shards: Shards) -> None:
    whole = run(PairSource(shards, MOCO, 16, tokenize, seed=3))
    per_update = UPDATE // MICRO
    for start in (1, 2, 3, 5):  # inside epochs 0 and 1, and between them
        resumed = run(PairSource(shards, MOCO, 16, tokenize, seed=3), start=start, workers=start % 2)
        assert same(resumed, whole[start * per_update :])


def test_every_sample_once_an_epoch(shards: Shards) -> None:
    order = PairSource(shards, CENTER, 16, tokenize, seed=3).order(2)
    steps = steps_per_epoch(COUNT, UPDATE)
    left_out = []
    for epoch in range(6):
        samples = [s for part in schedule(order, epoch * steps, (epoch + 1) * steps) for s in part]
        rows = {row for _, row in samples}
        assert {e for e, _ in samples} == {epoch}
        assert len(rows) == len(samples) == steps * UPDATE
        left_out.append(frozenset(range(COUNT)) - rows)
    assert all(len(rest) == COUNT - steps * UPDATE for rest in left_out)
    assert any(a != b for a, b in pairwise(left_out))
    assert sorted(order.rows(0, 0, COUNT)) == list(range(COUNT))


def test_random_transforms_change_from_epoch_to_epoch_and_seed_to_seed(shards: Shards) -> None:
    source = PairSource(shards, CROP, 16, tokenize, seed=3)
    first = source[0, 4]["image"]
    assert not torch.equal(first, source[1, 4]["image"])
    assert not torch.equal(first, PairSource(shards, CROP, 16, tokenize, seed=4)[0, 4]["image"])
    assert torch.equal(first, source.batch([(0, 9), (0, 4)])["image"][1])


def test_torchs_global_generator_is_left_alone(shards: Shards) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run(PairSource(shards, MOCO, 16, tokenize, seed=3), stop=1, workers=2)
    assert torch.equal(torch.rand(3), expected)


def test_images_are_decoded_once_and_captions_tokenized_once(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[str, int]] = []
    texts: list[str] = []
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda s, member, row: reads.append((member, row)) or read(s, member, row))

    def counting(batch: list[str]) -> torch.Tensor:
        texts.extend(batch)
        return tokenize(batch)

    source = PairSource(shards, CENTER, 16, counting, seed=3)
    batches = run(source, stop=20)
    images = [row for member, row in reads if member == "image"]
    assert len(images) == len(set(images))
    assert len(texts) == len(set(texts)) == 7
    order = source.order(2)
    for batch, part in zip(batches, schedule(order, 0, 20), strict=True):
        assert torch.equal(batch["text"], tokenize([f"{row % 7} things" for _, row in part]))
    # What is kept cannot be spoilt by whoever trains on it.
    first = source[0, 0]["image"]
    source[0, 0]["image"].zero_()
    assert torch.equal(source[0, 0]["image"], first)


def test_cache_is_bounded_and_divided_among_workers(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(PairSource(shards, CENTER, 16, tokenize, seed=3))
    monkeypatch.setattr(loader, "CACHE_BYTES", 5 * 3 * 16 * 16)
    monkeypatch.setattr(loader, "_CACHED_CAPTIONS", 3)
    source = PairSource(shards, CENTER, 16, tokenize, seed=3)
    assert same(run(source), expected)
    assert len(source._images._kept) == 5
    assert len(source._tokens) <= 3
    divided = PairSource(shards, CENTER, 16, tokenize, seed=3)
    divided.divide_caches(2)
    assert same(run(divided), expected)
    assert len(divided._images._kept) == 2


def test_open_clips_tokenizer_fits(shards: Shards) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    batch = PairSource(shards, CENTER, 16, tokenizer, seed=3).batch([(0, 0), (0, 8)])
    assert torch.equal(batch["text"], tokenizer(["0 things", "1 things"]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augmentation", [CENTER, MOCO], ids=lambda a: a.kind)
def test_undecodable_sample_is_named(tmp_path: Path, workers: int, augmentation: Augmentation) -> None:
    source = PairSource(Shards.open(write(tmp_path, damaged=12)), augmentation, 16, tokenize, seed=3)
    with pytest.raises(StateError) as caught:
        run(source, stop=6, workers=workers)
    message = str(caught.value)
    assert "shards/00002.tar, key k0012 (row 12): image cannot be decoded" in message
    assert "Traceback" not in message
    assert gone(workers_here())


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_shard_is_named(tmp_path: Path, workers: int) -> None:
    shards = Shards.open(write(tmp_path))
    (tmp_path / "shards/00003.tar").unlink()
    with pytest.raises(StateError, match=r"00003\.tar: shard is missing"):
        run(PairSource(shards, CENTER, 16, tokenize, seed=3), workers=workers)


def test_caption_that_is_no_text_is_named(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "small", "pairs") as writer:
        writer.add("bad", {"png": b"", "txt": b"\xff\xfe"})
    source = PairSource(Shards.open(tmp_path), CENTER, 16, tokenize, seed=0)
    with pytest.raises(StateError, match=r"key bad \(row 0\): caption is not UTF-8"):
        source._text([0])


def test_triplets_are_no_pairs(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "t", "triplets") as writer:
        writer.add("k", {"ref.png": b""})
    with pytest.raises(RequestError, match="holds no pairs"):
        PairSource(Shards.open(tmp_path), CENTER, 16, tokenize, seed=0)


def test_closing_ends_the_workers(shards: Shards) -> None:
    source = PairSource(shards, MOCO, 16, tokenize, seed=3)
    batches = micro_batches(source, schedule(source.order(2), 0, 10**9), 2, 2)
    assert len(list(islice(batches, 3))) == 3
    workers = workers_here()
    assert len(workers) == 2
    batches.close()
    assert gone(workers)


def test_a_killed_worker_is_reported(shards: Shards) -> None:
    source = PairSource(shards, MOCO, 16, tokenize, seed=3)
    batches = micro_batches(source, schedule(source.order(2), 0, 10**9), 2, 1)
    next(batches)
    with pytest.raises(StateError, match="loader process was killed"):
        os.kill(workers_here()[0], signal.SIGKILL)
        for _ in range(100):
            next(batches)


def test_a_worker_killed_between_batches_is_reported_at_once_and_the_other_ends(shards: Shards) -> None:
    source = PairSource(shards, MOCO, 16, tokenize, seed=3)
    batches = micro_batches(source, schedule(source.order(2), 0, 10**9), 2, 1)
    next(batches)
    workers = workers_here()
    with pytest.raises(StateError, match="loader process was killed"):
        os.kill(workers[0], signal.SIGKILL)
        time.sleep(10)
    batches.close()
    assert gone(workers)


@pytest.mark.parametrize("lost", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_killed_while_it_hands_a_batch_over_is_reported_alike(lost: Exception) -> None:
    def batches() -> Iterator[Any]:
        raise lost
        yield

    found = next_batch(batches())
    assert isinstance(found, StateError) and "loader process was killed" in str(found)


PARENT = """
import os, signal, sys, time, warnings
warnings.filterwarnings("ignore", "This DataLoader will create")
from pathlib import Path
import torch
torch.set_num_threads(1)
from pi_repro.data.loader import PairSource, micro_batches
from pi_repro.data.shards import Shards
from pi_repro.spec.training import Augmentation

signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
source = PairSource(Shards.open(Path(sys.argv[1])), Augmentation(kind="center_crop"), 16,
                    lambda texts: torch.zeros(len(texts), 7, dtype=torch.int64), 0)
def endless():
    while True:
        yield [(0, 0), (0, 1)]
batches = micro_batches(source, endless(), 3, 4)
next(batches)
print("ready", flush=True)
while True:
    next(batches)
    time.sleep(0.01)
"""


def start(script: str, shards: Shards) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(shards.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(loader.__file__).parents[2])},
        start_new_session=True,
    )


def test_workers_live_as_long_as_their_parent(shards: Shards) -> None:
    """Not shorter, when a signal to the group lets the parent save its state, and not longer, when it is killed."""
    with start(PARENT, shards) as training:
        try:
            assert training.stdout is not None
            assert training.stdout.readline() == "ready\n"
            workers = children(training.pid)
            assert len(workers) == 3
            os.killpg(training.pid, signal.SIGTERM)
            assert training.stdout.readline() == "asked to stop\n"
            time.sleep(0.3)
            assert training.poll() is None
            assert children(training.pid) == workers
        finally:
            training.kill()
        training.wait()
        assert gone(workers, seconds=3)


def test_an_iterator_left_open_does_not_keep_the_process(shards: Shards) -> None:
    with start(PARENT.split("while True:\n    next")[0], shards) as training:
        try:
            output = training.communicate(timeout=120)[0]
        finally:
            training.kill()
    assert (output, training.returncode) == ("ready\n", 0)
