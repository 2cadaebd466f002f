"""Filling a partial file from a supply: in several ranges at once, from where a cut connection left off.

Bytes of two versions of a file never mix: a range is asked for only of the version that the transfer began with, and
where a supply cannot promise that, a cut transfer starts over. The digest is taken of what lies on disk, block by block
as the blocks arrive.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pi_repro.errors import Interrupted
from pi_repro.files import sha256_file

from .client import Damaged, Unreachable
from .origin import Watch, scrub
from .partial import Partial
from .patience import Patience, given_up

#: blocks that one request asks for, where a file is fetched in several ranges at once
_STRIPE = 8


class Changed(Exception):
    """The origin now has another version of the file than the one that the transfer began with."""


@dataclass(frozen=True)
class About:
    """What a supply says of its file before the transfer.

    Attributes:
        bytes: its size; None where it does not say.
        version: differs between any two versions of the file (a strong ETag, a date); None where nothing does.
        ranges: whether parts of it can be had.
        ends: whether the end of the stream can be told from a cut, where the size is not known.
    """

    bytes: int | None
    version: str | None
    ranges: bool
    ends: bool = True


class Supply(Protocol):
    """Where the bytes of one file come from. Used by several threads at once."""

    @property
    def what(self) -> str:
        """Its name in messages."""

    def about(self) -> About:
        """Ask; Unreachable where another try may help, StateError where none does."""

    def stream(self, start: int, stop: int | None, about: About) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes [start, stop), or to the end; Changed, Unreachable or StateError, also midway.

        Ends early only by one of these, where the number of bytes is known.
        """

    def unchanged(self, about: About) -> bool:
        """True when all that was streamed was surely of that version."""


class Stream:
    """Threads that fill a partial file from a supply, and the caller's thread, which watches them."""

    def __init__(
        self, supply: Supply, about: About, partial: Partial, resume: bool, limits: Patience, reported: int = 0
    ) -> None:
        self.reported = reported  # bytes that the watch was told of, by earlier streams too
        self.supply, self.about, self.partial, self.limits, self.resume = supply, about, partial, limits, resume
        self.halt = threading.Event()
        self.error: BaseException | None = None
        self.log: deque[str] = deque()
        self.work: deque[tuple[int, int]] = deque()
        self.end: int | None = None  # where a stream of unknown size ended

    def _worker(self) -> None:
        try:
            if self.resume:
                self._ranges()
            else:
                self._straight()
        except BaseException as error:
            self.error = self.error or error
            self.halt.set()

    def _ranges(self) -> None:
        failures = 0
        while not self.halt.is_set():
            try:
                position, stop = self.work.popleft()
            except IndexError:
                return
            began = position
            while position < stop and not self.halt.is_set():
                try:
                    with self.supply.stream(position, stop, self.about) as chunks:
                        for chunk in chunks:
                            if not self.partial.write(position, chunk, self.halt):
                                return
                            position += len(chunk)
                            failures = 0 if position - began >= self.limits.gain else failures
                except Unreachable as reason:
                    failures = self._pause(failures, reason)
                    began = position

    def _straight(self) -> None:
        failures = 0
        while not self.halt.is_set():
            position = 0
            self.partial.clear()
            try:
                with self.supply.stream(0, None, self.about) as chunks:
                    for chunk in chunks:
                        if self.about.bytes is not None and position + len(chunk) > self.about.bytes:
                            raise Damaged("more bytes came than the server announced")
                        if not self.partial.write(position, chunk, self.halt):
                            return
                        position += len(chunk)
                self.end = position
                return
            except Unreachable as reason:
                failures = self._pause(failures, reason)

    def _pause(self, failures: int, reason: Unreachable) -> int:
        if failures + 1 >= self.limits.tries:
            raise given_up(self.supply.what, reason, failures + 1) from None
        seconds = self.limits.wait(failures + 1, reason)
        self.log.append(f"{scrub(reason)}; going on in {seconds:.1f} s")
        self.halt.wait(seconds)
        return failures + 1

    def run(self, watch: Watch) -> str:
        """Fill the file. Gives its sha256."""
        digest, hashed, saved = hashlib.sha256(), 0, time.monotonic()
        count = 1
        if self.resume:
            many = self.partial.size >= self.limits.parallel_from
            step = self.limits.block * _STRIPE if many else max(self.partial.size, 1)
            for start, stop in self.partial.missing():
                self.work += [(at, min(at + step, stop)) for at in range(start, stop, step)]
            count = min(self.limits.streams if many else 1, len(self.work))
        threads = [threading.Thread(target=self._worker, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            while True:
                alive = any(thread.is_alive() for thread in threads)
                while self.log:
                    watch.log.warning("%s: %s", self.supply.what, self.log.popleft())
                if (arrived := self.partial.arrived) != self.reported:
                    watch.advance(arrived - self.reported)
                    self.reported = arrived
                if self.resume and hashed * self.partial.block < self.partial.size and self.partial.has(hashed):
                    digest.update(self.partial.read(hashed))
                    hashed += 1
                elif not alive:
                    break
                else:
                    for thread in [thread for thread in threads if thread.is_alive()][:1]:
                        thread.join(0.05)
                if self.resume and time.monotonic() - saved > self.limits.journal:
                    self.partial.save()
                    saved = time.monotonic()
                if watch.should_stop():
                    raise Interrupted("the stage was asked to stop while it fetched", where=self.supply.what)
        finally:
            self.halt.set()
            for thread in threads:
                thread.join(1.0)  # one that still waits for its server ends later; it writes no more
            if self.resume:
                with contextlib.suppress(OSError):  # a full disk: the journal stays as it was
                    self.partial.save()
        if self.error is not None:
            raise self.error
        if self.resume:
            return digest.hexdigest()
        return sha256_file(self.partial.path)
