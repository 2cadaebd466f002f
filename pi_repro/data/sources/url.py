"""The bytes behind a URL: proxies, ~/.netrc, redirects, ranges and Retry-After are honoured; refusals are explained.

A range is asked for with If-Range and must answer for the version that the transfer began with. Names, passwords and
tokens go into headers only, to the host that they are meant for; a URL in a message has neither user nor query.
"""

from __future__ import annotations

import functools
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from pi_repro import __version__
from pi_repro.errors import StateError

from .client import Unreachable
from .origin import UNWATCHED, scrub
from .patience import Busy, Patience, persist, retry_after
from .stream import About, Changed

#: answers after which another try may help
LATER = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}

#: why an answer (other than "later") is refused, where the usual words do not tell; None: in the usual way
Explain = Callable[[httpx2.Response], StateError | None]


def _netrc() -> httpx2.Auth | None:
    """Who we are at which host: $NETRC, else ~/.netrc."""
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return None
    try:
        return httpx2.NetRCAuth(str(path))
    except (netrc.NetrcParseError, OSError) as error:  # its text may quote a password
        line = getattr(error, "lineno", None)
        raise StateError("cannot be read as a netrc file", where=f"{path}:{line}" if line else str(path)) from None


def quiet() -> None:
    """Keep the clients from logging each request: URLs carry signatures, headers carry tokens."""
    for name in ("httpx2", "httpcore2", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)


@functools.lru_cache(maxsize=4)
def _client(patience: Patience, _process: int, _environment: tuple[str | None, ...]) -> httpx2.Client:
    quiet()
    return httpx2.Client(
        auth=_netrc(),
        follow_redirects=True,
        headers={"User-Agent": f"pirepro/{__version__}", "Accept-Encoding": "identity"},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16),
        timeout=httpx2.Timeout(patience.stall, connect=patience.connect),
        trust_env=True,
    )


