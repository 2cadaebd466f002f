"""Bytes that arrive, shown as a stage's progress: MB of MB and the rate of the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

#: seconds that the shown rate is taken over
_WINDOW = 5.0


class Meter:
    """Counts the bytes of several transfers, also from several threads, and reports them together.

    Args:
        progress: a stage's `context.progress`.
        total: bytes of all transfers together, as far as known.
        note: said beside the rate.
    """

    def __init__(self, progress: Callable[..., None], total: int, note: str = "") -> None:
        self._progress, self._total, self._note = progress, total, note
        self._done = 0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """So many bytes more; fewer where a transfer starts over. Fits Watch.advance."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            self._recent.append((now, self._done))
            while len(self._recent) > 2 and now - self._recent[0][0] > _WINDOW:
                self._recent.popleft()
            (then, before), total = self._recent[0], max(self._total, self._done)
            rate = max(self._done - before, 0) / max(now - then, 0.2) / 1e6
            note = f"{rate:.0f} MB/s" + (f", {self._note}" if self._note else "")
            self._progress(self._done // 10**6, max(total // 10**6, 1), "MB", note)
