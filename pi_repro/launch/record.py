"""DVC's record of stages that were executed outside DVC: dvc.lock and cache, so that `dvc repro` has nothing to do."""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, Stage
from pi_repro.spec import yamlfile
from pi_repro.spec.fingerprint import LOCK

from .manifest import dvc_md5
from .places import Places
from .store import Published


def recorded(places: Places) -> dict[str, Any]:
    """The stages of dvc.lock, as they stand there."""
    path = places.workspace / "dvc.lock"
    if not path.is_file():
        return {}
    content = yamlfile.load_written(path)
    return dict((content or {}).get("stages") or {})


def unrecorded(plan: Plan, published: Mapping[str, Published], places: Places) -> list[str]:
    """Published stages whose entry in dvc.lock is missing or says something else."""
    entries = recorded(places)
    lock = hashlib.md5((places.workspace / LOCK).read_bytes(), usedforsecurity=False).hexdigest()
    outs = {stage.out: published[stage.name] for stage in plan.stages if stage.name in published}
    return [
        stage.name
        for stage in plan.stages
        if stage.name in published and not _agrees(entries.get(stage.name), stage, outs, lock)
    ]


def uncached(plan: Plan, published: Mapping[str, Published], places: Places) -> list[str]:
    """Published stages whose output is not in DVC's cache, from which `dvc push` takes it.

    A clone comes with a dvc.lock that may record the same bytes before they were computed here.
    """
    cache = _cache(places)
    found = []
    for stage in plan.stages:
        # Reports are git's, not the cache's (dvc.yaml).
        if stage.name in published and stage.kind != "report":
            md5 = _md5(stage.out, {stage.out: published[stage.name]})
            if not (cache / "files" / "md5" / md5[:2] / md5[2:]).is_file():
                found.append(stage.name)
    return found


def _cache(places: Places) -> Path:
    """DVC's cache: cache.dir of the narrowest configuration that names it, relative to its file."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    own = places.workspace / ".dvc"
    found = own / "cache"
    for file in (home / "dvc" / "config", own / "config", own / "config.local"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(file)
        if value := parser.get("cache", "dir", fallback=None):
            found = file.parent / Path(value).expanduser()
    return found


def _agrees(entry: Any, stage: Stage, outs: Mapping[str, Published], lock: str) -> bool:
    if not entry:
        return False
    wanted = {} if stage.kind == "fetch" else {LOCK: lock}
    for path in params.item(stage)["deps"].values():
        wanted[path] = _md5(path, outs)
    now = json.loads(json.dumps(params.item(stage)))
    return (
        {row["path"]: row.get("md5") for row in entry.get("deps", [])} == wanted
        and {row["path"]: row.get("md5") for row in entry.get("outs", [])} == {stage.out: _md5(stage.out, outs)}
        and entry.get("params", {}).get(params.PARAMS, {}).get(f"{stage.kind}.{stage.key}") == now
    )


def _md5(path: str, outs: Mapping[str, Published]) -> str:
    """DVC's hash of an output, or of a folder that holds several."""
    files: list[tuple[str, str]] = []
    for out, published in outs.items():
        if out == path or out.startswith(path + "/"):
            prefix = out.removeprefix(path).lstrip("/")
            files += [
                (f"{prefix}/{entry.path}" if prefix else entry.path, entry.md5) for entry in published.manifest.entries
            ]
    return dvc_md5(files)


def record(names: Iterable[str], places: Places) -> None:
    """Have DVC record stages whose outputs are in place; one process for all of them.

    Raises:
        StateError: when DVC is absent or refuses.
    """
    names = list(names)
    if not names:
        return
    if importlib.util.find_spec("dvc") is None:
        raise StateError(
            "DVC is not installed in this environment, so dvc.lock was not brought up to date",
            todo="make env, then run again: nothing is recomputed",
        )
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "commit", "--quiet", "--force", *names]
    done = subprocess.run(command, cwd=places.workspace, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StateError(
            "DVC could not record what was published",
            given=(done.stderr or done.stdout).strip()[-600:],
            todo="mend what it names and run again: nothing is recomputed",
        )
