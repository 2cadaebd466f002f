"""Sharding of a hub's parquet file, against copying its bytes and decoding its images once; and memory as data grows.

    python -m tests.benchmarks sharding

Rule: both do what they do on one core, in turns, by the process's own time; both read the same file, write as many
bytes, see them safe on disk (fsync) and decode every image by the same decoder. Ours also writes tars, sha256,
captions that were read and checked, and perceptual hashes. Parts share nothing: what holds for one core holds for more.
Memory: the most that a process ever held that fetched a dataset from a local copy, index and card included.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.data import mini_yfcc

from .rows import Row, row
from .workers import PINNED, ROOT, Worker, race, ratio, serve

_MODULE = "tests.benchmarks.sharding"
_PHOTOS, _ROWS, _ROUNDS = 60, 600, 7
#: Pairs of a small file and the size of their images: more pairs than a page of a parquet file holds, which is what a
#: reader must have in memory.
_SMALL, _SIZE = 1500, (160, 120)
_CARD = functools.partial(mini_yfcc.card, "photos", holdout=5, failures_allowed=0.0)


def measure() -> list[Row]:
    """Pairs a second of both, and peak memory of three datasets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "one" / "a.parquet", _photos(), _ROWS)
        workers = {
            side: Worker(_MODULE, [side, str(folder / "one" / "a.parquet"), str(folder / side)], PINNED)
            for side in ("shard", "copy")
        }
        times = race(workers, _ROUNDS)
        ours, theirs = (_ROWS / statistics.median(times[side]) for side in ("shard", "copy"))
        what = "sharding a parquet file, one core, against copying it and decoding its images"
        rows = [row(what, ours, theirs, "pairs/s", ">= 0.8", better="more", ratio=ratio(times["copy"], times["shard"]))]
        shutil.rmtree(folder / "one")
        files = _photos(_SIZE)
        for number in range(10):
            _write(folder / "ten" / f"{number}.parquet", files, _SMALL)
        _write(folder / "small" / "0.parquet", files, _SMALL)
        _write(folder / "long" / "0.parquet", files, 10 * _SMALL)
        least = _peak(folder / "small", folder)
        for data, words in (("ten", "10 times the files"), ("long", "a file 10 times as long, in one row group")):
            what = f"peak memory of a fetch: {words}, against one file of {_SMALL} pairs"
            rows.append(row(what, _peak(folder / data, folder), least, "MB", ">= 0.9"))
        return rows


def _photos(size: tuple[int, int] = (500, 375)) -> list[bytes]:
    from . import photos

    return [photos.jpeg_file(photos.picture(number, *size)) for number in range(_PHOTOS)]


def _write(path: Path, files: list[bytes], count: int) -> None:
    """A parquet file in one row group, photos and captions by turns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    captions = [mini_yfcc.ids_of(f"photo {number} of a thing at noon, in front of others") for number in range(_PHOTOS)]
    path.parent.mkdir(exist_ok=True)
    fields = [("images", pa.binary()), ("texts", pa.list_(pa.int32()))]
    with pq.ParquetWriter(path, pa.schema(fields), compression="none", use_dictionary=False) as writer:
        table = pa.table(
            [
                pa.array([values[number % _PHOTOS] for number in range(count)], kind)
                for values, (_, kind) in zip((files, captions), fields, strict=True)
            ],
            schema=pa.schema(fields),
        )
        writer.write_table(table, row_group_size=count)


def _peak(data: Path, folder: Path) -> float:
    """MB that a fetch of these files held at most."""
    work = folder / f"fetched-{data.name}"
    environment = {**PINNED, "PIREPRO_FROM": json.dumps({"mini-hub": str(data)})}
    command = [sys.executable, "-m", _MODULE, "fetch", str(data), str(work)]
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(work)
    return float(said.splitlines()[-1])


def _shard(source: Path, work: Path) -> None:
    from pi_repro.data.conversion import Task
    from pi_repro.data.sources.origin import Obtained, RemoteFile, Watch
    from pi_repro.data.yfcc.pairs import Job, convert_file
    from pi_repro.data.yfcc.settings import ColumnNames

    def obtain(_file: RemoteFile, target: Path, _watch: Watch) -> Obtained:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
        return Obtained(target, source.stat().st_size, "0" * 64)

    shutil.rmtree(work, ignore_errors=True)
    origin: Any = SimpleNamespace(obtain=obtain)
    job = Job(origin, RemoteFile(source.name), ColumnNames(), 77, 0, None)
    convert_file(Task(work, "a", "0", job), Watch())


def _copy(source: Path, work: Path) -> None:
    import pyarrow.parquet as pq

    from pi_repro.data import jpeg

    with source.open("rb") as old, work.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
    with pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(64, columns=["images"], use_threads=False):
            for image in batch.column(0).to_pylist():
                if jpeg.decode(image) is None:
                    raise RuntimeError("the photo is no plain JPEG file")


def _fetch(data: Path, work: Path) -> None:
    from pi_repro.data import conversion
    from pi_repro.data.yfcc import fetch

    conversion.processors = lambda: 1
    fetch.fetch(_CARD(), mini_yfcc.MiniStage.below(work))  # type: ignore[arg-type]
    # Not getrusage's, which a process inherits from the one that started it.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) * 1024 / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("shard", "copy", "fetch"))
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    if given.side == "fetch":
        _fetch(given.source, given.work)
    else:
        import torch

        torch.set_num_threads(1)
        serve(functools.partial(_shard if given.side == "shard" else _copy, given.source, given.work))
