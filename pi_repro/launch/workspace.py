"""The workspace shows what the store holds: published outputs copied to the paths of dvc.yaml.

A copy costs disk, but a file changed here by accident never reaches the store. A small record of
sizes and times says that a copy is still untouched, so a no-op run reads no data.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import files_under, read_json, write_json
from pi_repro.plan.graph import Stage

from . import manifest as manifests
from .places import Places
from .store import Published, Store


def provenance_path(places: Places, stage: Stage) -> Path:
    """The git-tracked provenance of a stage."""
    return places.workspace / "provenance" / f"{stage.name}.json"


def show(stage: Stage, published: Published, places: Places) -> str | None:
    """Put a published output in place.

    Returns:
        None when it was; "linked" when its place was empty; "restored" when something else stood there.

    Raises:
        StateError: when a published file is damaged, by name, before it is copied anywhere.
    """
    target = places.workspace / stage.out
    marker = places.state / "shown" / f"{stage.name}.json"
    if _untouched(target, marker, published.fingerprint):
        return None
    if target.is_dir() and manifests.of_folder(target).digest == published.manifest.digest:
        _mark(target, marker, published.fingerprint)
        _provenance(stage, published, places)
        return None
    published.check(stage.name)
    existed = target.exists()
    fresh = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for entry in published.manifest.entries:
            _copy(published.out / entry.path, fresh / entry.path)
        fresh.mkdir(exist_ok=True)
        if existed:
            remove(target)
        _rename(fresh, target, published)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _mark(target, marker, published.fingerprint)
    _provenance(stage, published, places)
    return "restored" if existed else "linked"


def adopt(stage: Stage, fingerprint: str, payload: Any, places: Places, store: Store) -> Published | None:
    """Take what lies in the workspace (after `dvc pull`) into the store, if provenance vouches for it.

    The git-tracked provenance names the fingerprint and the digest of the outputs; both must agree.

    Raises:
        StateError: when the fingerprint agrees and the bits do not, naming the folder.
    """
    record, target = provenance_path(places, stage), places.workspace / stage.out
    if not record.is_file() or not target.is_dir():
        return None
    provenance = read_json(record)
    if provenance.get("fingerprint") != fingerprint:
        return None
    if manifests.of_folder(target).digest != provenance.get("outputs"):
        raise StateError(
            f"not the bytes that {stage.name} gave, as {record.relative_to(places.workspace)} records",
            where=str(target),
            todo=f"`dvc checkout {stage.out}` restores it, or remove it and it is rebuilt",
        )
    copy = places.store / ".incoming" / f"adopt-{uuid.uuid4().hex[:8]}"
    for path in files_under(target):
        _copy(path, copy / path.relative_to(target))
    extra = ("fingerprint", "outputs")
    return store.publish(
        fingerprint, payload, copy, {key: value for key, value in provenance.items() if key not in extra}
    )


def remove(path: Path) -> None:
    """Remove a file or folder, also one that DVC made read-only."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        left = os.fstat(reader.fileno()).st_size
        while left:
            # Shares blocks where the file system can.
            sent = os.copy_file_range(reader.fileno(), writer.fileno(), left) if _RANGE else 0
            if not sent:
                shutil.copyfileobj(reader, writer, 1 << 20)
                break
            left -= sent


def _rename(fresh: Path, target: Path, published: Published) -> None:
    try:
        os.rename(fresh, target)
    except OSError:
        # Another waiter for the same stage may have been faster.
        if not target.is_dir() or manifests.of_folder(target).digest != published.manifest.digest:
            raise


_RANGE = hasattr(os, "copy_file_range")


def _stats(folder: Path) -> dict[str, list[int]]:
    found = {}
    for path in files_under(folder):
        status = path.stat()
        found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return found


def _mark(target: Path, marker: Path, fingerprint: str) -> None:
    write_json(marker, {"fingerprint": fingerprint, "files": _stats(target)})


def _untouched(target: Path, marker: Path, fingerprint: str) -> bool:
    if not marker.is_file() or not target.is_dir():
        return False
    record = read_json(marker)
    return bool(record["fingerprint"] == fingerprint and record["files"] == _stats(target))


def _provenance(stage: Stage, published: Published, places: Places) -> None:
    record = published.provenance | {"stage": stage.name, "command": f"pirepro stage {stage.name}"}
    path = provenance_path(places, stage)
    if not path.is_file() or read_json(path) != record:
        write_json(path, record)
