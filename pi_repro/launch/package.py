"""`pirepro package`: an experiment as an RO-Crate, from recipe to report, every file checked on the way.

Rule: a crate mirrors the workspace, so that it can be laid over a clone. Data are never packed and weights on
request; what is left out stays known by its digest, in manifests/. The same experiment gives the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import files_under, read_json, sha256_file
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, Stage, build
from pi_repro.spec import yamlfile
from pi_repro.spec.loading import Loaded

from . import anonymity, crate, inspect, record, source, workspace
from .archive import write_zip
from .crate import Crate, File, Run
from .places import Places
from .readme import readme
from .store import Published, Store

#: Files of the workspace that a rebuild reads, and what they are.
SHARED = {
    "params.json": "Resolved settings of all enabled experiments, as dvc.yaml reads them",
    "dvc.yaml": "The stages as DVC runs them",
    "dvc.lock": "Digests of inputs and outputs as DVC recorded them",
    "requirements.lock": "Packages that can alter bits, with hashes",
    "requirements-dev.lock": "Packages that drive and check, with hashes",
    "LICENSE": "License of the package",
    "CITATION.cff": "How to cite",
}
_WEIGHTS = ("weights/", "states/")


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        path: the folder or archive.
        files: how many, the metadata included.
        bytes: their size before compression.
        sha256: of the archive; None for a folder.
        changed: stages that ran with uncommitted changes.
    """

    path: Path
    files: int
    bytes: int
    sha256: str | None
    changed: tuple[str, ...]


