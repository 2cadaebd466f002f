"""What the first fetch of a source found is remembered, and every later fetch must find the same.

A card that says "recorded at first fetch" trusts the first fetch, never a second one: a revision, size or digest that
differs later is an error that says what changed. It is accepted by writing the new one into the card, which makes
another folder of pins. Processes that fetch at once share the pins under a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import read_json, write_json

from .downloads import locked


@dataclass(frozen=True)
class Pinned:
    """Size and hex sha256 of a file, as its first fetch found them."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pins:
    """The pins of one source, in `folder`/pins.json."""

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "pins.json"

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {"revision": None, "files": {}}
        found = read_json(self._path)
        return {"revision": found["revision"], "files": found["files"]}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".pins.lock"):
            state = self._read()
            before = repr(state)
            yield state
            if repr(state) != before:
                write_json(self._path, state)

    def revision(self) -> str | None:
        """The revision that the first fetch resolved."""
        found: str | None = self._read()["revision"]
        return found

    def pin_revision(self, resolve: Callable[[], str]) -> str:
        """The pinned revision; at the first fetch, the one that `resolve` gives."""
        found = self.revision()
        if found is not None:
            return found
        new = resolve()
        with self._changing() as state:
            state["revision"] = state["revision"] or new
            kept: str = state["revision"]
        return kept

    def get(self, name: str) -> Pinned | None:
        """What is known of a file."""
        found = self._read()["files"].get(name)
        return Pinned(found["bytes"], found["sha256"]) if found else None

    def sha256(self, name: str) -> str | None:
        """Hex digest of a file; None where no fetch has seen it."""
        found = self.get(name)
        return found.sha256 if found else None

    def check(self, name: str, size: int, sha256: str) -> None:
        """Remember a file's size and digest, or hold them against those remembered.

        Raises:
            StateError: the file was another one at the first fetch.
        """
        with self._changing() as state:
            entry = state["files"].setdefault(name, {"bytes": size, "sha256": sha256})
        if entry != {"bytes": size, "sha256": sha256}:
            raise StateError(
                "the origin's file changed since it was first fetched",
                where=name,
                given=f"{size} bytes, sha256:{sha256}",
                allowed=f"{entry['bytes']} bytes, sha256:{entry['sha256']}",
                todo="find out why; to accept the new one, write its revision or digest into the card; "
                f"what the first fetch found stands in {self._path}",
            )

    def listing(self) -> list[dict[str, Any]] | None:
        """The origin's list of files as the first fetch found it; None before."""
        path = self.folder / "listing.json"
        found: list[dict[str, Any]] | None = read_json(path)["files"] if path.exists() else None
        return found

    def keep_listing(self, files: list[dict[str, Any]]) -> None:
        """Remember the origin's list of files."""
        write_json(self.folder / "listing.json", {"files": files})
