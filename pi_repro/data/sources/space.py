"""Room on disk is asked for before anything is begun; a disk that fills up all the same loses nothing that arrived."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pi_repro.errors import StateError

#: bytes that stay free, at most a hundredth of all: a file system full to the last block harms others on it
_SPARE = 64 << 20

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require(folder: Path, bytes_needed: int, what: str, files: int = 0) -> None:
    """Refuse now what the file system below `folder` (which need not exist yet) has no room for.

    Args:
        bytes_needed: still to be written, in bytes.
        files: still to be made (inodes).
        what: named in the message.

    Raises:
        StateError: too few free bytes, or too few free inodes where the file system counts them.
    """
    state = os.statvfs(_existing(folder))
    free = state.f_bavail * state.f_frsize
    spare = min(_SPARE, state.f_blocks * state.f_frsize // 100)
    if bytes_needed and bytes_needed + spare > free:
        raise StateError(
            "not enough room on disk",
            where=str(folder),
            given=f"{free / 1e9:.2f} GB free",
            allowed=f"{(bytes_needed + spare) / 1e9:.2f} GB for {what}",
            todo="free some, or set another data root or scratch folder in the site file",
        )
    if files and state.f_files and files > state.f_favail:
        raise StateError(
            "not enough inodes on disk",
            where=str(folder),
            given=f"{state.f_favail} free",
            allowed=f"{files} for {what}",
            todo="remove some files, or set another data root or scratch folder in the site file",
        )


@contextlib.contextmanager
def guarded(folder: Path, what: str) -> Iterator[None]:
    """Around writing: a full disk, quota or size limit becomes a StateError that says so.

    Raises:
        StateError: instead of the OSErrors ENOSPC, EDQUOT and EFBIG.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StateError(
            f"the disk is full or a limit on it is reached ({errno.errorcode[error.errno]})",
            where=str(folder),
            given=what,
            todo="make room and run it again: what has arrived is kept",
        ) from None
