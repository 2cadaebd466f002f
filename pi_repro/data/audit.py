"""Every shard against the index: reads all of it, goes on after a damaged one, and names each.

Rule: `Shards.verify` stops at the first; whoever has a terabyte to mend wants the whole list at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from pi_repro.data.shards import Shard, Shards
from pi_repro.errors import StateError

#: Called with bytes read so far, bytes in all, and the shard that was read last.
Watch = Callable[[int, int, str], None]

_CHUNK = 1 << 22
_READERS = 8  # reading and hashing both let other threads go on; more than a disk or a network share serves


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Audit:
    """What the indexes name, and what is wrong with it."""

    shards: int
    samples: int
    bytes: int
    damaged: tuple[Damage, ...]


def audit(sets: Mapping[str, Path], data_root: Path | None, watch: Watch) -> Audit:
    """Compare the shards of some sets with their indexes.

    Args:
        sets: name -> folder with index.json.
        data_root: where shards lie that are not in the set's folder.
        watch: told how far it is.
    """
    shards: dict[Path, Shard] = {}
    damaged: list[Damage] = []
    samples = 0
    for folder in sets.values():
        try:
            found = Shards.open(folder, data_root)
        except StateError as error:
            damaged.append(Damage(error.where or str(folder), _words(error)))
            continue
        samples += found.count
        shards |= {shard.path: shard for shard in found.shards}
        found.close()
    size = sum(shard.bytes for shard in shards.values())
    read = 0
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        try:
            for shard, problem in pool.map(_look, shards.values()):
                read += shard.bytes
                watch(read, size, shard.name)
                if problem:
                    damaged.append(Damage(str(shard.path), problem))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Audit(len(shards), samples, size, tuple(damaged))


def _look(shard: Shard) -> tuple[Shard, str]:
    """A shard, and what is wrong with it."""
    try:
        with shard.path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) != shard.bytes:
                return shard, f"{size:,} bytes, where the index says {shard.bytes:,}"
            digest = sha256()
            for part in _parts(partial(file.read, _CHUNK)):
                digest.update(part)
    except FileNotFoundError:
        return shard, "is missing"
    except OSError as error:
        return shard, f"cannot be read: {error.strerror}"
    return shard, "" if digest.hexdigest() == shard.sha256 else "its sha256 differs from the index"


def _parts(read: Callable[[], bytes]) -> Iterator[bytes]:
    return iter(read, b"")


def _words(error: StateError) -> str:
    return error.problem + (f" ({error.given})" if error.given else "")
