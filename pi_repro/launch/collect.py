"""What scratch and store hold that nothing needs any more, and its removal.

Rule: others may share both folders. Of scratch only what a job.json says to be this workspace's can go, and never
where a process works or a job waits. A store outside the workspace is left alone unless a person says otherwise:
what no spec of this clone asks for, another clone's may.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import PireproError, StateError

from . import owned
from .owned import Owned
from .places import Places
from .store import Store

#: Asks a cluster about fingerprints: what it says of those that have a live job; None when it does not answer.
View = Callable[[Iterable[str]], Mapping[str, str] | None]
#: Seconds after its last change at which a publication counts as cut off; copies and their hashes take minutes.
_QUIET_S = 3600.0


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, why, and its size in bytes."""

    path: Path
    reason: str
    bytes: int


def garbage(places: Places, needed: Iterable[str], view: View | None = None, *, shared: bool = False) -> list[Garbage]:
    """Scratch of no live job and of no needed stage, and published outputs that no enabled spec asks for.

    Args:
        places: the folders.
        needed: fingerprints that are asked for.
        view: what SLURM says of jobs; None where no cluster is known.
        shared: look into a store outside the workspace, too.

    Raises:
        StateError: a folder's job may wait in SLURM, and SLURM can't be asked.
    """
    wanted, found = set(needed), list[Garbage]()
    mine = owned.jobs([places.scratch], places.workspace)
    busy = {job.fingerprint for job in mine if job.lease.holder() is not None}
    busy |= _queued([job for job in mine if job.submitted], view)
    for job in mine:
        published = (places.store / job.fingerprint / "manifest.json").is_file()
        if job.fingerprint not in busy and (published or job.fingerprint not in wanted):
            found.append(_garbage(job.folder, "scratch, published" if published else "scratch, not asked for"))
    for rerun in owned.verifications(places.scratch, places.workspace):
        if rerun.lease.holder() is None:
            found.append(_garbage(rerun.folder, "scratch, of a verification"))
    if not shared and not is_own(places):
        return found
    for name in _entries(places):
        if name not in wanted:
            found.append(_garbage(places.store / name, "published, not asked for"))
    return found + _cut_off(places, busy)


def is_own(places: Places) -> bool:
    """Whether the store lies in the workspace, so that nobody else's results are in it."""
    return places.store.resolve().is_relative_to(places.state.resolve())


def _queued(submitted: list[Owned], view: View | None) -> set[str]:
    """Fingerprints that have a live job.

    Raises:
        StateError: nobody can say.
    """
    if not submitted:
        return set()
    live = view([job.fingerprint for job in submitted]) if view else None
    if live is None:
        raise StateError(
            "SLURM does not answer, so jobs that wait for their folders in scratch can't be told from others"
            if view
            else "stages of this workspace were submitted to a cluster, and it is not known which",
            where=str(submitted[0].folder.parent),
            todo="try again, on a login node" if view else "pirepro gc --site NAME",
        )
    return set(live)


def _cut_off(places: Places, busy: Collection[str]) -> list[Garbage]:
    """What publications and forced runs left behind; nobody's that may still go on."""
    found = []
    for folder in (places.store / ".incoming", places.store / ".aside"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            # .incoming holds the first digits and a random part, .aside the fingerprint.
            mine = any(fingerprint.startswith(path.name.partition("-")[0]) for fingerprint in busy)
            if path.is_dir() and not mine and time.time() - _changed(path) > _QUIET_S:
                found.append(_garbage(path, "a publication that was cut off"))
    return found


def _changed(folder: Path) -> float:
    """When anything in a folder was last written or moved there; a copy's own times may be its original's."""
    moments = [folder.stat().st_ctime]
    for path in folder.rglob("*"):
        try:
            moments.append(path.stat().st_ctime)
        except FileNotFoundError:
            return time.time()  # it is being published right now
    return max(moments)


def damaged(places: Places) -> list[Garbage]:
    """Published outputs whose bytes differ from their manifest. Reads the whole store."""
    store, found = Store(places.store), []
    for name in _entries(places):
        folder = places.store / name
        try:
            entry = store.get(name)
            if entry is None:
                found.append(_garbage(folder, "incomplete"))
            else:
                entry.check(name[:16])
        except PireproError as error:
            found.append(_garbage(folder, f"damaged: {error.where}"))
        except (KeyError, TypeError):  # whole JSON, but no manifest
            found.append(_garbage(folder, f"damaged: {folder / 'manifest.json'}"))
    return found


def _entries(places: Places) -> list[str]:
    """What was published; a store's folder may hold things of other origin."""
    names = Store(places.store).entries()
    return [name for name in names if owned.FINGERPRINT.fullmatch(name) and (places.store / name).is_dir()]


def remove(items: Iterable[Garbage]) -> int:
    """Remove folders; returns the bytes freed.

    Raises:
        StateError: the system does not let one go; those before it are gone.
    """
    freed = 0
    for item in items:
        try:
            shutil.rmtree(item.path)
        except OSError as error:
            raise StateError(
                "the folder could not be removed whole",
                where=str(item.path),
                given=error.strerror,
                todo="look whose it is, then run again",
            ) from None
        freed += item.bytes
    return freed


def _garbage(folder: Path, reason: str) -> Garbage:
    return Garbage(folder, reason, folder_size(folder))


def folder_size(path: Path) -> int:
    """Bytes below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
