"""An origin gives the files of one source: listed by checked names, obtained whole and checked, or refused.

Whatever lies behind it (a web server, a hub, a bucket, a local copy), a file that `obtain` returns is complete, has
the size and sha256 that are known of it, and is durable under its name; until then its name does not exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pi_repro.errors import RequestError, StateError
from pi_repro.spec import supplied
from pi_repro.spec.card import AT_FIRST_FETCH, Source

from .downloads import Stage, downloads_folder


def checked_name(name: str) -> str:
    """A file's name below its origin, as it was given.

    Raises:
        StateError: it is empty, absolute, has "..", ".", a backslash or a control character.
    """
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise StateError(
            "the origin lists a file whose name is refused",
            given=ascii(name),
            allowed="relative names with '/', without '..'",
        )
    return name


def scrub(text: object) -> str:
    """A message as it may stand in a log: one line, URLs without user, password and query (signatures lie there)."""
    line = re.sub(r"(?<=://)[^/?#\s]*@", "", " ".join(str(text).split()))  # to the last "@", as URLs are read
    line = re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\"]*", r"\1?...", line)
    return line[:300]  # after that: a URL that is cut shows no more where its password ends


def git_digest(size: int) -> hashlib._Hash:
    """A digest that, fed a file of this size, gives the name that git has for it."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


@dataclass(frozen=True)
class RemoteFile:
    """One file of an origin.

    Attributes:
        name: below the origin, "/" between folders; checked when made.
        bytes: its size; None where the origin does not say.
        sha256: hex; None where neither the origin, the card nor an earlier fetch says.
    """

    name: str
    bytes: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        checked_name(self.name)


@dataclass(frozen=True)
class Obtained:
    """A whole, checked file on disk; `linked` where it is a link to a local copy, which is never altered."""

    path: Path
    bytes: int
    sha256: str
    linked: bool = False


def _nothing(_count: int) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Watch:
    """Who is told how far a transfer is, and who may stop it. All are called in the caller's own thread.

    Attributes:
        advance: gets the bytes that arrived since the last call, with those that lay there already; negative when
            a transfer must start over. Over one `obtain` the calls sum up to the file's size.
        should_stop: true: what has arrived is kept, then Interrupted is raised.
        log: for retries and the like.
    """

    advance: Callable[[int], None] = _nothing
    should_stop: Callable[[], bool] = _never
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("pirepro"))


#: for callers who do not care how far a transfer is
UNWATCHED = Watch()


class Origin(Protocol):
    """The files of one source. All kinds can be pickled, so that other processes may use them."""

    @property
    def record(self) -> Mapping[str, object]:
        """What card.json says of it: name, kind, locator, resolved revision; no path of this machine, no token."""

    def files(self) -> tuple[RemoteFile, ...]:
        """All files, sorted by name.

        Raises:
            RequestError: this kind of origin cannot be listed.
            StateError: it cannot be reached, is gone, or asks for something to be accepted first.
        """

    def file(self, name: str) -> RemoteFile:
        """One file; StateError when there is none of this name."""

    def obtain(self, file: RemoteFile, target: Path, watch: Watch = UNWATCHED) -> Obtained:
        """Bring a file to `target`: whole, checked, durable; from where an earlier attempt was cut off.

        A file that is there already and right is not fetched again.

        Raises:
            StateError: not to be had, not what is expected, or no room for it.
            Interrupted: asked to stop; the next call goes on where this one stopped.
        """

    def read(self, name: str, start: int, length: int) -> bytes:
        """The bytes [start, start + length) of a file, fewer at its end; not checked against any digest."""


def record_of(source: Source, revision: str) -> dict[str, object]:
    """What card.json says of a source, at the revision that was resolved."""
    record: dict[str, object] = {
        "name": source.name,
        "kind": source.kind,
        "locator": source.locator,
        "revision": revision,
        "licence": source.licence,
        "attribution": source.attribution,
    }
    if source.digest != AT_FIRST_FETCH:
        record["digest"] = source.digest
    return record


def origins_folder(source: Source, context: Stage) -> Path:
    """Where what is known of a source is kept between fetches; another pin in the card is another folder."""
    said = json.dumps([source.kind, source.locator, source.revision, source.digest])
    return downloads_folder(context) / "origins" / f"{source.name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def origin_of(source: Source, context: Stage) -> Origin:
    """The origin of a card's source; a local copy named for it (see `pi_repro.spec.supplied`) takes its place.

    Raises:
        RequestError: a kind or locator that no origin is made for.
        StateError: the local copy is not there.
    """
    # The kinds load their clients, which are slow to import, so each is loaded when wanted.
    from .local import LocalOrigin
    from .patience import Patience
    from .pins import Pins

    pins, patience = Pins(origins_folder(source, context)), Patience.from_environment()
    copy = supplied.copies().get(source.name)
    if copy is not None:
        return LocalOrigin.at(source, copy, pins)
    locator = source.locator
    scheme = locator.partition("://")[0].lower() if "://" in locator else ""
    if source.kind in ("wds", "objects") and (locator.startswith("/") or scheme == "file"):
        return LocalOrigin.at(source, Path(locator.removeprefix("file://")), pins)
    if source.kind in ("http", "wds") and scheme in ("http", "https"):
        from .http import HttpOrigin

        return HttpOrigin.at(source, pins, patience)
    if source.kind == "objects" or (source.kind == "wds" and scheme):
        from .objects import ObjectsOrigin

        return ObjectsOrigin.at(source, pins, patience)
    if source.kind in ("hub", "wds") and not scheme:
        from .hub import HubOrigin

        return HubOrigin.at(source, pins, patience)
    raise RequestError(
        "no files can be fetched from this",
        where=f"source {source.name}",
        given=f"{source.kind}: {scrub(locator)}",
        allowed="http: URL; hub: owner/name; wds: owner/name, URL; objects: s3://, gs://, file://",
    )
