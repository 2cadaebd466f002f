"""A run as people watch it: bars with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pi_repro.launch.driver import Event, Running, Watcher
from pi_repro.launch.progress import State

_LOG_EVERY_S = 30.0
_STYLES = {"published": "green", "failed": "red", "skipped": "red", "stopped": "yellow", "restored": "yellow"}


class Live:
    """Shows a driver's events; use as a context."""

    def __init__(self, *, plain: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._plain = plain or not self._console.is_terminal
        self._live = None if self._plain else RichLive(console=self._console, refresh_per_second=4, transient=True)
        self._logged: dict[str, float] = {}
        self._noted: dict[str, tuple[str, float]] = {}
        self._begun = time.monotonic()
        self._cached = 0

    @property
    def watcher(self) -> Watcher:
        """What the driver calls."""
        return Watcher(self._event, self._tick)

    def __enter__(self) -> Live:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._cached:
            self._line(f"{self._cached} stages were published already")

    def _event(self, event: Event, name: str, detail: str) -> None:
        if event == "cached":
            self._cached += 1
            return
        note = {
            "started": f"fingerprint {detail[:16]}",
            "published": f"fingerprint {detail[:16]}",
            "adopted": "taken from the workspace, provenance agrees",
            "attached": "already running, waiting for it",
            "restored": "its files here were not what was published; put back from the store",
        }.get(event, detail)
        self._line(f"{event:<9} {name}  {note}", _STYLES.get(event, ""))

    def _line(self, text: str, style: str = "") -> None:
        seconds = int(time.monotonic() - self._begun)
        stamp = f"{seconds // 60:>3}:{seconds % 60:02d}"
        if self._plain:
            sys.stderr.write(f"{stamp}  {text}\n")
            sys.stderr.flush()
        else:
            self._console.print(Text(f"{stamp}  ", style="dim") + Text(text, style=style))

    def _tick(self, running: dict[str, Running], done: int, total: int) -> None:
        if self._live:
            self._live.update(_table(running, done, total))
            return
        now = time.monotonic()
        for name, job in running.items():
            last = self._logged.setdefault(name, now)
            state = job.progress
            self._note(name, job.note, now)
            if state and now - last >= _LOG_EVERY_S:
                self._logged[name] = now
                self._line(f"running   {name}  {_words(state)}")

    def _note(self, name: str, note: str, now: float) -> None:
        """A line when what the launcher says of a job has changed, but not more often than other lines."""
        said, moment = self._noted.get(name, ("", -_LOG_EVERY_S))
        if note and note != said and now - moment >= _LOG_EVERY_S:
            self._noted[name] = (note, now)
            self._line(f"queue     {name}  {note}")


def _table(running: dict[str, Running], done: int, total: int) -> Group:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, job in running.items():
        state = job.progress
        bar = ProgressBar(total=max(state.total, 1) if state else 1, completed=state.done if state else 0, width=24)
        words = ", ".join(filter(None, (_words(state) if state else "" if job.note else "begins", job.note)))
        table.add_row(name, bar, Text(words, style="dim"))
    return Group(table, Text(f"{done} of {total} stages published", style="dim")) if total else Group(table)


def _words(state: State) -> str:
    text = f"{state.done:,}/{state.total:,} {state.unit}"
    if state.rate > 0:
        text += f", {state.rate:,.1f}/s"
    if state.eta_s is not None and state.done < state.total:
        text += f", {int(state.eta_s) // 60}:{int(state.eta_s) % 60:02d} left"
    return text + (f", {state.note}" if state.note else "")
