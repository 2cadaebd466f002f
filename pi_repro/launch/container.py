"""Which image a site's stages run in, looked up in container.lock.

Rule: an image is named by what it holds. What lies at the site's path is told apart by its sha256 (a folder
by that of its list of files, podman's and docker's by their id), and only an image that container.lock lists,
built from this checkout's requirements.lock, is used. The host's prologue (slurm/prologue.sh) looks again
where the stage starts, and the stage itself looks from inside (pi_repro.provenance.image).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pi_repro.errors import StateError
from pi_repro.files import sha256_file, write_atomic
from pi_repro.provenance import image as inside
from pi_repro.spec.fingerprint import LOCK
from pi_repro.spec.site import Runtime

#: In the workspace, tracked by git; written by `make image`.
RECORD: Final = "container.lock"
PROLOGUE: Final = "slurm/prologue.sh"
_KEYS: Final = ("image", "manifest", "lock", "forms")
_CHECKED: Final = ".pirepro/images/checked"


@dataclass(frozen=True)
class Image:
    """An image that container.lock lists, as it lies on this site.

    Attributes:
        digest: "sha256:...", as provenance records it (PIREPRO_IMAGE_DIGEST).
        manifest: sha256 of its list of files (PIREPRO_IMAGE_MANIFEST).
        form: squashfs, sif, folder, podman or docker.
        form_sha256: what the prologue compares.
        path: of the file or folder, or the reference.
        name: its entry in container.lock.
    """

    digest: str
    manifest: str
    form: str
    form_sha256: str
    path: str
    name: str = ""

    def prologue(self, workspace: Path) -> list[str]:
        """The host's check: words that exit 0, or 3 with one message."""
        return ["bash", str(workspace / PROLOGUE), self.form, self.path, self.form_sha256]


def image_of(runtime: Runtime, workspace: Path) -> Image | None:
    """The image of a site.

    Args:
        runtime: the site's; a relative image path begins at the workspace.
        workspace: the checkout, with container.lock and requirements.lock.

    Returns:
        None where stages run without one.

    Raises:
        StateError: when it is missing, not listed, or was built from another requirements.lock.
    """
    if runtime.kind == "none" or runtime.image is None:
        return None
    form, path, found = _found(runtime.kind, runtime.image, workspace)
    images = _images(workspace)
    for name, entry in images.items():
        if found == (entry["forms"].get(form) or (form == runtime.kind and entry["image"].removeprefix("sha256:"))):
            _check_lock(name, entry, workspace)
            return Image(entry["image"], entry["manifest"], form, found, path, name)
    raise StateError(
        f"this {form} image is not listed in {RECORD}",
        where=path,
        given=f"sha256 {found}",
        allowed=f"what `make image` recorded: {', '.join(images) or 'nothing yet'}",
        todo="make image, and commit container.lock; or point runtime.image of the site to a listed one",
    )


def listed(workspace: Path) -> tuple[str, ...]:
    """Names of the images that container.lock lists.

    Raises:
        StateError: when it is damaged.
    """
    return tuple(_images(workspace))


def _found(kind: str, image: str, workspace: Path) -> tuple[str, str, str]:
    """(form, path or reference, sha256) of what the site names."""
    if kind in ("podman", "docker"):
        return kind, image, _id(kind, image)
    path = workspace / image
    form = _form(path)
    return form, str(path), sha256_file(path / inside.MANIFEST) if form == "folder" else _sha256(path, workspace)


def _check_lock(name: str, entry: Mapping[str, Any], workspace: Path) -> None:
    current = sha256_file(workspace / LOCK)
    if entry["lock"] != current:
        raise StateError(
            f"the image was built from another {LOCK}",
            where=f"{RECORD}, image {name}",
            given=entry["lock"],
            allowed=current,
            todo="make image, and commit container.lock",
        )


def _images(workspace: Path) -> dict[str, dict[str, Any]]:
    path = workspace / RECORD
    try:
        images: dict[str, dict[str, Any]] = json.loads(path.read_text())["images"]
        lacking = [f"{name}: no {key}" for name, entry in images.items() for key in _KEYS if key not in entry]
        if lacking:
            raise ValueError("; ".join(lacking))
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StateError(
            f"{RECORD} is damaged", where=str(path), given=str(error), todo="git checkout container.lock"
        ) from None
    return images


def _form(path: Path) -> str:
    """Of a file or a folder.

    Raises:
        StateError: when nothing is there, or no image.
    """
    if (path / inside.MANIFEST).is_file():
        return "folder"
    if path.is_file():
        return "sif" if path.suffix == ".sif" else "squashfs"
    raise StateError(
        "there is no image of pi_repro here",
        where=str(path),
        todo="make image, or copy one there; runtime.image of the site names it",
    )


def _id(tool: str, reference: str) -> str:
    """Of an image that podman or docker has, or of the one named by its id."""
    name, _, digest = reference.rpartition("sha256:")
    if not name and len(digest) == 64:
        return digest
    command = [tool, "image", "inspect", "--format", "{{.Id}}", reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        problem = done.stderr.strip()
        if done.returncode == 0:
            return done.stdout.strip().removeprefix("sha256:")
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    raise StateError(
        f"{tool} can't tell which image this is",
        where=reference,
        given=problem,
        todo=f"make image TOOL={tool}; or, where only the nodes have it, write its id from {RECORD}: sha256:...",
    )


def _sha256(path: Path, workspace: Path) -> str:
    """Of a file of gigabytes, read again only when its inode, size or times changed.

    The note of what was read has the prologue's form: "SHA256 INODE SIZE MTIME CTIME".
    """
    found = path.stat()
    state = f"{found.st_ino} {found.st_size} {_seconds(found.st_mtime_ns)} {_seconds(found.st_ctime_ns)}"
    note = workspace / _CHECKED / hashlib.sha256(str(path).encode()).hexdigest()[:32]
    try:
        digest, _, then = note.read_text().strip().partition(" ")
        if then == state:
            return digest
    except OSError:
        pass
    digest = sha256_file(path)
    write_atomic(note, f"{digest} {state}\n".encode())
    return digest


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
