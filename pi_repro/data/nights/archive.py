"""Zip archives of images: checked as a whole before anything is read, and read member by member into memory.

RULE: nothing is ever written under a member's name. An archive is refused by the first member, wanted or not, whose
name leaves the archive, that is a link, a device or encrypted, that is there twice, or that claims to unpack to more
than an image can; sizes are enforced on what comes out, and an image is a PNG file of bounded size or is refused.
"""

from __future__ import annotations

import copy
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pi_repro.data.sources.archives import checked_name
from pi_repro.errors import StateError

#: A PNG file is packed already, so a zip can hardly make it smaller; deflate can do 1 : 1032.
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Limits:
    """Bounds far above what NIGHTS holds (images of 768 x 768, about 1 MB each).

    Attributes:
        member: bytes that one member may unpack to.
        members: how many there may be.
        ratio: unpacked by packed size of a member that unpacks to more than `small`.
        small: bytes.
        pixels: width times height of an image.
    """

    member: int = 64 << 20
    members: int = 1_000_000
    ratio: int = 100
    small: int = 1 << 20
    pixels: int = 1 << 26


class Archive:
    """A zip archive whose members were all checked; to be closed.

    Args:
        file: a path, or a file that can seek.
        where: its name in messages, never a path of this machine.

    Raises:
        StateError: damaged or hostile; names the member.
    """

    def __init__(self, file: Path | BinaryIO, where: str, limits: Limits = Limits()) -> None:
        self.where, self._limits = where, limits
        try:
            self._zip = zipfile.ZipFile(file)
            size = self._zip.fp.seek(0, io.SEEK_END) if self._zip.fp else 0
        except _BROKEN as error:
            raise StateError("archive is damaged", where=where, given=str(error)) from None
        try:
            self._members = self._checked(self._zip.infolist(), size)
        except BaseException:
            self._zip.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Checked names of all files in it."""
        return tuple(self._members)

    def size(self, name: str) -> int:
        """Bytes that a member unpacks to."""
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        """A member in memory.

        Raises:
            StateError: it is damaged, or not as large as declared; names it.
        """
        info = self._members[name]
        # Asked for one byte more than declared, so that a member which holds more is seen, not cut.
        wider = copy.copy(info)
        wider.file_size = info.file_size + 1
        try:
            with self._zip.open(wider) as handle:
                content = handle.read(wider.file_size)
        except (*_BROKEN, RuntimeError) as error:
            raise StateError(
                "a member of the archive is damaged", where=f"{self.where}, {name}", given=str(error)
            ) from None
        if len(content) != info.file_size:
            raise self._refused("its size is not as declared", name, f"{info.file_size} bytes declared")
        return content

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, members: Iterable[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        packed = 0
        for number, info in enumerate(members):
            # As written in the archive: zipfile cuts names at a zero byte.
            name = checked_name(info.orig_filename, self.where)
            if number >= self._limits.members:
                raise self._refused("too many members", name, f"more than {self._limits.members}")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise self._refused("a link or a device", name)
            if info.flag_bits & _ENCRYPTED:
                raise self._refused("an encrypted member", name)
            if info.is_dir():
                continue
            if name in found:
                raise self._refused("two members have one name", name)
            if info.compress_type not in _READ:
                raise self._refused("packed in a way that is not read", name, f"method {info.compress_type}")
            self._check_size(name, info.file_size, info.compress_size)
            packed += info.compress_size
            if packed > size:
                raise self._refused("members overlap", name, f"{packed} bytes packed in {size}")
            found[name] = info
        return found

    def _check_size(self, name: str, size: int, packed: int) -> None:
        if size > self._limits.member:
            raise self._refused("a member is too large", name, f"{size} bytes")
        if size > max(self._limits.small, self._limits.ratio * packed):
            raise self._refused("it unpacks to too much", name, f"{size} bytes from {packed}")

    def _refused(self, problem: str, name: str, given: str | None = None) -> StateError:
        return StateError(f"archive is refused: {problem}", where=f"{self.where}, {name}", given=given)


def locate(archive: Archive, paths: Iterable[str], inside: str = "") -> dict[str, str]:
    """Which member is which path of the table; a path that no member is, is not in the result.

    A member is the path that its name ends with, because archives put a folder of their own above.

    Args:
        archive: where to look.
        paths: as in the table.
        inside: the folder of the data set that the archive is unpacked in ("ref" for ref/000.zip).

    Raises:
        StateError: two members could be one path.
    """
    wanted = set(paths)
    depths = sorted({path.count("/") + 1 for path in wanted})
    found: dict[str, str] = {}
    for name in archive.names:
        parts = [*inside.split("/"), *name.split("/")] if inside else name.split("/")
        for depth in depths:
            path = "/".join(parts[-depth:])
            if path in wanted and found.setdefault(path, name) != name:
                raise StateError(
                    "archive is refused: two members could be one image",
                    where=archive.where,
                    given=f"{found[path]} and {name}",
                )
    return found


def check_png(content: bytes, where: str, limits: Limits = Limits()) -> str | None:
    """Check that a member is a PNG file and decode it.

    Args:
        content: the member.
        where: its name, for messages.

    Returns:
        Why it cannot be decoded; None where it can.

    Raises:
        StateError: it is no PNG file, or claims more pixels than any image here has.
    """
    # Pillow, which the reader of a table need not wait for.
    from PIL import Image

    if not content.startswith(_SIGNATURE):
        raise StateError("a member is no PNG file", where=where, given=ascii(content[:8]))
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > limits.pixels:
                raise StateError(
                    "an image claims too many pixels",
                    where=where,
                    given=f"{image.width} x {image.height}",
                    allowed=f"{limits.pixels} pixels",
                )
            image.load()
    except Image.DecompressionBombError as error:
        raise StateError("an image claims too many pixels", where=where, given=str(error)) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, OverflowError, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return None


class RangedFile(io.RawIOBase):
    """A file elsewhere that is read by ranges; wrap it into io.BufferedReader.

    Args:
        read: (start, length) to bytes.
        size: of the whole file, bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: object) -> int:
        """One range, as long as the buffer."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        length = max(0, min(len(view), self._size - self._at))
        if length:
            content = self._read(self._at, length)
            length = len(content)
            view[:length] = content
            self._at += length
        return length
