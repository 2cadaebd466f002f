"""A file that is arriving: it lies beside its target under another name and is renamed only when it is whole.

Which blocks have arrived stands in a journal, written after their bytes are durable; so what a killed process left is
resumed block by block, and only when the origin still has the same version of the file. One process holds it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pi_repro.errors import Interrupted, StateError
from pi_repro.files import read_json, sync_folder


class Partial:
    """The bytes of one file that have arrived, in blocks of `block` bytes. Writing is safe from several threads."""

    def __init__(self, target: Path, path: Path, handle: int, block: int) -> None:
        self.target, self.path, self.block = target, path, block
        self.size = 0
        self.arrived = 0  # bytes, those of unfinished blocks too
        self._handle = handle
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}  # block -> bytes of it
        self._saved = 0
        self._version: str | None = None
        self._open = True
        self._named = False

    @property
    def _journal(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def _no_journal(self) -> None:
        for suffix in (".json", ".json.new"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def begin(self, size: int, version: str | None) -> None:
        """Go on with what lies here when it is of this size and version; else start from nothing.

        Args:
            version: what tells this version of the origin's file from others; None: nothing does.
        """
        self.size = size
        blocks: list[int] = []
        with contextlib.suppress(StateError, KeyError, TypeError):
            said = read_json(self._journal)
            same = (said["size"], said["version"], said["block"]) == (size, version, self.block)
            if same and version is not None and os.fstat(self._handle).st_size == size:
                blocks = [number for number in said["blocks"] if 0 <= number * self.block < size]
        with self._lock:
            self._counts = {number: self._length(number) for number in blocks}
            self.arrived = sum(self._counts.values())
            self._saved = len(self._counts)
        self._version = version
        if not blocks:
            self._no_journal()
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, size)

    def _length(self, number: int) -> int:
        return min(self.block, self.size - number * self.block)

    def missing(self) -> list[tuple[int, int]]:
        """The ranges [start, stop) that have not arrived, in whole blocks, neighbours joined."""
        ranges: list[tuple[int, int]] = []
        for start in range(0, self.size, self.block):
            if self.has(start // self.block):
                continue
            stop = min(start + self.block, self.size)
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        return ranges

    def room(self) -> int:
        """Bytes that the disk must still give. What lies here and not in the journal is written over where it lies."""
        allocated = os.fstat(self._handle).st_blocks * 512  # less than what arrived, where a file system compresses
        return max(self.size - max(allocated, self.arrived), 0)

    def has(self, number: int) -> bool:
        """True when all of a block has arrived."""
        with self._lock:
            return self._counts.get(number) == self._length(number)

    def write(self, position: int, content: bytes, halt: threading.Event) -> bool:
        """Bytes that arrived; no byte twice. False, and nothing written, once it is closed or `halt` is set."""
        view = memoryview(content)
        with self._lock:  # a writer may wait here, on a slow disk, until its transfer was given up and begun anew
            if not self._open or halt.is_set():
                return False
            while view:
                number, inside = divmod(position, self.block)
                part = view[: self.block - inside]
                done = os.pwrite(self._handle, part, position)
                self._counts[number] = self._counts.get(number, 0) + done
                self.arrived += done
                position, view = position + done, view[done:]
        return True

    def clear(self) -> None:
        """Forget everything that arrived."""
        self._no_journal()
        with self._lock:
            self._counts, self.arrived, self._saved = {}, 0, 0
            os.ftruncate(self._handle, 0)

    def read(self, number: int) -> bytes:
        """A block that has arrived."""
        return os.pread(self._handle, self._length(number), number * self.block)

    def save(self) -> None:
        """Make what has arrived durable, then write down which blocks that is; nothing where none is new."""
        with self._lock:
            whole = sorted(number for number, count in self._counts.items() if count == self._length(number))
        if len(whole) == self._saved or self._version is None:
            return
        os.fdatasync(self._handle)
        state = {"size": self.size, "version": self._version, "block": self.block, "blocks": whole}
        aside = self.path.with_name(self.path.name + ".json.new")  # one name, so that kills leave no more than one
        with aside.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self._journal)
        self._saved = len(whole)

    def keep(self) -> None:
        """All of it is here and right: give it its name."""
        os.fsync(self._handle)
        os.fchmod(self._handle, 0o644)
        os.replace(self.path, self.target)
        self._named = True
        self._no_journal()
        sync_folder(self.target.parent)

    def close(self) -> None:
        """No thread writes after this. What nobody could resume is removed."""
        with self._lock:
            self._open = False
            # A journal without bytes is that of a file which got its name just before a kill.
            if not self._named and not (self._journal.exists() and os.fstat(self._handle).st_size):
                self._no_journal()
                self.path.unlink(missing_ok=True)
            os.close(self._handle)


def begun(target: Path) -> int:
    """Bytes that lie on disk of a target that is arriving."""
    try:
        return os.stat(target.with_name(f".{target.name}.part"), follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def arriving(target: Path, block: int, should_stop: Callable[[], bool]) -> Iterator[Partial]:
    """The partial file of a target, held by this process alone; others wait, and then find the target there.

    The kernel lets go of it when its process dies. Where the file system has no locks, each process has a partial
    file of its own, which nobody resumes.

    Raises:
        Interrupted: asked to stop while another process held it.
    """
    path = target.with_name(f".{target.name}.part")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if should_stop():
                raise Interrupted("the stage was asked to stop while it waited", where=str(target)) from None
            time.sleep(0.1)
            continue
        except OSError:
            os.close(handle)
            path = target.with_name(f".{target.name}.part-{secrets.token_hex(4)}")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            break
        if _same(handle, path):  # else its last holder renamed or removed it in between
            break
        os.close(handle)
    partial = Partial(target, path, handle, block)
    try:
        yield partial
    finally:
        partial.close()
