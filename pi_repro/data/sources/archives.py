"""Reading archives that others made: every member is checked, only wanted ones are read, none touches the disk.

An archive is refused as a whole when any member, wanted or not, has a name that leaves the archive, is a link
or a device, appears twice, or is larger than the limits. Sizes are enforced on the bytes that come out, not on
what a header claims.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pi_repro.errors import StateError

#: True for a member that shall be read; gets the name below the archive's top folder (npm) or as is (wheel).
Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Limits:
    """Bounds on what an archive may hold, in bytes and members; far above any package that a card names."""

    member: int = 256 << 20
    total: int = 2 << 30
    members: int = 200_000


class _Bounded:
    """A reader that stops when more comes out than was allowed; guards tar headers too, which tarfile buffers."""

    def __init__(self, stream: BinaryIO, limit: int, where: str) -> None:
        self._stream, self._left, self._where = stream, limit, where

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; StateError once the archive has given more than its limit."""
        content = self._stream.read(size if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise StateError("archive unpacks to more than is allowed", where=self._where)
        return content


def checked_name(name: str, where: str) -> str:
    """A member's name without "." parts and doubled or closing slashes; refused when it leaves the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    bad = name.startswith("/") or not parts or ".." in parts or "\\" in name or ":" in parts[0]
    if bad or not name.isprintable():
        raise StateError(
            "archive is refused: a member's name would leave the archive",
            where=where,
            given=ascii(name),
            allowed="relative names without '..'",
        )
    return "/".join(parts)


def _from_tar(path: Path, limits: Limits, wanted: Wanted) -> Iterator[tuple[str, bytes | None]]:
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
        bounded = _Bounded(unpacked, limits.total, str(path))  # type: ignore[arg-type]
        with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                name = checked_name(member.name, str(path))
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():  # a sparse one is far larger than its bytes in the archive
                    raise StateError(
                        "archive is refused: it holds a link, device or sparse file", where=str(path), given=name
                    )
                if member.size > limits.member:
                    raise StateError("archive is refused: a member is too large", where=str(path), given=name)
                # npm packs everything below one folder, usually called package/, and ignores its name
                inner = name.partition("/")[2]
                if not inner:
                    raise StateError("archive is refused: a file lies outside its folder", where=str(path), given=name)
                handle = tar.extractfile(member) if wanted(inner) else None
                yield inner, handle.read() if handle is not None else None
        while bounded.read(1 << 20):  # to the end, so that gzip checks its sum
            pass


def _from_zip(path: Path, limits: Limits, wanted: Wanted) -> Iterator[tuple[str, bytes | None]]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = checked_name(info.filename, str(path))
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise StateError("archive is refused: it holds a link or device", where=str(path), given=name)
            total += info.file_size
            if info.file_size > limits.member or total > limits.total:
                raise StateError("archive is refused: a member is too large", where=str(path), given=name)
            if not wanted(name):
                yield name, None
                continue
            with archive.open(info) as handle:
                content = handle.read(info.file_size + 1)
            if len(content) != info.file_size:
                raise StateError("archive is refused: a member's size is not as declared", where=str(path), given=name)
            yield name, content


def read_members(path: Path, wanted: Wanted, limits: Limits = Limits()) -> dict[str, bytes]:
    """The wanted members of a .tgz (npm; its top folder is cut off) or .whl/.zip, in memory.

    Raises:
        StateError: when the archive is damaged or hostile; it names the archive and the member.
    """
    reader = _from_zip if path.suffix in (".whl", ".zip") else _from_tar
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    try:
        for name, content in reader(path, limits, wanted):
            if name in seen:
                raise StateError("archive is refused: two members have one name", where=str(path), given=name)
            seen.add(name)
            if len(seen) > limits.members:
                raise StateError("archive is refused: too many members", where=str(path), given=len(seen))
            if content is not None:
                found[name] = content
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise StateError(
            "archive is damaged",
            where=str(path),
            given=str(error),
            todo="delete this file and run the stage again",
        ) from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: encrypted, unknown compression
        raise StateError("archive is of a kind that is not read", where=str(path), given=str(error)) from None
    return found
