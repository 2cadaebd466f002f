"""Files from a web server: one URL, or a folder whose files are known by name.

A folder of a web server cannot be listed, except one in webdataset form, which says itself how many shards it has. What
the first fetch found (size, digest, names) is kept, so a second one asks the server for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pi_repro.errors import RequestError, StateError
from pi_repro.spec.card import Source

from .origin import UNWATCHED, Obtained, RemoteFile, Watch, record_of, scrub
from .patience import Patience, persist
from .pins import Pins
from .transfer import Expected
from .url import HttpSupply, read_range

#: bytes of a small text file (nshards.txt) that is read whole
_SMALL = 1 << 20
#: the files of a webdataset folder beside its shards: name -> whether it must be there
_WDS = {
    "classnames.txt": False,
    "dataset_type.txt": False,
    "test/nshards.txt": True,
    "zeroshot_classification_templates.txt": False,
}


@dataclass(frozen=True)
class HttpOrigin:
    """One URL: a file, or (ending in "/") a folder; a wds source is always a folder, and lists itself."""

    source: Source
    url: str
    pins: Pins
    patience: Patience

    @classmethod
    def at(cls, source: Source, pins: Pins, patience: Patience) -> HttpOrigin:
        """The origin of a card's source.

        Raises:
            RequestError: the URL has a password in it, which would stand in every copy of the card.
        """
        parts = urlsplit(source.locator)
        if parts.username or parts.password:
            raise RequestError(
                "a card holds no name or password",
                where=f"source {source.name}",
                given=scrub(source.locator),
                todo="put it into ~/.netrc",
            )
        url = source.locator
        if source.kind == "wds" and not parts.query:
            url = url.rstrip("/") + "/"
        return cls(source, url, pins, patience)

    @property
    def _folder(self) -> bool:
        return self.url.endswith("/")

    @property
    def record(self) -> Mapping[str, object]:
        return record_of(self.source, self.source.revision)

    def _supply(self, name: str) -> HttpSupply:
        return HttpSupply(self.url + quote(name) if self._folder else self.url, self.patience)

    def files(self) -> tuple[RemoteFile, ...]:
        if not self._folder:
            return (self.file(file_name(self.url)),)
        if self.source.kind != "wds":
            raise RequestError(
                "a folder of a web server cannot be listed",
                where=f"source {self.source.name}",
                allowed="files below it by name, or one URL a file",
            )
        names = self.pins.listing()
        if names is None:
            names = [{"name": name} for name in self._webdataset()]
            self.pins.keep_listing(names)
        return tuple(self.file(entry["name"]) for entry in names)

    def _webdataset(self) -> list[str]:
        """The names in a folder of the form that clip_benchmark reads: N shards, as test/nshards.txt says."""
        text = self.read("test/nshards.txt", 0, _SMALL).decode(errors="replace").strip()
        if not text.isdecimal() or not 0 < int(text) < 1_000_000:
            raise StateError("no number of shards", where=scrub(self.url + "test/nshards.txt"), given=text[:40])
        names = [f"test/{number}.tar" for number in range(int(text))]
        for name, needed in _WDS.items():
            if needed or self._there(name):
                names.append(name)
        return sorted(names)

    def _there(self, name: str) -> bool:
        absent = StateError("absent")
        supply = HttpSupply(
            self.url + name, self.patience, explain=lambda response: absent if response.status_code == 404 else None
        )
        try:
            persist(supply.what, supply.about, self.patience, UNWATCHED)
        except StateError as error:
            if error is absent:
                return False
            raise
        return True

    def _expected(self, name: str) -> Expected:
        if not self._folder and name != file_name(self.url):
            raise StateError("the source has no such file", where=scrub(self.url), given=name)
        return Expected.of(self.source, self.pins, name, single=not self._folder)

    def file(self, name: str) -> RemoteFile:
        expected = self._expected(name)
        size = None if self._folder else self.source.bytes
        if size is None and expected.pinned is not None:
            size = expected.pinned.bytes
        elif size is None:
            supply = self._supply(name)
            size = persist(supply.what, supply.about, self.patience, UNWATCHED).bytes
        return expected.file(name, size)

    def obtain(self, file: RemoteFile, target: Path, watch: Watch = UNWATCHED) -> Obtained:
        return self._expected(file.name).fetch(self._supply(file.name), file, target, watch, self.patience)

    def read(self, name: str, start: int, length: int) -> bytes:
        return read_range(self._supply(name), start, length, self.patience)


def file_name(url: str) -> str:
    """The name that a URL ends in."""
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    if not name:
        raise RequestError("the URL names no file", given=scrub(url))
    return name
