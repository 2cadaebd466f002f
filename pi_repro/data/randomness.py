"""Randomness by counter: every draw is a function of its key and of nothing that happened before.

Rule: no generator is shared or carried along. A key names its purpose first ("order", "augment")
so that two uses with equal numbers never see the same stream.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _bits(key: tuple[int | str, ...]) -> np.random.Philox:
    # repr tells 1 from "1" and takes integers of any size; sha256 makes near keys unrelated.
    text = ",".join(repr(part if isinstance(part, str) else int(part)) for part in key)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8"))


def generator(*key: int | str) -> np.random.Generator:
    """A Philox generator keyed by integers and names, such as ("augment", seed, epoch, sample id)."""
    return np.random.Generator(_bits(key))


def raw(n: int, *key: int | str) -> np.ndarray:
    """Philox's raw stream by key, uint64 [n], which numpy keeps stable from release to release."""
    return _bits(key).random_raw(n)


def permutation(n: int, *key: int | str) -> np.ndarray:
    """A keyed permutation of 0..n-1, int64 [n].

    Only Philox's raw stream is used, which numpy keeps stable from release to release; its own
    `permutation` carries no such promise.
    """
    return np.argsort(raw(n, *key), kind="stable")


def some(n: int, count: int, *key: int | str) -> np.ndarray:
    """`count` different numbers of 0..n-1 in the order in which they were drawn, int64; all n where there are fewer."""
    if count >= n:
        return permutation(n, *key)
    bits, found = _bits(key), np.empty(0, dtype=np.int64)
    while len(found) < count:
        more = (bits.random_raw(2 * count) % np.uint64(n)).astype(np.int64)
        found = np.concatenate([found, more])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return found[:count]
