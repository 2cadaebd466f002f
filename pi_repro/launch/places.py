"""Where things lie on this machine. None of these paths ever reaches an output or a fingerprint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import RequestError


@dataclass(frozen=True)
class Places:
    """Folders of a workspace.

    Attributes:
        workspace: the checkout, which holds dvc.yaml and specs/.
        scratch: one folder a running stage, keyed by fingerprint; survives kills.
        store: one folder a published stage, keyed by fingerprint.
        downloads: archives fetched from package registries, keyed by digest.
        data_root: shards of large or restricted sets; None when not configured.
    """

    workspace: Path
    scratch: Path
    store: Path
    downloads: Path
    data_root: Path | None

    @property
    def state(self) -> Path:
        """The workspace's own small records (links, the driver's lock)."""
        return self.workspace / ".pirepro"


def find(start: Path | None = None) -> Places:
    """The places of the workspace around a folder.

    PIREPRO_SCRATCH, PIREPRO_STORE, PIREPRO_DOWNLOADS and PIREPRO_DATA_ROOT move single places.

    Raises:
        RequestError: outside a workspace.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "specs").is_dir():
            return _places(folder)
    raise RequestError(
        "no workspace here",
        given=here,
        allowed="a folder with dvc.yaml and specs/, or one below it",
        todo="cd into your clone of pi_repro",
    )


def _places(workspace: Path) -> Places:
    def place(variable: str, default: Path) -> Path:
        value = os.environ.get(variable)
        return Path(value).expanduser().resolve() if value else default

    own = workspace / ".pirepro"
    root = os.environ.get("PIREPRO_DATA_ROOT")
    return Places(
        workspace=workspace,
        scratch=place("PIREPRO_SCRATCH", own / "scratch"),
        store=place("PIREPRO_STORE", own / "store"),
        downloads=place("PIREPRO_DOWNLOADS", own / "downloads"),
        data_root=Path(root).expanduser().resolve() if root else None,
    )
