"""Files of an object store, through fsspec: s3://, gs:// and whatever else it has a driver for.

Credentials and endpoint are the driver's own (its environment variables and files); `?anonymous` behind the URL asks
without any. A bucket makes no promise that a range is of the version seen before, so it is asked again at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.spec.card import Source

from .client import Unreachable
from .origin import UNWATCHED, Obtained, RemoteFile, Watch, checked_name, record_of, scrub
from .patience import Patience, persist
from .pins import Pins
from .stream import About
from .transfer import Expected

#: what a driver is told for `?anonymous`, by scheme
_ANONYMOUS: Mapping[str, Mapping[str, object]] = {
    "s3": {"anon": True},
    "gs": {"token": "anon"},
    "gcs": {"token": "anon"},
}
#: what a store's answer holds that tells one version of an object from another
_VERSION = ("ETag", "etag", "generation", "VersionId", "LastModified", "mtime", "updated", "created")


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Errors of any driver, told apart by what helps against them.

    Raises:
        StateError: not there, or not allowed.
        Unreachable: anything else: drivers raise whatever their network client does.
    """
    try:
        yield
    except (PireproError, Unreachable):
        raise
    except FileNotFoundError:
        raise StateError("the bucket has no such object", where=what) from None
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, PermissionError) or "Credential" in kind or "Forbidden" in kind:
            raise StateError(
                "the object store refuses to show this",
                where=what,
                given=f"{kind}: {scrub(error)}",
                todo="give the driver credentials (s3: AWS_PROFILE or AWS_ACCESS_KEY_ID, gs: "
                "GOOGLE_APPLICATION_CREDENTIALS), or append ?anonymous to a public bucket's URL",
            ) from None
        raise Unreachable(f"{kind}: {scrub(error)}") from None


def driver(url: str, options: Iterable[tuple[str, object]]) -> tuple[Any, str]:
    """fsspec's driver of an object store, and the path that it has for a URL.

    Raises:
        StateError: it is not installed, or the store refuses.
        Unreachable: anything else.
    """
    import fsspec  # type: ignore[import-untyped]

    with _plain_errors(scrub(url)):
        try:
            system, path = fsspec.url_to_fs(url, **dict(options))
        except ImportError as error:
            raise StateError(
                "the driver of this object store is not installed",
                where=scrub(url),
                given=scrub(error),
                todo="in the checkout: pip install -e '.[stores]', which brings those of s3:// and gs://; or give a "
                "copy: --from SOURCE=PATH",
            ) from None
    return system, path


@dataclass(frozen=True)
class ObjectSupply:
    """The bytes of one object."""

    system: Any
    path: str
    what: str
    block: int

    def _info(self) -> dict[str, Any]:
        with _plain_errors(self.what):
            self.system.invalidate_cache()
            found: dict[str, Any] = self.system.info(self.path)
        if found.get("type") != "file":
            raise StateError("the bucket has no such object", where=self.what)
        return found

    def about(self) -> About:
        info = self._info()
        said = [f"{key}={info[key]}" for key in _VERSION if info.get(key) is not None]
        return About(int(info["size"]), " ".join(said) or None, ranges=True)

    @contextmanager
    def stream(self, start: int, stop: int | None, about: About) -> Iterator[Iterator[bytes]]:
        assert about.bytes is not None, "a bucket always tells sizes"
        yield self._chunks(start, about.bytes if stop is None else stop)

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            with _plain_errors(self.what):
                chunk: bytes = self.system.cat_file(self.path, start=start, end=min(start + self.block, stop))
            if not chunk:
                raise Unreachable(f"the store stopped {stop - start} bytes early")
            if len(chunk) > min(self.block, stop - start):  # whose bytes are these? Of the whole object, often
                raise Unreachable("the store sent more than was asked for")
            yield chunk
            start += len(chunk)

    def unchanged(self, about: About) -> bool:
        return self.about() == about


