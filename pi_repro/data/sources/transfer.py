"""One transfer: the bytes of one file from a supply to their name, whole or not at all.

A file that is not what is expected is fetched once more and then refused by name; one that changes at its origin while
it is fetched is begun anew. Only what has the size and digests that are known gets the name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import StateError
from pi_repro.files import sha256_file
from pi_repro.spec.card import Source

from . import space
from .client import Damaged
from .downloads import Pin
from .origin import Obtained, RemoteFile, Watch, scrub
from .partial import Partial, arriving
from .patience import Patience, persist
from .pins import Pinned, Pins
from .stream import About, Changed, Stream, Supply

#: times that a file may turn out to be another version while it is fetched
_VERSIONS = 3


@dataclass(frozen=True)
class Checks:
    """What a file must be, beside its size and sha256.

    Attributes:
        more: gets the whole file under its temporary name; says what is wrong with it, or None.
        agree: gets size and sha256 before the file gets its name; raises StateError to refuse it (see Pins.check).
    """

    more: Callable[[Path], str | None] = lambda _path: None
    agree: Callable[[int, str], None] = lambda _size, _sha256: None


#: size and sha256 are enough
NO_MORE = Checks()


@dataclass(frozen=True)
class Expected:
    """What a card and earlier fetches say of a file whose origin tells no digest.

    Attributes:
        pin: the card's digest, where the source is this one file.
        pinned: what an earlier fetch found.
    """

    pins: Pins
    pin: Pin | None
    pinned: Pinned | None

    @classmethod
    def of(cls, source: Source, pins: Pins, name: str, single: bool) -> Expected:
        """What is expected of a file of a source; `single` where it is the only one."""
        return cls(pins, Pin.parse(source.digest) if single else None, pins.get(name))

    @property
    def _sha256(self) -> str | None:
        return self.pin.hexdigest if self.pin is not None and self.pin.algorithm == "sha256" else None

    def file(self, name: str, size: int | None) -> RemoteFile:
        """The file, with the digest that is known best."""
        return RemoteFile(name, size, self._sha256 or (self.pinned.sha256 if self.pinned else None))

    def fetch(self, supply: Supply, file: RemoteFile, target: Path, watch: Watch, patience: Patience) -> Obtained:
        """`fetch`, with these checks."""
        if self.pinned is not None and file.sha256 == self.pinned.sha256 != self._sha256:
            # Only an earlier fetch says so: another digest now is a change to be told of, no damage.
            file = RemoteFile(file.name, file.bytes)

        def other_digest(path: Path) -> str | None:
            if self.pin is None or self.pin.algorithm == "sha256":
                return None
            found = self.pin.of(path)
            return None if found == self.pin.hexdigest else f"{self.pin.algorithm}:{found}"

        checks = Checks(other_digest, lambda size, sha256: self.pins.check(file.name, size, sha256))
        return fetch(supply, file, target, watch, patience, lambda: self.pins.sha256(file.name), checks)


def kept(file: RemoteFile, target: Path, known: str | None, watch: Watch) -> Obtained | None:
    """The file that lies at `target`, when it is right; one that is not is named in the log and counts as absent.

    Args:
        known: hex sha256 it must have; None: nothing tells whether it is right.
    """
    if not target.is_file():
        return None
    size = target.stat().st_size
    if known is not None and file.bytes in (None, size) and sha256_file(target) == known:
        watch.advance(size)
        return Obtained(target, size, known)
    watch.log.warning("%s lies here but is not what is expected; it is fetched again", target.name)
    return None


def fetch(
    supply: Supply,
    file: RemoteFile,
    target: Path,
    watch: Watch,
    patience: Patience,
    known: Callable[[], str | None] = lambda: None,
    checks: Checks = NO_MORE,
) -> Obtained:
    """Bring one file to `target`. See Origin.obtain.

    Args:
        known: hex sha256 that an earlier fetch found, where the origin says none; asked when it is needed, for
            another process may be that earlier fetch.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        space.guarded(target.parent, supply.what),
        arriving(target, patience.block, watch.should_stop) as partial,
    ):
        if target.exists():
            ready = kept(file, target, file.sha256 or known(), watch)
            if ready is not None:
                return ready
            target.unlink()
        return _fetch(supply, file, partial, watch, patience, checks)


def _fetch(
    supply: Supply, file: RemoteFile, partial: Partial, watch: Watch, patience: Patience, checks: Checks
) -> Obtained:
    second_chance, versions, reported = True, _VERSIONS, 0
    while True:
        about = persist(supply.what, supply.about, patience, watch)
        size = _checked_size(supply, file, about)
        # With a digest at hand a mixture of two versions would be found out, so ranges may be used without a version.
        version = about.version or (file.sha256 and f"sha256:{file.sha256}")
        resume = about.ranges and size is not None and version is not None
        partial.begin(size or 0, version if resume else None)
        space.require(partial.target.parent, partial.room(), supply.what)
        stream = Stream(supply, about, partial, resume, patience, reported)
        try:
            sha256 = stream.run(watch)
            if stream.end is not None:
                size = _checked_end(stream.end, size)
            if not persist(supply.what, lambda: supply.unchanged(about), patience, watch):  # noqa: B023 - called here
                raise Changed
            wrong = checks.more(partial.path)
            if file.sha256 is not None and sha256 != file.sha256:
                wrong = f"sha256:{sha256}"
            if wrong is not None:
                raise Damaged(wrong)
        except Changed:
            partial.clear()
            versions -= 1
            if not versions:
                raise StateError(
                    "the origin's file kept changing while it was fetched",
                    where=supply.what,
                    todo="run it again later, or ask the source for a fixed version",
                ) from None
            watch.log.warning("%s changed while it was fetched; starting over", supply.what)
            continue
        except Damaged as damage:
            partial.clear()
            if not second_chance:
                raise StateError(
                    "what came is not what is expected, twice; it was not used",
                    where=supply.what,
                    given=scrub(damage),
                    allowed=f"sha256:{file.sha256}" if file.sha256 else "a whole file",
                    todo="check the source, mirror or proxy; do not edit the digest",
                ) from None
            watch.log.warning("%s arrived damaged (%s); fetching it once more", supply.what, scrub(damage))
            second_chance = False
            continue
        finally:
            reported = stream.reported
        size = partial.arrived
        checks.agree(size, sha256)
        partial.keep()
        return Obtained(partial.target, size, sha256)


def _checked_size(supply: Supply, file: RemoteFile, about: About) -> int | None:
    if file.bytes is not None and about.bytes is not None and file.bytes != about.bytes:
        raise StateError(
            "the origin's file has another size than it should",
            where=supply.what,
            given=f"{about.bytes} bytes",
            allowed=f"{file.bytes} bytes",
            todo="it is truncated or another version; tell the source, or write the new size and digest into the card",
        )
    size = about.bytes if about.bytes is not None else file.bytes
    if size is None and file.sha256 is None and not about.ends:
        raise StateError(
            "the server says neither how long the file is nor where it ends, so a cut file would look whole",
            where=supply.what,
            todo="write its size (bytes:) or digest into the card, or give a copy: --from PATH",
        )
    return size


def _checked_end(end: int, size: int | None) -> int:
    if size is not None and end != size:
        raise Damaged(f"{end} bytes instead of {size}")
    return end
