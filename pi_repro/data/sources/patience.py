"""How long a transfer bears with a bad network: every wait and every number of tries is bounded and stands here.

A try that brought something costs nothing, so a long transfer outlives any number of cuts; one that brings nothing is
repeated after a growing wait with jitter, or after what the server asks for, and then given up by name.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.spec import supplied

from .client import Unreachable
from .origin import Watch, scrub

_Result = TypeVar("_Result")


class Busy(Unreachable):
    """The server answers "later": worth another try, after `after` seconds where it says how many."""

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """Bounds on a transfer; PIREPRO_PATIENCE, a JSON object, may set others.

    Attributes:
        tries: that many in a row may bring nothing.
        gain: bytes that a try must bring to count as one that brought something.
        first_wait: seconds before the second try; doubled for each further one.
        longest_wait: seconds, where the server asks for none.
        longest_asked: seconds; a server that asks for more (Retry-After) is left alone.
        connect: seconds to get a connection.
        stall: seconds without a byte after which a connection counts as cut.
        block: bytes; what is resumed after a kill are whole blocks.
        journal: seconds between two notes of which blocks have come.
        parallel_from: bytes from which a file is fetched in several ranges at once.
        streams: how many.
    """

    tries: int = 8
    gain: int = 1 << 16
    first_wait: float = 1.0
    longest_wait: float = 30.0
    longest_asked: float = 600.0
    connect: float = 30.0
    stall: float = 60.0
    block: int = 8 << 20
    journal: float = 2.0
    parallel_from: int = 64 << 20
    streams: int = 4

    @classmethod
    def from_environment(cls) -> Patience:
        """The bounds of PIREPRO_PATIENCE, the usual ones where it says nothing.

        Raises:
            RequestError: it names no such bound, or a value that is not a positive number.
        """
        given = os.environ.get(supplied.PATIENCE, "")
        if not given.strip():
            return cls()
        kinds = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}
        try:
            values = {name: kinds[name](value) for name, value in json.loads(given).items()}
            if any(value <= 0 for value in values.values()):
                raise ValueError
        except (ValueError, TypeError, AttributeError, KeyError):
            raise RequestError(
                "not a JSON object of positive numbers", where=supplied.PATIENCE, given=given, allowed=", ".join(kinds)
            ) from None
        return cls(**values)

    def wait(self, failures: int, reason: Exception) -> float:
        """Seconds before the next try, after so many in a row that brought nothing.

        Raises:
            StateError: the server asks for more patience than this.
        """
        asked = reason.after if isinstance(reason, Busy) else None
        if asked is not None and asked > self.longest_asked:
            raise StateError(
                f"the server asks to come back in {asked:.0f} s; what has arrived is kept",
                given=scrub(reason),
                todo="run it again then",
            )
        own = min(self.first_wait * 2.0 ** min(failures - 1, 30), self.longest_wait)
        return max(asked or 0.0, own * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: Retry-After (seconds or a date), else the rest of a RateLimit's window."""
    value = headers.get("retry-after") or ""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        window = re.search(r"\bt=(\d{1,6})\b", headers.get("ratelimit") or "")
        return float(window[1]) if window else None


class GivenUp(StateError):
    """The network or the server is away, whatever was asked of it."""


def given_up(what: str, reason: Exception, tries: int) -> GivenUp:
    """The error of a transfer that brought nothing for so many tries."""
    return GivenUp(
        f"cannot be fetched: {tries} tries in a row brought nothing",
        where=what,
        given=scrub(reason),
        todo="run it again when the network is there: what has arrived is kept; or give a copy: --from PATH",
    )


def persist(what: str, action: Callable[[], _Result], patience: Patience, watch: Watch) -> _Result:
    """The result of a small request, tried again while it fails as Unreachable.

    Raises:
        StateError: tried too often, or whatever the action itself refuses.
        Interrupted: asked to stop.
    """
    for failures in range(1, patience.tries + 1):
        try:
            return action()
        except Unreachable as reason:
            if failures == patience.tries:
                raise given_up(what, reason, failures) from None
            seconds = patience.wait(failures, reason)
            watch.log.warning("%s: %s; trying again in %.1f s", what, scrub(reason), seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if watch.should_stop():
                raise Interrupted("the stage was asked to stop while it waited for a server", where=what)
            time.sleep(min(left, 0.1))
    raise AssertionError("unreachable: the last try returns or raises")
