"""The store: complete, checksummed outputs by fingerprint. A name in it is either absent or whole.

<store>/<fingerprint>/out/            the output
<store>/<fingerprint>/manifest.json   its files' digests and what the fingerprint hashes
<store>/<fingerprint>/provenance.json when, by what
<store>/.incoming/<attempt>/          a publication under way; swept by `pirepro gc`
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import files_under, read_json, sync_folder, write_json

from . import manifest as manifests
from .manifest import Manifest


@dataclass(frozen=True)
class Published:
    """A published output."""

    fingerprint: str
    folder: Path
    manifest: Manifest

    @property
    def out(self) -> Path:
        """The folder of its files."""
        return self.folder / "out"

    @property
    def provenance(self) -> dict[str, Any]:
        """When and by what it was made."""
        return dict(read_json(self.folder / "provenance.json"))

    def check(self, stage: str) -> None:
        """Read all of it and compare with the manifest; StateError names a damaged file."""
        self.manifest.check(self.out, stage)


class Store:
    """Published outputs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, fingerprint: str) -> Published | None:
        """What was published under a fingerprint, not yet checked; None when nothing was."""
        folder = self.root / fingerprint
        if not (folder / "manifest.json").is_file():
            return None
        content = read_json(folder / "manifest.json")
        return Published(fingerprint, folder, manifests.from_plain(content["files"]))

    def digest(self, fingerprint: str) -> str | None:
        """Content digest of what was published, or None."""
        found = self.get(fingerprint)
        return found.manifest.digest if found else None

    def publish(
        self, fingerprint: str, payload: Mapping[str, Any], out: Path, provenance: Mapping[str, Any]
    ) -> Published:
        """Move a complete output into the store.

        Raises:
            StateError: when the fingerprint was published with other bits; both are kept.
        """
        found = manifests.of_folder(out)
        attempt = self.root / ".incoming" / f"{fingerprint[:16]}-{uuid.uuid4().hex[:8]}"
        attempt.mkdir(parents=True)
        _move(out, attempt / "out")
        content = {"fingerprint": fingerprint, "payload": payload, "digest": found.digest, "files": found.to_plain()}
        write_json(attempt / "provenance.json", {**provenance, "fingerprint": fingerprint, "outputs": found.digest})
        write_json(attempt / "manifest.json", content)
        target = self.root / fingerprint
        try:
            os.rename(attempt, target)
        except OSError:
            return self._compare(fingerprint, attempt, found, exact=payload["settings"].get("mode") != "fast")
        sync_folder(self.root)
        return Published(fingerprint, target, found)

    def _compare(self, fingerprint: str, attempt: Path, new: Manifest, *, exact: bool) -> Published:
        old = self.get(fingerprint)
        if old is None:
            raise StateError(
                "the store holds an incomplete entry",
                where=str(self.root / fingerprint),
                todo="`pirepro gc --damaged` removes it; run again",
            )
        if old.manifest.digest == new.digest or not exact:
            shutil.rmtree(attempt)
            return old
        known = {entry.path: entry.sha256 for entry in old.manifest.entries}
        first = next((entry.path for entry in new.entries if known.get(entry.path) != entry.sha256), "a missing file")
        raise StateError(
            "two runs of one recipe gave different bits; both are kept",
            where=str(old.folder),
            given=f"{attempt} differs first in {first}",
            todo="compare the two folders' provenance.json (device, packages); please report it",
        )

    def entries(self) -> list[str]:
        """Fingerprints of all that was published."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))


def _move(source: Path, target: Path) -> None:
    """Rename, or copy where the file systems differ; every file is durable afterwards."""
    try:
        os.rename(source, target)
    except OSError:
        shutil.copytree(source, target)
        shutil.rmtree(source)
    for path in files_under(target):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for folder, _, _ in os.walk(target, topdown=False):
        sync_folder(Path(folder))
