"""What scratch and store hold that nothing needs any more, and its removal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import PireproError

from .lease import Lease
from .places import Places
from .store import Store


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, why, and its size in bytes."""

    path: Path
    reason: str
    bytes: int


def garbage(places: Places, needed: Iterable[str]) -> list[Garbage]:
    """Scratch of no running job and of no needed stage, and published outputs that no enabled spec asks for."""
    wanted = set(needed)
    found: list[Garbage] = []
    for folder in sorted(places.scratch.iterdir()) if places.scratch.is_dir() else []:
        if Lease(folder / "lease.json").holder() is not None:
            continue
        published = (places.store / folder.name / "manifest.json").is_file()
        if published or folder.name not in wanted:
            found.append(
                Garbage(folder, "scratch, published" if published else "scratch, not asked for", folder_size(folder))
            )
    for name in Store(places.store).entries():
        if name not in wanted:
            found.append(Garbage(places.store / name, "published, not asked for", folder_size(places.store / name)))
    for folder in (places.store / ".incoming", places.store / ".aside"):
        if folder.is_dir() and any(folder.iterdir()):
            found.append(Garbage(folder, "a publication that was cut off", folder_size(folder)))
    return found


def damaged(places: Places) -> list[Garbage]:
    """Published outputs whose bytes differ from their manifest. Reads the whole store."""
    store, found = Store(places.store), []
    for name in store.entries():
        folder = places.store / name
        try:
            entry = store.get(name)
            if entry is None:
                found.append(Garbage(folder, "incomplete", folder_size(folder)))
            else:
                entry.check(name[:16])
        except PireproError as error:
            found.append(Garbage(folder, f"damaged: {error.where}", folder_size(folder)))
    return found


def remove(items: Iterable[Garbage]) -> int:
    """Remove folders; returns the bytes freed."""
    freed = 0
    for item in items:
        shutil.rmtree(item.path)
        freed += item.bytes
    return freed


def folder_size(path: Path) -> int:
    """Bytes below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
