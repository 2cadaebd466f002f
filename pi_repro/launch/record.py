"""DVC's record of stages that were executed outside DVC: dvc.lock and cache, so that `dvc repro` has nothing to do.

Rule: DVC is never killed here. With its lock for shared file systems (core.hardlink_lock) a killed DVC would leave
that lock behind for a year.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError
from pi_repro.files import write_atomic
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, Stage
from pi_repro.spec import yamlfile
from pi_repro.spec.fingerprint import LOCK

from . import workspace
from .manifest import dvc_md5
from .places import Places
from .store import Published


def recorded(places: Places) -> dict[str, Any]:
    """The stages of dvc.lock, as they stand there.

    Raises:
        StateError: it is damaged.
    """
    path = places.workspace / "dvc.lock"
    if not path.is_file():
        return {}
    content = yamlfile.load_written(path) or {}
    stages = (content.get("stages") or {}) if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise yamlfile.damaged(path, "`stages:` is no list of stages by name")
    for name, entry in stages.items():
        if not _is_entry(entry):
            raise yamlfile.damaged(path, f"the entry of {name} is none of DVC's")
    return dict(stages)


def _is_entry(entry: Any) -> bool:
    """Whether a stage's entry has the form that is read here."""
    if not isinstance(entry, dict):
        return False
    rows, files = [entry.get("deps", []), entry.get("outs", [])], entry.get("params", {})
    return (
        all(isinstance(each, list) and all(isinstance(row, dict) and "path" in row for row in each) for each in rows)
        and isinstance(files, dict)
        and isinstance(found := files.get(params.PARAMS, {}), dict)
        and all(isinstance(value, dict) for value in found.values())
    )


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


@dataclass
class Recorder:
    """Records the stages of a plan as they are published, several at once.

    Attributes:
        plan: whose stages.
        places: where.
        say: told how many stages are being recorded, or what DVC said instead.
        every_s: seconds between two records while stages go on.
    """

    plan: Plan
    places: Places
    say: Callable[[str], None]
    every_s: float = 10.0
    _recorded: set[str] = field(default_factory=set)
    _last: float = float("-inf")

    def some(self, published: Mapping[str, Published]) -> None:
        """Record what is new, unless that was done a moment ago; what DVC refuses is tried again."""
        if time.monotonic() - self._last < self.every_s or not published.keys() - self._recorded:
            return
        try:
            self._record(published, patience_s=0)
        except StateError as error:
            self.say(f"not yet: {error.given or error.problem}")
        self._last = time.monotonic()

    def rest(self, published: Mapping[str, Published]) -> None:
        """Record all that is left.

        Raises:
            StateError: when DVC is absent or refuses.
        """
        if published.keys() - self._recorded:
            self._record(published, patience_s=600)

    def _record(self, published: Mapping[str, Published], patience_s: float) -> None:
        new = {name: found for name, found in published.items() if name not in self._recorded}
        wanting = {*unrecorded(self.plan, published, self.places), *uncached(self.plan, new, self.places)} & new.keys()
        ends, single = ends_of(self.plan, wanting, published)
        touched = {stage.name for stage in self.plan.with_ancestors({*ends}).stages} | {*single}
        for stage in self.plan.stages:
            if stage.name in touched:
                # A second `dvc repro` removes outputs that are not recorded yet before it is refused.
                workspace.show(stage, published[stage.name], self.places)
        if wanting:
            self.say(f"{len(wanting)} stages")
        if ends:
            record(ends, self.places, patience_s, with_ancestors=True)
        if single:
            record(single, self.places, patience_s)
        self._recorded |= new.keys()


def lock_for_shared_folders(places: Places) -> None:
    """Have DVC lock by hard links from now on, which every shared file system knows; this workspace only."""
    path = places.workspace / ".dvc" / "config.local"
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    if parser.get("core", "hardlink_lock", fallback="") != "true":
        if not parser.has_section("core"):
            parser.add_section("core")
        parser.set("core", "hardlink_lock", "true")
        text = io.StringIO()
        parser.write(text)
        # DVC keeps keys of remotes in this file.
        write_atomic(path, text.getvalue().encode(), stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600)


def ends_of(plan: Plan, wanting: Collection[str], published: Collection[str]) -> tuple[list[str], list[str]]:
    """By which names DVC records stages: ends, each with all that it depends on, and single stages.

    DVC reads and writes the whole dvc.lock for each name that it is given (DVC 3: `dvc commit A B` is `dvc commit A`
    and then `dvc commit B`), some seconds each where hundreds are recorded; once for a name with all before it.
    """
    left = set(wanting)
    ends: list[str] = []
    single: list[str] = []
    for stage in reversed(plan.stages):
        if stage.name not in left:
            continue
        before = {each.name for each in plan.with_ancestors({stage.name}).stages}
        if len(before & left) > 1 and before <= set(published):
            ends.append(stage.name)
            left -= before
        else:
            single.insert(0, stage.name)
            left.remove(stage.name)
    return ends, single


def record(names: Iterable[str], places: Places, patience_s: float = 600, *, with_ancestors: bool = False) -> None:
    """Have DVC record stages whose outputs are in place; one process for all of them.

    Args:
        names: the stages.
        places: where.
        patience_s: how long to wait for another DVC command to end, seconds.
        with_ancestors: record also what they depend on.

    Raises:
        StateError: when DVC is absent or refuses.
    """
    names = list(names)
    if importlib.util.find_spec("dvc") is None:
        raise StateError(
            "DVC is not installed in this environment, so dvc.lock was not brought up to date",
            todo="make env, then run again: nothing is recomputed",
        )
    command = [sys.executable, "-m", "dvc", "commit", "--force", *(["--with-deps"] if with_ancestors else []), *names]
    end = time.monotonic() + patience_s
    while True:
        status, said = _to_its_end(command, places.workspace)
        if status == 0:
            return
        busy = "acquire lock" in said or "is busy" in said
        if not busy or time.monotonic() > end:
            break
        time.sleep(1)
    todo = "mend what it names and run again: nothing is recomputed"
    if busy:
        todo = (
            "wait for the other DVC command and run again: nothing is recomputed;\n"
            "           if no DVC command runs in this workspace, on no host, one was killed: rm .dvc/tmp/lock"
        )
    given = said[-600:] or f"it ended with status {status} and said nothing"
    raise StateError("DVC could not record what was published", given=given, todo=todo)


def _to_its_end(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command that neither Ctrl-C nor the end of a terminal reaches; what it says, and its status."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        said.seek(0)
        return status, said.read().decode(errors="replace").strip()