def package(
    loaded: Loaded, destination: Path | None, places: Places, *, anonymous: bool = False, weights: bool = False
) -> Packed:
    """Export an experiment as an RO-Crate.

    Args:
        loaded: the experiment.
        destination: a folder, or a file ending in .zip; None for NAME-crate.zip in the current folder.
        places: where things lie.
        anonymous: for double-blind review; see `anonymity`.
        weights: pack weights and full states too.

    Raises:
        RequestError: when something lies at the destination.
        StateError: when a stage is missing, a file is damaged, a name was found, or `rocrate` is absent.
    """
    name = loaded.experiment.name
    destination = destination or Path(f"{name}-crate.zip")
    _refuse(destination)
    plan = build([loaded]).of(name)
    published = _published(plan, loaded, places)
    citation = yamlfile.load_written(places.workspace / "CITATION.cff")
    found = [_record(stage, published[stage.name], places) for stage in plan.stages]
    records = anonymity.provenance(found) if anonymous else found
    known = anonymity.gather(places.workspace, citation) if anonymous else None
    if anonymous:
        citation = {key: value for key, value in citation.items() if key not in ("authors", *anonymity.LINKS)}
    folder = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}"
    try:
        files = _shared(loaded, places, folder, anonymous=anonymous)
        for stage, entry in zip(plan.stages, records, strict=True):
            files += _stage(stage, published[stage.name], entry, folder, weights=weights)
        runs = tuple(_run(stage, plan, published, entry) for stage, entry in zip(plan.stages, records, strict=True))
        spec = _spec_path(loaded, places)
        commits = {_commit(told): _commit(real) for told, real in zip(records, found, strict=True) if _commit(real)}
        code = source.pack(places.workspace, commits, folder, known)
        files += [_file(folder, path, "The code that computed it") for path in code.values()]
        files.append(
            _text(folder, "README.md", readme(loaded.experiment, spec, runs, code, weights=weights), "Read me first")
        )
        files.sort(key=lambda file: file.path)
        sums = "".join(f"{file.sha256}  {file.path}\n" for file in files)
        files.append(_text(folder, "SHA256SUMS", sums, "For `sha256sum -c`: every file but this and the metadata"))
        told = (
            loaded.experiment.title,
            loaded.experiment.notice,
            "What figures show is licensed as data/*/card.json say",
        )
        about = ". ".join(filter(None, told)) + "."
        crate.write(Crate(f"pi_repro: {name}", about, spec, tuple(files), runs, code, citation), folder)
        if known:
            anonymity.check(folder, known)
        size = sum(path.stat().st_size for path in files_under(folder))
        zipped = destination.suffix == ".zip"
        _place(folder, destination, zipped=zipped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    changed = tuple(run.name for run in runs if run.record.get("git", {}).get("dirty"))
    return Packed(destination, len(files) + 1, size, sha256_file(destination) if zipped else None, changed)


def _refuse(destination: Path) -> None:
    if importlib.util.find_spec("rocrate") is None:
        raise StateError(
            "rocrate is not installed in this environment, and it writes the crate's metadata", todo="make env"
        )
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists():
        raise RequestError(
            "something lies where the crate goes",
            given=destination,
            allowed="a new folder, or a new file ending in .zip",
            todo="name another, or remove it",
        )
    if not destination.parent.is_dir():
        raise RequestError("no folder for the crate", given=destination.parent, todo=f"mkdir -p {destination.parent}")


def _published(plan: Plan, loaded: Loaded, places: Places) -> dict[str, Published]:
    """All stages' outputs; a crate of half an experiment would be taken for the whole."""
    found, missing = {}, []
    store = Store(places.store)
    for state in inspect.states(plan, places):
        published = store.get(state.fingerprint) if state.fingerprint else None
        if published:
            found[state.stage.name] = published
        else:
            missing.append(f"{state.stage.name} ({state.kind})")
    todo = f"pirepro run {_spec_path(loaded, places)}, then package again"
    if missing:
        raise StateError(
            f"{len(missing)} of {len(plan.stages)} stages are not published",
            where=loaded.experiment.name,
            given=", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else ""),
            allowed="a complete experiment",
            todo=todo,
        )
    enabled = [path.resolve() for path in params.enabled(places.workspace)]
    current = params.is_current(places.workspace, params.plan(places.workspace))
    if loaded.path.resolve() not in enabled or not current:
        raise StateError("params.json is not what this spec and the enabled ones say", where=params.PARAMS, todo=todo)
    if stages := record.unrecorded(plan, found, places):
        raise StateError("dvc.lock does not record what is published", given=", ".join(stages[:8]), todo=todo)
    return found


def _record(stage: Stage, published: Published, places: Places) -> dict[str, Any]:
    """The git-tracked provenance, which must be that of the published output."""
    path = workspace.provenance_path(places, stage)
    content: dict[str, Any] = read_json(path)
    wanted = {"fingerprint": published.fingerprint, "outputs": published.manifest.digest}
    for field, value in wanted.items():
        if content.get(field) != value:
            raise StateError(
                f"the provenance of {stage.name} is not that of its published output",
                where=f"{path.relative_to(places.workspace)}: {field}",
                given=content.get(field),
                allowed=value,
                todo="pirepro run, which writes it again",
            )
    return content


def _shared(loaded: Loaded, places: Places, folder: Path, *, anonymous: bool) -> list[File]:
    """Recipe, cards, model and what a rebuild reads besides."""
    given = loaded.path.parent
    rows = [(loaded.path, _spec_path(loaded, places), "Recipe of the experiment")]
    rows += [(base, f"specs/{base.name}", "Recipe that it extends") for base in loaded.bases]
    if loaded.claims is not None and (report := loaded.experiment.science.report):
        rows.append((given / f"{report.claims}.yaml", f"specs/{report.claims}.yaml", "Claims that the report judges"))
    for name in loaded.cards:
        rows.append(
            (given / "data" / f"{name}.yaml", f"specs/data/{name}.yaml", f"Card of {name}: sources and licences")
        )
    model = f"{loaded.experiment.science.model.name}.json"
    if (given / "models" / model).is_file():
        rows.append(
            (given / "models" / model, f"specs/models/{model}", "Configuration of the model, as open_clip reads it")
        )
    rows += [
        (given / entry["file"], f"specs/{entry['file']}", "Given to the probes: for RSA")
        for entry in loaded.given.values()
    ]
    rows += [
        (places.workspace / name, name, description)
        for name, description in SHARED.items()
        if not (anonymous and name == "CITATION.cff")
    ]
    return [_copy(source, folder, path, description) for source, path, description in rows]


def _stage(
    stage: Stage, published: Published, entry: Mapping[str, Any], folder: Path, *, weights: bool
) -> Iterator[File]:
    """A stage's provenance, its manifest, and those of its files that are packed."""
    told = json.dumps(entry, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    yield _text(folder, f"provenance/{stage.name}.json", told, f"When, on what and by what {stage.name} was executed")
    manifest = f"manifests/{stage.name}.json"
    about = f"Settings and input digests of {stage.name}, and the sha256 of all its files, packed or not"
    yield _copy(published.folder / "manifest.json", folder, manifest, about)
    for row in published.manifest.entries:
        if _wanted(stage, row.path, weights=weights):
            about = f"{_KINDS.get(PurePosixPath(row.path).name, 'Part of the output')} of {stage.name}"
            yield _copy(published.out / row.path, folder, f"{stage.out}/{row.path}", about, row.sha256)


_KINDS = {
    "card.json": "What was fetched, from where, under which licences: card",
    "training.json": "What was trained, and digests of the weights",
    "ledger.jsonl": "Loss, gradient norm and checksums of each update",
    "curves.csv": "Training curves",
    "report.md": "Text",
    "index.html": "Page",
}


def _wanted(stage: Stage, path: str, *, weights: bool) -> bool:
    if stage.kind == "fetch":
        return path == "card.json"
    return weights or not path.startswith(_WEIGHTS)


def _run(stage: Stage, plan: Plan, published: Mapping[str, Published], entry: Mapping[str, Any]) -> Run:
    parents = {name for names in plan.parents[stage.name].values() for name in names}
    outs = tuple(maker.out for maker in plan.stages if maker.name in parents)
    return Run(stage.name, stage.out, outs, published[stage.name].manifest.digest, entry)


def _copy(source: Path, folder: Path, path: str, description: str, sha256: str | None = None) -> File:
    """Copy a file and read the copy; what the crate holds is what was published, or nothing is written."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise StateError("a file of the experiment is missing", where=str(source)) from None
    found = sha256_file(target)
    if sha256 not in (None, found):
        raise StateError(
            "damaged: not the bytes that were published",
            where=str(source),
            given=f"sha256 {found}",
            allowed=f"sha256 {sha256}",
            todo="`pirepro gc --damaged` removes what is damaged; run again and it is rebuilt",
        )
    return File(path, found, target.stat().st_size, description)


def _text(folder: Path, path: str, text: str, description: str) -> File:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return _file(folder, path, description)


def _file(folder: Path, path: str, description: str) -> File:
    return File(path, sha256_file(folder / path), (folder / path).stat().st_size, description)


def _commit(record: Mapping[str, Any]) -> str:
    return str(record.get("git", {}).get("commit") or "")


def _spec_path(loaded: Loaded, places: Places) -> str:
    """The spec's path in the workspace, and in the crate; as given when it lies elsewhere."""
    path = loaded.path.resolve()
    return path.relative_to(places.workspace).as_posix() if path.is_relative_to(places.workspace) else str(loaded.path)


def _place(folder: Path, destination: Path, *, zipped: bool) -> None:
    if not zipped:
        os.replace(folder, destination)
        return
    unfinished = folder.with_name(folder.name + ".zip")
    try:
        write_zip(folder, unfinished)
        os.replace(unfinished, destination)
    finally:
        unfinished.unlink(missing_ok=True)
