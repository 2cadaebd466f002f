"""Where the files of NIGHTS are while it is made: archives on disk, each whole, checked, and there once.

RULE: whoever needs an archive asks for it here; it is fetched under a lock by the first and used by all, and what it
was (size, sha256) is kept beside it after it was removed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from pi_repro.data.sources.downloads import locked
from pi_repro.data.sources.origin import Origin, RemoteFile, Watch
from pi_repro.errors import StateError
from pi_repro.files import read_json, sha256_file, write_atomic, write_json

from .archive import Archive, Limits, RangedFile

#: Read at once of an archive elsewhere; the directory of the whole archive is a few MB.
_RANGE = 1 << 20
#: How a zip archive begins.
_ZIP = b"PK\3\4"


@dataclass(frozen=True)
class Held:
    """An archive on disk, with its size in bytes and its sha256."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Supply:
    """The files of one origin, and the folder in which they are held; may be sent to other processes."""

    origin: Origin
    folder: Path

    def hold(self, file: RemoteFile, watch: Watch) -> Held:
        """An archive, fetched where it is not there yet. Its contents are checked member by member when read.

        Raises:
            StateError: it cannot be had or is not what is expected.
            Interrupted: asked to stop.
        """
        path, record = self.folder / file.name, self._record(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / f".{path.name}.hold", watch.should_stop):
            if path.is_file() and record.is_file():
                known, state = read_json(record), path.stat()
                # A linked copy may have been altered since by whoever owns it.
                if (state.st_size, state.st_mtime_ns) == (known["bytes"], known.get("mtime_ns")):
                    return Held(path, known["bytes"], known["sha256"])
            obtained = self.origin.obtain(file, path, watch)
            said = {"bytes": obtained.bytes, "sha256": obtained.sha256, "mtime_ns": path.stat().st_mtime_ns}
            write_json(record, said)
        return Held(path, obtained.bytes, obtained.sha256)

    def drop(self, name: str) -> None:
        """Remove an archive; a local copy is only linked here, so it stays."""
        (self.folder / name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@dataclass(frozen=True)
class Content:
    """What the source of the one archive turned out to be.

    Attributes:
        archive: the one archive; None where there is none.
        table: the table as a file of its own; None where it is in the archive.
    """

    archive: RemoteFile | None
    table: RemoteFile | None

    @property
    def top(self) -> str:
        """The folder of the table, "nights/" or "": images of an unpacked copy lie below it."""
        return "".join(self.table.name.rpartition("/")[:2]) if self.table else ""


def content_of(origin: Origin, table: str, where: str) -> Content:
    """Look at a source: the published archive, a copy of the table, or an unpacked copy of everything.

    Raises:
        StateError: it holds neither the table nor just one archive.
    """
    files = origin.files()
    tables = [file for file in files if file.name.rpartition("/")[2] == table]
    archives = [file for file in files if file.name.endswith(".zip")]
    if tables:
        return Content(None, min(tables, key=lambda file: file.name.count("/")))
    if len(archives) != 1:
        raise StateError(
            "the source holds neither the table nor one archive",
            where=where,
            given=", ".join(file.name for file in files[:5]) or "nothing",
            allowed=f"one .zip file, or {table} with or without the images beside it",
        )
    # A local copy of one file goes by the source's name, whatever it is.
    packed = origin.read(archives[0].name, 0, len(_ZIP)) == _ZIP
    return Content(archives[0], None) if packed else Content(None, archives[0])


def table_of(origin: Origin, content: Content, table: str) -> bytes:
    """The table, without fetching the archive that it may be in: its directory and the one member are read by ranges.

    Raises:
        StateError: it cannot be had; the archive is hostile or lacks it.
    """
    file = content.table or content.archive
    size = file.bytes if file else None
    if file is None or size is None:
        raise StateError("the origin does not say how large the file is", where=file.name if file else table)
    if content.table is not None:
        if size > Limits().member:
            raise StateError("the table is too large", where=file.name, given=size, allowed=f"{Limits().member} bytes")
        return origin.read(file.name, 0, size)
    ranged = io.BufferedReader(RangedFile(lambda start, length: origin.read(file.name, start, length), size), _RANGE)
    with Archive(ranged, file.name) as archive:
        return table_in(archive, table)


def table_in(archive: Archive, table: str) -> bytes:
    """The table out of an open archive: the one that lies highest.

    Raises:
        StateError: the archive lacks it, or has two in equal place.
    """
    found = [name for name in archive.names if name.rpartition("/")[2] == table]
    highest = min((name.count("/") for name in found), default=0)
    found = [name for name in found if name.count("/") == highest]
    if len(found) != 1:
        raise StateError("the archive has not one table", where=archive.where, given=", ".join(found) or f"no {table}")
    return archive.read(found[0])


def keep_table(folder: Path, name: str, content: bytes) -> None:
    """Keep the table between fetches.

    Raises:
        StateError: another table was kept.
    """
    kept = kept_table(folder, name)
    if kept == content:
        return
    if kept is not None:
        raise StateError(
            "the table changed since it was first fetched",
            where=name,
            todo=f"find out why; to accept the new one, write its archive's digest into the card, or remove {folder}",
        )
    write_atomic(folder / name, content)
    write_json(folder / f"{name}.json", {"sha256": sha256_file(folder / name)})


def kept_table(folder: Path, name: str) -> bytes | None:
    """The kept table; None where there is none or it is damaged."""
    path, record = folder / name, folder / f"{name}.json"
    if not (path.is_file() and record.is_file()) or sha256_file(path) != read_json(record)["sha256"]:
        return None
    return path.read_bytes()
