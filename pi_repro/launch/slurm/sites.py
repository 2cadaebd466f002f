"""Which site jobs go to: the workspace's slurm/sites/, the one chosen, and the folders it brings.

A choice is the workspace's own (.pirepro/site) and stays until it is changed; PIREPRO_SITE wins for one command.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from pi_repro.errors import RequestError
from pi_repro.files import write_atomic
from pi_repro.launch.places import Places
from pi_repro.provenance.determinism_env import ENVIRONMENT
from pi_repro.spec import site as specs
from pi_repro.spec import yamlfile
from pi_repro.spec.base import NAME_PATTERN
from pi_repro.spec.site import Site
from pi_repro.spec.validation import nearest

#: Variable that chooses a site for one command.
VARIABLE = "PIREPRO_SITE"

#: What the launcher or SLURM sets; a site that set it would alter bits or lose its job.
_NOT_ITS_OWN = {*ENVIRONMENT, "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK", "WORLD_SIZE"}


def folder(workspace: Path) -> Path:
    """Where a workspace's sites lie."""
    return workspace / "slurm" / "sites"


def names(workspace: Path) -> list[str]:
    """The workspace's sites, sorted."""
    return sorted(path.stem for path in folder(workspace).glob("*.yaml"))


def path_of(name_or_path: str, workspace: Path) -> Path:
    """The file of a site: a name, or a path where it holds a slash or ends in .yaml or .yml.

    Raises:
        RequestError: no site of this name.
    """
    if os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path).expanduser().absolute()
    known = names(workspace)
    if name_or_path not in known:
        guess = nearest(name_or_path, known)
        raise RequestError(
            "no site of this name",
            given=name_or_path,
            allowed=", ".join(known) or f"a file in {folder(workspace)}",
            todo=f"did you mean {guess!r}?" if guess else "pirepro site init NAME, on the cluster's login node",
        )
    return folder(workspace) / f"{name_or_path}.yaml"


def load(name_or_path: str, workspace: Path) -> Site:
    """Read and check a site; a relative image is made absolute from the workspace.

    Raises:
        RequestError: no such site, or with every error found in its file.
    """
    path = path_of(name_or_path, workspace)
    site = specs.load(path)
    for variable in site.environment:
        if variable in _NOT_ITS_OWN or variable.startswith("PIREPRO_"):
            raise RequestError(
                f"{variable} is set by the launcher, for every site alike",
                where=yamlfile.load(path).where(("environment", variable)),
                todo="remove the line",
            )
    runtime = site.runtime
    if runtime.image and runtime.kind not in ("podman", "docker"):
        image = str(workspace / runtime.image)  # an absolute one stays as it is
        site = site.model_copy(update={"runtime": runtime.model_copy(update={"image": image})})
    return site


def chosen(workspace: Path) -> str | None:
    """The site to which jobs of this workspace go (name or path); None: they run here."""
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return given
    try:
        return _choice(workspace).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def choose(workspace: Path, name: str | None) -> None:
    """Send this workspace's jobs to a site from now on; None: run them here.

    Raises:
        RequestError: no such site, or errors in its file.
    """
    if name is None:
        _choice(workspace).unlink(missing_ok=True)
        return
    load(name, workspace)
    is_name = name in names(workspace)
    write_atomic(_choice(workspace), f"{name if is_name else path_of(name, workspace)}\n".encode())


def new(workspace: Path, name: str) -> Path:
    """The file of a site that is to be written.

    Raises:
        RequestError: no name for a site, or there is one of this name.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > 48:
        raise RequestError("no name for a site", given=name, allowed="a-z, 0-9 and single dashes, 48 characters")
    path = folder(workspace) / f"{name}.yaml"
    if path.exists():
        raise RequestError(
            "there is a site of this name", where=str(path), todo="change it there, or remove it, or take another name"
        )
    return path


def write(workspace: Path, name: str, text: str) -> Path:
    """Write a new site's file.

    Raises:
        RequestError: as `new`, or errors in the text; then nothing was written.
    """
    path = new(workspace, name)
    with tempfile.TemporaryDirectory() as beside:
        draft = Path(beside) / path.name
        draft.write_text(text, encoding="utf-8")
        specs.load(draft)
    write_atomic(path, text.encode())
    return path


def places(site: Site, here: Places) -> Places:
    """A workspace's places with the site's folders; a PIREPRO_ variable that moves one still wins."""
    moved = {
        field: Path(value).resolve()
        for field in ("scratch", "store", "downloads", "data_root")
        if (value := getattr(site, field)) and not os.environ.get(f"PIREPRO_{field.upper()}")
    }
    return replace(here, **moved)


def _choice(workspace: Path) -> Path:
    return workspace / ".pirepro" / "site"
