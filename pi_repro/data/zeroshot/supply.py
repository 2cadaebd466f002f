"""Where a set's files come from, and what of them lies in the data root.

Rule: a set whose files lie in the data root, whole and as its first fetch found them, needs no network and no
permission. Else it comes from what a person brought (into the data root, or by `--from`), else from its source; a
gated source is asked only by somebody who says that its terms were accepted. Nothing here downloads a tar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi_repro.data.sources import Stage
from pi_repro.data.sources.origin import Obtained, Origin, RemoteFile, Watch, origin_of, origins_folder
from pi_repro.errors import StateError
from pi_repro.files import read_json, sha256_file, write_json
from pi_repro.spec import supplied
from pi_repro.spec.card import Card, Source, SuiteSet

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
COUNT = "nshards.txt"
#: Written once a set is whole; what it says holds for every later fetch.
ADOPTED = "adopted.json"
_FETCHING = ".fetching"
#: Locator of a source that no server offers in this form.
BY_HAND = "by hand"


@dataclass(frozen=True)
class Supply:
    """A set whose files can be had.

    Attributes:
        entry: the set.
        source: its source.
        home: its folder in the data root.
        split: folder of the tars.
        origin: where missing files come from; None where all lie in `home`.
        files: what it consists of, as far as that is known.
        adopted: what an earlier fetch found; None before.
    """

    entry: SuiteSet
    source: Source
    home: Path
    split: str
    origin: Origin | None
    files: tuple[RemoteFile, ...]
    adopted: Mapping[str, Any] | None = field(default=None)

    @property
    def record(self) -> dict[str, object]:
        """What card.json says of the source, without the files' digests."""
        if self.adopted is not None:
            return dict(self.adopted["record"])
        if self.origin is not None:
            return dict(self.origin.record)
        brought = {"name": self.source.name, "kind": self.source.kind, "locator": self.source.locator}
        return {**brought, "revision": "brought by hand"}

    def missing_bytes(self) -> int:
        """Bytes that are still to come, as far as they are known."""
        return sum(file.bytes or 0 for file in self.files if not (self.home / file.name).exists())

    def bring(self, watch: Watch) -> dict[str, Obtained]:
        """All files in `home`, whole; by name.

        Raises:
            StateError: one cannot be had, or is not what the first fetch found.
            Interrupted: asked to stop.
        """
        if self.origin is None:
            return {file.name: _here(self.home, file, watch) for file in self.files}
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / _FETCHING).touch()
        brought = {file.name: self.origin.obtain(file, self.home / file.name, watch) for file in self.files}
        for name, before in (self.adopted or {"files": {}})["files"].items():
            if name not in brought or brought[name].sha256 != before["sha256"]:
                raise StateError(
                    "the set changed since it was first fetched",
                    where=f"{self.home / name}",
                    given=f"sha256:{brought[name].sha256}" if name in brought else "no such file",
                    allowed=f"sha256:{before['sha256']}",
                    todo="find out why; to accept what is there now, write its revision into the card",
                )
        return brought

    def adopt(self, files: Mapping[str, Obtained]) -> None:
        """Remember the files of a set that was found right."""
        digests = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in sorted(files.items())}
        content = {"source": _identity(self.source), "record": self.record, "files": digests}
        if content != self.adopted:
            write_json(self.home / ADOPTED, content)
        (self.home / _FETCHING).unlink(missing_ok=True)


