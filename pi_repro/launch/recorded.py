"""What is recorded of a stage: its identity, its files, its provenance.

Rule: only reads. A stage's identity here is the one under which it was computed, so that a record made
with another lock or Python can be looked at too; the workspace counts as well as the store, when the
git-tracked provenance vouches for its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, Stage
from pi_repro.plan.resolve import Resolved, resolve
from pi_repro.spec.fingerprint import environment_id

from . import manifest as manifests
from .manifest import Manifest
from .places import Places
from .store import Store
from .workspace import provenance_path

TRAINING, LEDGER = "training.json", "ledger.jsonl"


@dataclass(frozen=True)
class Recorded:
    """The output of one execution.

    Attributes:
        name: the stage, or the folder as it was given.
        out: the folder of its files.
        manifest: the files' digests.
        provenance: when, where and by what; empty when nobody knows.
    """

    name: str
    out: Path
    manifest: Manifest
    provenance: Mapping[str, Any]

    @property
    def ledger(self) -> Path | None:
        """The ledger of a training; None for all other outputs."""
        path = self.out / LEDGER
        return path if path.is_file() else None

    @cached_property
    def training(self) -> dict[str, Any]:
        """What training.json says.

        Raises:
            StateError: it is missing or damaged.
        """
        return dict(read_json(self.out / TRAINING))

    def check(self, *paths: str) -> None:
        """Compare some files with their digests.

        Raises:
            StateError: naming the file that is missing or damaged.
        """
        some = Manifest(tuple(entry for entry in self.manifest.entries if entry.path in paths))
        for entry in some.entries:
            path = self.out / entry.path
            if not path.is_file() or manifests.read(path, entry.path) != entry:
                raise StateError(
                    f"missing or damaged: not the bytes that {self.name} published",
                    where=str(path),
                    allowed=f"sha256 {entry.sha256}",
                    todo="`pirepro gc --damaged` removes what is damaged in the store; `dvc pull` brings it again",
                )


def identities(plan: Plan, places: Places) -> dict[str, Resolved]:
    """Every stage of a plan under the environment in which the workspace's record was made, else under this one.

    A stage's digest is that of the store, or of the git-tracked provenance; its files need not be here.
    """
    store, here = Store(places.store), environment_id(places.workspace)
    done: dict[str, Resolved] = {}
    for stage in plan.stages:
        record = _record(stage, places)
        for environment in dict.fromkeys((record.get("environment") or here, here)):
            item = resolve(stage, plan.parents[stage.name], done, environment, store.digest)
            if item.digest is None and item.fingerprint and item.fingerprint == record.get("fingerprint"):
                item = replace(item, digest=record.get("outputs"))
            done[stage.name] = item
            if item.digest is not None:
                break
    return done


def _record(stage: Stage, places: Places) -> dict[str, Any]:
    path = provenance_path(places, stage)
    return dict(read_json(path)) if path.is_file() else {}


def absent(items: list[Resolved], places: Places) -> list[str]:
    """Outputs, as paths of the workspace, whose files are neither in the store nor in the workspace."""
    store = Store(places.store)
    return [
        item.stage.out
        for item in items
        if not (item.fingerprint and store.get(item.fingerprint)) and not (places.workspace / item.stage.out).is_dir()
    ]


def of_stage(item: Resolved, places: Places) -> Recorded:
    """The recorded output of a stage, in the store or in the workspace.

    Raises:
        StateError: nothing is recorded under the settings of now, its files are not here, or the
            workspace holds other bytes than were recorded.
    """
    stage = item.stage
    if item.fingerprint is None or item.digest is None:
        waiting = f"{item.waiting_for[0]} is not recorded" if item.waiting_for else None
        raise StateError(
            "nothing is recorded of this stage under the settings of now",
            where=stage.name,
            given=waiting,
            todo=f"pirepro explain {stage.name} says what changed; pirepro run SPEC computes it",
        )
    published = Store(places.store).get(item.fingerprint)
    if published is not None:
        return Recorded(stage.name, published.out, published.manifest, published.provenance)
    if missing := absent([item], places):
        raise away(stage.name, missing)
    target = places.workspace / stage.out
    found = manifests.of_folder(target)
    if found.digest != item.digest:
        raise StateError(
            f"not the bytes that {stage.name} gave, as its provenance records",
            where=str(target),
            todo=f"`dvc checkout --force {stage.out}` restores them",
        )
    return Recorded(stage.name, target, found, _record(stage, places))


def away(name: str, missing: list[str]) -> StateError:
    """The error for recorded files that are not here."""
    return StateError(
        "recorded, but its files are not here",
        where=name,
        given="missing: " + ", ".join(missing),
        todo="dvc pull " + " ".join(missing),
    )


def named(given: str, places: Places) -> Recorded:
    """A record as a person names it: a stage, or a folder of outputs.

    Raises:
        RequestError: it is neither.
        StateError: as `of_stage`.
    """
    if "@" in given and not Path(given).is_dir():
        plan = params.plan(places.workspace)
        plan.stage(given)
        found = of_stage(identities(plan.with_ancestors({given}), places)[given], places)
        found.check(LEDGER, TRAINING)
        return found
    folder = Path(given).absolute()
    if not folder.is_dir():
        raise RequestError(
            "neither a stage nor a folder",
            given=given,
            allowed="a stage as `pirepro plan` lists it, or a folder of outputs: artifacts/demo/pi-s0/pretrain",
        )
    inner = folder / "out"
    if (folder / "manifest.json").is_file() and inner.is_dir():
        folder = inner  # an entry of a store
    content = manifests.of_folder(folder)
    return Recorded(given, folder, content, _beside(folder, content.digest))


def _beside(folder: Path, digest: str) -> dict[str, Any]:
    """The provenance of a folder's bytes: beside it in a store, or in the provenance/ of a workspace around it."""
    own = folder.parent / "provenance.json"
    shelves = [own] if own.is_file() else []
    for parent in folder.parents:
        if (parent / "dvc.yaml").is_file():
            shelves += sorted((parent / "provenance").glob("*.json"))
            break
    return next((record for path in shelves if (record := read_json(path)).get("outputs") == digest), {})
