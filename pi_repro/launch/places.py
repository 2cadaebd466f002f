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
        RequestError: outside a workspace, or one of these names no folder.
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
    own = workspace / ".pirepro"
    return Places(
        workspace=workspace,
        scratch=_named("PIREPRO_SCRATCH") or own / "scratch",
        store=_named("PIREPRO_STORE") or own / "store",
        downloads=_named("PIREPRO_DOWNLOADS") or own / "downloads",
        data_root=_named("PIREPRO_DATA_ROOT"),
    )


def _named(variable: str) -> Path | None:
    """The folder that a variable names, which need not exist yet; None when it is not set."""
    value = os.environ.get(variable)
    if not value:
        return None
    todo = f"export {variable}=/a/folder, or unset {variable}"
    try:
        path = Path(value).expanduser().resolve()
    except RuntimeError as error:  # links in a circle, or ~ of nobody
        raise RequestError(f"names no folder: {error}", where=variable, given=value, todo=todo) from None
    ground = next(each for each in (path, *path.parents) if os.path.exists(each))
    if not os.path.isdir(ground):
        problem = "names a file, not a folder" if ground == path else f"lies below a file, {ground}"
        allowed = "a folder; it need not exist yet"
        raise RequestError(problem, where=variable, given=value, allowed=allowed, todo=todo)
    return path