def supply(card: Card, entry: SuiteSet, split: str, data_root: Path, context: Stage) -> Supply:
    """Find out where a set's files come from.

    Raises:
        StateError: they cannot be had; it says what a person must do.
    """
    source = next(source for source in card.sources if source.name == entry.source)
    home = data_root / card.name / entry.id
    wanted = _wanted(split)
    adopted = _adopted(home, source)
    if adopted is not None and not (missing := [name for name in adopted["files"] if not _fits(home, name, adopted)]):
        files = tuple(RemoteFile(name, one["bytes"], one["sha256"]) for name, one in adopted["files"].items())
        return Supply(entry, source, home, split, None, files, adopted)
    ours = (home / _FETCHING).exists() or (home / ADOPTED).exists()
    if (home / split / COUNT).is_file() and not ours:
        names = (path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
        return Supply(entry, source, home, split, None, tuple(map(RemoteFile, _kept(names, wanted))))
    try:
        origin = _origin(card, entry, source, context)
        by_name = {file.name: file for file in origin.files()}
        if adopted is None and f"{split}/{COUNT}" in by_name and not (home / split / COUNT).exists():
            # A gated repository may be listed by anyone; whether its files may be read shows here.
            origin.read(f"{split}/{COUNT}", 0, 1)
    except StateError as error:
        if adopted is not None:
            raise StateError(
                "files are missing or damaged, and cannot be fetched again",
                where=str(home),
                given=", ".join(missing[:5]),
                todo=f"{error} -- or delete {home / ADOPTED} after putting other files there",
            ) from None
        raise
    files = tuple(by_name[name] for name in _kept(by_name, wanted))
    return Supply(entry, source, home, split, origin, files, adopted)


def how_to(source: Source, home: Path) -> str:
    """What a person does to provide a set."""
    first = source.how_to or f"Put the set in webdataset form into {home}."
    ways = [first, f"Or give a copy: --from {source.name}=PATH."]
    if source.access == "gated" and source.locator != BY_HAND:
        ways.append(f"Or, where its terms are accepted, say so and have it fetched: {supplied.ACCEPTED}={source.name}.")
    return " ".join(ways)


def _origin(card: Card, entry: SuiteSet, source: Source, context: Stage) -> Origin:
    copies = supplied.copies()
    if source.name in copies:
        return origin_of(source, context)
    if card.name in copies:
        from pi_repro.data.sources.local import LocalOrigin
        from pi_repro.data.sources.pins import Pins

        for name in (entry.id, source.name, source.locator.rpartition("/")[2]):
            if (copies[card.name] / name).is_dir():
                return LocalOrigin.at(source, copies[card.name] / name, Pins(origins_folder(source, context)))
    if source.locator == BY_HAND:
        raise StateError("no server offers this set in this form", where=entry.id)
    if source.access == "gated" and source.name not in supplied.accepted():
        raise StateError("this set has terms that a person must accept", where=entry.id, given=source.licence)
    return origin_of(source, context)


def _identity(source: Source) -> dict[str, str]:
    return {"locator": source.locator, "revision": source.revision, "digest": source.digest}


def _adopted(home: Path, source: Source) -> dict[str, Any] | None:
    if not (home / ADOPTED).is_file():
        return None
    found: dict[str, Any] = read_json(home / ADOPTED)
    return found if found.get("source") == _identity(source) else None


def _fits(home: Path, name: str, adopted: Mapping[str, Any]) -> bool:
    try:
        return bool((home / name).stat().st_size == adopted["files"][name]["bytes"])
    except OSError:
        return False


def _here(home: Path, file: RemoteFile, watch: Watch) -> Obtained:
    path = home / file.name
    found = Obtained(path, path.stat().st_size, sha256_file(path), linked=path.is_symlink())
    watch.advance(found.bytes)
    if file.sha256 is not None and found.sha256 != file.sha256:
        raise StateError(
            "the file is not what the first fetch found",
            where=str(path),
            given=f"sha256:{found.sha256}",
            allowed=f"sha256:{file.sha256}",
            todo="delete it and fetch again; delete adopted.json beside it to accept what is there",
        )
    return found


def _wanted(split: str) -> Callable[[str], bool]:
    texts = {CLASSNAMES, TEMPLATES, TYPE, f"{split}/{COUNT}"}
    tar = re.compile(rf"{split}/(0|[1-9]\d*)\.tar")
    return lambda name: name in texts or tar.fullmatch(name) is not None


def _kept(names: Iterable[str], wanted: Callable[[str], bool]) -> list[str]:
    return sorted(filter(wanted, names))