@dataclass(frozen=True)
class ObjectsOrigin:
    """One object, or (ending in "/") all below a prefix; a wds source is always a prefix."""

    source: Source
    url: str
    options: tuple[tuple[str, object], ...]
    pins: Pins
    patience: Patience

    @classmethod
    def at(cls, source: Source, pins: Pins, patience: Patience) -> ObjectsOrigin:
        """The origin of a card's source.

        Raises:
            RequestError: not a URL that fsspec knows, or anonymous access where there is none; a password in it.
        """
        import fsspec

        url, _, option = source.locator.partition("?")
        scheme = url.partition("://")[0]
        known = "://" in url and scheme in fsspec.available_protocols() and scheme not in ("http", "https")
        if not known or option not in ("", "anonymous") or (option and scheme not in _ANONYMOUS):
            raise RequestError(
                "not the URL of an object store",
                where=f"source {source.name}",
                given=scrub(source.locator),
                allowed="s3://bucket/key, gs://bucket/prefix/, with ?anonymous for public ones",
            )
        if urlsplit(url).password is not None:
            raise RequestError(
                "a card holds no password",
                where=f"source {source.name}",
                given=scrub(url),
                todo="give it to the driver, by its environment variables or files",
            )
        if source.kind == "wds":
            url = url.rstrip("/") + "/"
        return cls(source, url, tuple(_ANONYMOUS[scheme].items()) if option else (), pins, patience)

    @property
    def record(self) -> Mapping[str, object]:
        return record_of(self.source, self.source.revision)

    def _system(self) -> tuple[Any, str]:
        return driver(self.url, self.options)

    @property
    def _single(self) -> str | None:
        return None if self.url.endswith("/") else self.url.rsplit("/", 1)[-1]

    def _supply(self, name: str) -> ObjectSupply:
        system, path = self._system()
        if self._single is None:
            path = f"{path.rstrip('/')}/{checked_name(name)}"
        elif name != self._single:
            raise StateError("the source has no such file", where=scrub(self.url), given=name)
        what = self.url + name if self._single is None else self.url
        return ObjectSupply(system, path, scrub(what), self.patience.block)

    def _expected(self, name: str) -> Expected:
        return Expected.of(self.source, self.pins, name, single=self._single is not None)

    def files(self) -> tuple[RemoteFile, ...]:
        if self._single is not None:
            return (self.file(self._single),)
        listing = self.pins.listing()
        if listing is None:
            system, path = self._system()
            root = path.rstrip("/") + "/"

            def found() -> list[dict[str, Any]]:
                with _plain_errors(scrub(self.url)):
                    system.invalidate_cache()
                    below = system.find(root, detail=True)
                return [
                    {"name": key.removeprefix(root), "bytes": int(info["size"])}
                    for key, info in sorted(below.items())
                    if info["type"] == "file" and key != root and not key.endswith("/")
                ]

            listing = persist(scrub(self.url), found, self.patience, UNWATCHED)
            if not listing:
                raise StateError("the bucket has nothing below this prefix", where=scrub(self.url))
            self.pins.keep_listing(listing)
        return tuple(self._expected(entry["name"]).file(entry["name"], entry["bytes"]) for entry in listing)

    def file(self, name: str) -> RemoteFile:
        expected, supply = self._expected(name), self._supply(name)
        if expected.pinned is not None:
            return expected.file(name, expected.pinned.bytes)
        return expected.file(name, persist(supply.what, supply.about, self.patience, UNWATCHED).bytes)

    def obtain(self, file: RemoteFile, target: Path, watch: Watch = UNWATCHED) -> Obtained:
        return self._expected(file.name).fetch(self._supply(file.name), file, target, watch, self.patience)

    def read(self, name: str, start: int, length: int) -> bytes:
        supply = self._supply(name)

        def once() -> bytes:
            about = supply.about()
            stop = min(start + length, about.bytes or 0)
            with supply.stream(start, stop, about) as chunks:
                return b"".join(chunks)

        return persist(supply.what, once, self.patience, UNWATCHED)
