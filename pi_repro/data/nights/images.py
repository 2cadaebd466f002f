"""The images of some triplets, by the table's paths, out of whatever form of NIGHTS is at hand.

RULE: an image that the source lacks is told apart from one that it lies about: the first is a failure of that triplet,
the second refuses the source.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pi_repro.data.sources.origin import Origin
from pi_repro.errors import StateError

from .archive import Archive, Limits, locate


def chunk_of(path: str) -> str:
    """The archive by folder that holds a path: ref/000.zip for ref/000/006.png."""
    part, folder = path.split("/")[:2]
    return f"{part}/{folder}.zip"


class Images:
    """Images by path; close it.

    Args:
        archives: (file, its name, folder of the data set that it is unpacked in) of each archive to look in.
        paths: what will be asked for.

    Raises:
        StateError: an archive is hostile or damaged.
    """

    def __init__(self, archives: Iterable[tuple[Path, str, str]], paths: Iterable[str]) -> None:
        self._places: dict[str, tuple[Archive, str]] = {}
        wanted = set(paths)
        with ExitStack() as stack:
            for file, name, inside in archives:
                archive = stack.enter_context(Archive(file, name))
                for path, member in locate(archive, wanted, inside).items():
                    self._places.setdefault(path, (archive, member))
            self._open = stack.pop_all()

    def size(self, path: str) -> int | None:
        """Bytes of an image; None where there is none."""
        place = self._places.get(path)
        return place[0].size(place[1]) if place else None

    def read(self, path: str) -> tuple[bytes, str] | None:
        """An image's file and its name for messages; None where there is none.

        Raises:
            StateError: its member is damaged or not as declared.
        """
        place = self._places.get(path)
        if place is None:
            return None
        archive, member = place
        return archive.read(member), f"{archive.where}, {member}"

    def close(self) -> None:
        """Close the archives."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnpackedImages:
    """Images of a copy that someone unpacked.

    Args:
        origin: has them below `top`, the folder of the table.
    """

    def __init__(self, origin: Origin, top: str) -> None:
        self._origin, self._top = origin, top

    def size(self, path: str) -> int | None:
        """See `Images`."""
        try:
            return self._origin.file(self._top + path).bytes
        except StateError:
            return None

    def read(self, path: str) -> tuple[bytes, str] | None:
        """See `Images`."""
        size = self.size(path)
        if size is None or size > Limits().member:
            return None
        return self._origin.read(self._top + path, 0, size), path

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
