"""Whether this process runs inside the image that container.lock records.

Rule: run by the job, inside, before any input is read; standard library only, for what is installed is what is
in doubt. The image carries a list of its files and links (tools/bake.py); whoever started the job tells the
sha256 of that list. By default sizes are compared, which costs a second; the host's prologue has compared the
contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pi_repro.errors import StateError

#: Environment variable: sha256 of the list, from the launcher to the worker.
EXPECTED: Final = "PIREPRO_IMAGE_MANIFEST"
#: The list, from the image's root.
MANIFEST: Final = "opt/pirepro/manifest.json"

_TODO: Final = "put the image that `make image` made back in its place"


def check(expected: str, *, full: bool = False, root: Path = Path("/")) -> None:
    """Compare the files of this container with their list.

    Args:
        expected: sha256 of the list.
        full: read every file and compare its sha256 as well.
        root: of the image.

    Raises:
        StateError: naming what is missing, too much or differs.
    """
    manifest = root / MANIFEST
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise StateError("this is not an image of pi_repro", where=str(manifest), given=error.strerror) from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise StateError(
            "another image than the one recorded", where=str(manifest), given=found, allowed=expected, todo=_TODO
        )
    listing = json.loads(content)
    # Text, for tens of thousands of paths.
    rows = [(os.path.join(root, name), size, what) for name, size, what in listing["files"]]
    if full:
        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock alone
            list(pool.map(lambda row: _compare(*row, full=True), rows))
    else:
        for row in rows:
            _compare(*row, full=False)
    listed = {path for path, _, _ in rows}
    for tree in listing["closed"]:
        for path in _entries(os.path.join(root, tree)):
            if path not in listed:
                raise StateError("a file that the image did not have", where=path, todo=_TODO)


def _compare(path: str, size: int, what: str, *, full: bool) -> None:
    """A file with its size and sha256; a link, whose size is listed as -1, with where it leads."""
    try:
        found = os.lstat(path)
        if size < 0:
            changed = not stat.S_ISLNK(found.st_mode) or os.readlink(path) != what
        else:
            changed = not stat.S_ISREG(found.st_mode) or found.st_size != size or (full and _sha256(path) != what)
    except OSError as error:
        raise StateError("a file of the image is missing", where=path, given=error.strerror, todo=_TODO) from None
    if changed:
        raise StateError("a file of the image was changed", where=path, todo=_TODO)


def _entries(tree: str) -> Iterator[str]:
    """All that is no folder: a link to a folder could bring modules, too."""
    if not os.path.isdir(tree) and os.path.lexists(tree):
        yield tree
    for folder, folders, names in os.walk(tree):
        yield from (os.path.join(folder, name) for name in names)
        yield from (path for name in folders if os.path.islink(path := os.path.join(folder, name)))


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