def client(patience: Patience) -> httpx2.Client:
    """The connections of this process, as its environment configures them."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    values = [os.environ.get(name) for lower in names for name in (lower, lower.upper())]
    values += [os.environ.get(name) for name in ("NETRC", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR")]
    return _client(patience, os.getpid(), tuple(values))


def _unexplained(_response: httpx2.Response) -> StateError | None:
    return None


@dataclass(frozen=True)
class HttpSupply:
    """The bytes behind one URL.

    Attributes:
        headers: sent along; an Authorization is dropped where a redirect leads to another host.
        explain: words for refusals, where the server is a known one; sees good answers too.
        fixed: the version, where what lies behind the URL never changes (a commit); else the server's ETag or date.
    """

    url: str
    patience: Patience
    headers: Mapping[str, str] | None = None
    explain: Explain = _unexplained
    fixed: str | None = None

    @property
    def what(self) -> str:
        return scrub(self.url)

    @contextmanager
    def _answer(self, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """An answer with a body worth reading, or one of the errors of Supply."""
        sent = {**(self.headers or {}), **headers}
        auth = None if "authorization" in {name.lower() for name in sent} else httpx2.USE_CLIENT_DEFAULT
        try:
            with client(self.patience).stream("GET", self.url, headers=sent, auth=auth) as response:
                self._refuse(response)
                yield response
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise StateError("the URL cannot be fetched", where=self.what, given=scrub(error)) from None
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise Unreachable(f"{type(error).__name__}: {scrub(error)}") from None

    def _refuse(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status in LATER:
            after = retry_after(response.headers)
            raise Busy(f"the server answers {status} {response.reason_phrase}", after)
        explained = self.explain(response)
        if explained is not None:
            raise explained
        if status in (200, 206, 416):
            return
        todo = "check the URL, or give a copy: --from PATH"
        if status in (401, 407):
            todo = "put name and password for this host into ~/.netrc (or the proxy's into its variable)"
        elif status == 403:
            todo = "see the source's how_to: something may have to be accepted first; then give a copy: --from PATH"
        raise StateError(f"the server answers {status} {response.reason_phrase}", where=self.what, todo=todo)

    def about(self) -> About:
        """Ask for the first byte only, which tells size, version and whether ranges are served."""
        with self._answer({"Range": "bytes=0-0"}) as response:
            version = self._version(response)
            if response.status_code == 200:
                return self._whole(response)
            _start, size = _content_range(response)
            if response.status_code == 416:  # nothing has a first byte
                if size not in (0, None):
                    raise StateError("the server refuses the first byte of the file", where=self.what)
                return About(size or 0, version, ranges=False)
            _checked_coding(response, self.what)
            if size is not None:
                return About(size, version, ranges=True)
        with self._answer({}) as response:  # that was a part of nobody knows how much
            return self._whole(response)

    def _whole(self, response: httpx2.Response) -> About:
        """What an answer with the whole file says of it."""
        _checked_coding(response, self.what)
        length = response.headers.get("content-length")
        size = int(length) if length and length.isdecimal() else None
        return About(size, self._version(response), ranges=False, ends=_chunked(response))

    @contextmanager
    def stream(self, start: int, stop: int | None, about: About) -> Iterator[Iterator[bytes]]:
        headers = {}
        if about.ranges:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if about.version is not None and self.fixed is None:
                headers["If-Range"] = about.version
        with self._answer(headers) as response:
            if response.status_code != (206 if about.ranges else 200) or self._version(response) != about.version:
                raise Changed
            if about.ranges and _content_range(response) != (start, about.bytes):
                raise Changed
            if (
                about.bytes is None
                and about.ends
                and not _chunked(response)
                and "content-length" not in response.headers
            ):
                raise Unreachable("the server no longer says where the file ends")
            _checked_coding(response, self.what)
            yield _exactly(response.iter_raw(), None if stop is None else stop - start)

    def _version(self, response: httpx2.Response) -> str | None:
        """What tells this version of the file from others: a strong ETag, else the date."""
        tag: str | None = response.headers.get("etag")
        if self.fixed is not None or (tag and tag.startswith('"')):
            return self.fixed or tag
        date: str | None = response.headers.get("last-modified")
        return date

    def unchanged(self, _about: About) -> bool:
        return True  # each answer was held against the version


def _chunked(response: httpx2.Response) -> bool:
    return "chunked" in response.headers.get("transfer-encoding", "").lower()


def _exactly(chunks: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    left = length
    for chunk in chunks:
        if left is not None:
            if len(chunk) > left:
                raise Unreachable("the server sent more than was asked for")
            left -= len(chunk)
        yield chunk
    if left:
        raise Unreachable(f"the server stopped {left} bytes early")


def _content_range(response: httpx2.Response) -> tuple[int | None, int | None]:
    """First byte and total size of a Content-Range header, each None where it is not given."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    part, _, total = rest.partition("/")
    start = part.partition("-")[0]
    if unit.lower() != "bytes":
        return None, None
    return int(start) if start.isdecimal() else None, int(total) if total.isdecimal() else None


def _checked_coding(response: httpx2.Response, what: str) -> None:
    coding = response.headers.get("content-encoding", "identity").lower()
    # A packed file that is sent as it lies there may be labelled so.
    if coding != "identity" and not urlsplit(what).path.endswith((".gz", ".tgz", ".bz2", ".zst", ".br")):
        raise StateError("the server packs the file on its way, so its bytes cannot be checked", where=what)


def read_range(supply: HttpSupply, start: int, length: int, patience: Patience) -> bytes:
    """See Origin.read; from a server without ranges, everything before it is fetched too."""

    def once() -> bytes:
        about = supply.about()
        size = about.bytes
        stop = start + length if size is None else min(start + length, size)
        if stop <= start:
            return b""
        with supply.stream(start if about.ranges else 0, stop if about.ranges else None, about) as chunks:
            if about.ranges:
                return b"".join(chunks)
            found = bytearray()
            for chunk in chunks:
                found += chunk
                if len(found) >= stop:
                    break
            return bytes(found[start:stop])

    def steady() -> bytes:
        try:
            return once()
        except Changed:
            raise Unreachable("the file changed while it was read") from None

    return persist(supply.what, steady, patience, UNWATCHED)
