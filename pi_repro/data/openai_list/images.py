"""Where photographs come from, one at a time: a bucket's copy behind a web server, in an object store, or on disk.

Rule: a photograph that is gone is told by its reason and goes on the list of failures; a bucket that cannot be reached
or refuses is an error of the whole, so an outage never looks like link rot.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pi_repro.data.sources.client import Unreachable
from pi_repro.data.sources.local import LocalOrigin
from pi_repro.data.sources.origin import Origin, Watch, scrub
from pi_repro.data.sources.patience import Patience, persist
from pi_repro.errors import StateError

from .listing import Photo

if TYPE_CHECKING:
    import httpx2

#: A photograph larger than this is none.
LARGEST = 64 << 20
#: Answers that mean "not there"; a bucket that may not be listed says 403 of what it has not.
_GONE = {403, 404, 410, 451}


class Missing(StateError):
    """A photograph is not to be had, and another try would not help."""


class Images(Protocol):
    """Gives the file of a photograph; safe to call from several threads, and to send to another process."""

    def image(self, photo: Photo, watch: Watch) -> bytes:
        """Its bytes.

        Raises:
            Missing: there is none, with the reason.
            StateError: the source as a whole cannot be used.
        """


def of_bucket(origin: Origin) -> Images:
    """The photographs of an origin in the bucket's layout."""
    if isinstance(origin, LocalOrigin):
        return LocalBucket(origin.root)
    # Their clients are slow to import, and only one is needed.
    from pi_repro.data.sources.http import HttpOrigin

    if isinstance(origin, HttpOrigin):
        return HttpBucket(origin.url.rstrip("/") + "/", origin.patience)
    from pi_repro.data.sources.objects import ObjectsOrigin

    if isinstance(origin, ObjectsOrigin):
        return ObjectBucket(origin.url.rstrip("/"), origin.options, origin.patience)
    raise StateError("photographs cannot be read from this kind of source", given=type(origin).__name__)


@dataclass(frozen=True)
class LocalBucket:
    """A copy on disk."""

    root: Path

    def image(self, photo: Photo, _watch: Watch) -> bytes:
        try:
            with (self.root / photo.file).open("rb") as file:
                return _sized(file.read(LARGEST + 1))
        except (FileNotFoundError, NotADirectoryError):
            raise Missing("not in the local copy") from None
        except OSError as error:
            raise StateError("a photograph cannot be read", where=str(error.filename), given=error.strerror) from None


@dataclass(frozen=True)
class HttpBucket:
    """A web server's folder; one request a photograph."""

    url: str
    patience: Patience

    def image(self, photo: Photo, watch: Watch) -> bytes:
        from pi_repro.data.sources.stream import About
        from pi_repro.data.sources.url import HttpSupply

        # One answer is taken from start to end, so it needs no version to be resumed by.
        supply = HttpSupply(self.url + photo.file, self.patience, explain=_gone, fixed="one answer")

        def once() -> bytes:
            content = bytearray()
            with supply.stream(0, None, About(None, "one answer", ranges=False)) as chunks:
                for chunk in chunks:
                    content += chunk
                    if len(content) > LARGEST:
                        break
            return _sized(bytes(content))

        return persist(supply.what, once, self.patience, watch)


def _gone(response: httpx2.Response) -> StateError | None:
    return Missing(f"HTTP {response.status_code}") if response.status_code in _GONE else None


@dataclass(frozen=True)
class ObjectBucket:
    """A prefix of an object store, through fsspec's driver for it."""

    url: str
    options: tuple[tuple[str, object], ...]
    patience: Patience

    def image(self, photo: Photo, watch: Watch) -> bytes:
        what = f"{scrub(self.url)}/{photo.file}"

        def once() -> bytes:
            system, path = _system(self.url, self.options)
            try:
                return _sized(system.cat_file(f"{path}/{photo.file}"))
            except FileNotFoundError:
                raise Missing("no such object") from None
            except PermissionError as error:
                raise StateError("the object store refuses to show this", where=what, given=scrub(error)) from None
            except StateError:
                raise
            except Exception as error:  # drivers raise whatever their network client does
                raise Unreachable(f"{type(error).__name__}: {scrub(error)}") from None

        return persist(what, once, self.patience, watch)


@functools.cache
def _system(url: str, options: tuple[tuple[str, object], ...]) -> tuple[Any, str]:
    """The driver of this process, and the path that it has for the URL."""
    from pi_repro.data.sources.objects import driver

    return driver(url, options)


def _sized(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise Missing(f"larger than {LARGEST >> 20} MiB")
    return content
