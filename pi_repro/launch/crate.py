"""What a crate says of itself: RO-Crate 1.3 metadata of an experiment, and one process run a stage.

Rule: a function of what is told here alone, so that the same experiment gives the same bytes. The entities
follow the Process Run Crate profile: a CreateAction a stage, its instrument the package at a commit.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pi_repro.files import write_atomic

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.5"
#: The package's license; what drawings of a figure fall under stands in the data cards.
LICENCE: Final = {
    "Apache-2.0": (
        "https://spdx.org/licenses/Apache-2.0",
        "Apache License 2.0",
        "Permits use, change and redistribution with notice; grants patents; no warranty.",
    )
}
WITHHELD: Final = {"name": "Authors withheld for review"}

_FORMATS: Final = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".yaml": "application/yaml",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
}


@dataclass(frozen=True)
class File:
    """A file of the crate: POSIX path in it, hex sha256, size in bytes, and what it is."""

    path: str
    sha256: str
    bytes: int
    description: str


@dataclass(frozen=True)
class Run:
    """A stage that was executed.

    Attributes:
        name: the stage.
        out: folder of its output, in the workspace as in the crate.
        inputs: folders of the stages it read.
        digest: content digest of its complete output.
        record: its provenance.
    """

    name: str
    out: str
    inputs: tuple[str, ...]
    digest: str
    record: Mapping[str, Any]

    @property
    def ended(self) -> str:
        """When it was published, ISO 8601 in UTC; older records tell begin and duration only."""
        if "ended" in self.record:
            return str(self.record["ended"])
        begun = calendar.timegm(time.strptime(self.record["begun"], "%Y-%m-%dT%H:%M:%SZ"))
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun + round(self.record["wall_s"])))


@dataclass(frozen=True)
class Crate:
    """All that the metadata tells.

    Attributes:
        name, description: of the whole.
        spec: path of the recipe.
        files: everything packed but the metadata itself.
        runs: the stages, in an order in which each comes after what it read.
        code: commit, as the records name it -> path of the archive that holds the code.
        citation: content of CITATION.cff; without "authors" when they are withheld.
    """

    name: str
    description: str
    spec: str
    files: tuple[File, ...]
    runs: tuple[Run, ...]
    code: Mapping[str, str]
    citation: Mapping[str, Any]


def write(crate: Crate, folder: Path) -> None:
    """Write ro-crate-metadata.json into a folder that holds the files."""
    from rocrate.rocrate import ROCrate

    made = ROCrate(version="1.3")
    made.metadata["name"], made.metadata["encodingFormat"] = "What this crate is", "application/ld+json"
    root = made.root_dataset
    newest = max(run.ended for run in crate.runs)
    root["name"], root["description"], root["datePublished"] = crate.name, crate.description, _time(newest)
    root["license"] = _licence(made, str(crate.citation.get("license", "Apache-2.0")))
    authors = [_agent(made, author) for author in crate.citation.get("authors") or [WITHHELD]]
    root["author"], root["publisher"] = _some(authors), authors[0]
    root["isBasedOn"] = paper = _paper(made, crate.citation)
    root["conformsTo"] = _entity(made, PROFILE, ["CreativeWork", "Profile"], name="Process Run Crate", version="0.5")
    # The library quotes names, so entities are found by what it returns.
    known = {run.out: _folder(made, run, crate.files) for run in crate.runs}
    known |= {
        file.path: made.add_file(dest_path=file.path, properties=_properties(file, crate)) for file in crate.files
    }
    for run in crate.runs:
        inside = [known[file.path] for file in crate.files if file.path.startswith(run.out + "/")]
        if inside:
            known[run.out]["hasPart"] = _some(inside)
        _action(made, crate, run, known, paper)
    root["mainEntity"] = known[crate.spec]
    root["mentions"] = _some([made.get(_action_id(run)) for run in crate.runs])
    text = json.dumps(made.metadata.generate(), indent=1, ensure_ascii=False, sort_keys=True)
    write_atomic(folder / "ro-crate-metadata.json", (text + "\n").encode())


def _properties(file: File, crate: Crate) -> dict[str, Any]:
    return {
        "@type": ["File", "SoftwareSourceCode"] if file.path in crate.code.values() else "File",
        "name": PurePosixPath(file.path).name,
        "description": file.description,
        "encodingFormat": _FORMATS.get(PurePosixPath(file.path).suffix, "text/plain"),
        "contentSize": str(file.bytes),
        "sha256": file.sha256,
    }


def _folder(made: ROCrate, run: Run, files: Sequence[File]) -> Any:
    packed = sum(file.path.startswith(run.out + "/") for file in files)
    properties = {
        "name": run.out,
        "description": f"Output of {run.name}. Files packed: {packed}; all are listed in manifests/{run.name}.json.",
        "identifier": f"sha256:{run.digest}",
    }
    return made.add_dataset(dest_path=run.out + "/", properties=properties)


def _action(made: ROCrate, crate: Crate, run: Run, known: Mapping[str, Any], paper: Any) -> None:
    _entity(
        made,
        _action_id(run),
        "CreateAction",
        name=run.name,
        description=f"{run.record['command']} under fingerprint {run.record['fingerprint']}",
        identifier=f"sha256:{run.record['fingerprint']}",
        instrument=_instrument(made, crate, run, known, paper),
        object=_some([*(known[path] for path in run.inputs), known["params.json"]]),
        result=known[run.out],
        startTime=_time(run.record["begun"]),
        endTime=_time(run.ended),
        actionStatus="http://schema.org/CompletedActionStatus",
        subjectOf=known[f"provenance/{run.name}.json"],
    )


def _instrument(made: ROCrate, crate: Crate, run: Run, known: Mapping[str, Any], paper: Any) -> Any:
    """The package at a commit; one entity for all stages that ran the same code on the same Python."""
    git = run.record.get("git", {})
    commit, changed = str(git.get("commit") or "unknown"), str(git.get("diff", "not recorded"))
    released = run.record.get("packages", {}).get("pi_repro", "0.1.0")
    version = f"{released}+git.{commit}" + (f".changed.{changed[:12]}" if git.get("dirty") else "")
    code = known.get(crate.code.get(commit, ""))
    if code is not None:
        python = str(run.record["python"])
        code["version"] = commit
        code["programmingLanguage"] = _entity(
            made,
            f"#python-{python}",
            "ComputerLanguage",
            name="Python",
            version=python,
            url=_entity(made, "https://www.python.org/", "WebPage", name="Python"),
        )
    more = {"isBasedOn": code} if code is not None else {}
    return _entity(
        made,
        "#pi_repro-" + re.sub(r"[^\w.-]", "-", version),
        "SoftwareApplication",
        name="pi_repro",
        description="Rebuilds, checks and varies the experiment, bit for bit.",
        version=version,
        url=crate.citation.get("repository-code") or (paper if code is None else code),
        softwareRequirements=known["requirements.lock"],
        **more,
    )


def _paper(made: ROCrate, citation: Mapping[str, Any]) -> Any:
    """The article that the experiment is taken from; its authors are named where ours are."""
    paper = citation["preferred-citation"]
    found = next(row["value"] for row in paper["identifiers"] if str(row["value"]).startswith("arXiv:"))
    more: dict[str, Any] = {}
    if citation.get("authors"):
        more["author"] = _some([_agent(made, author) for author in paper["authors"]])
    link = f"https://arxiv.org/abs/{found.removeprefix('arXiv:')}"
    return _entity(
        made,
        link,
        "ScholarlyArticle",
        name=paper["title"],
        identifier=found,
        datePublished=str(paper["year"]),
        url=link,
        **more,
    )


def _agent(made: ROCrate, author: Mapping[str, Any]) -> Any:
    """A person or a group, as CITATION.cff names it."""
    person = {key: str(author[field]) for key, field in _PERSON.items() if author.get(field)}
    name = author.get("name") or f"{person.get('givenName', '')} {person.get('familyName', '')}".strip()
    identifier = author.get("orcid") or "#" + re.sub(r"\W+", "-", name.lower()).strip("-")
    return _entity(made, str(identifier), "Person" if person else "Organization", name=name, **person)


_PERSON: Final = {"givenName": "given-names", "familyName": "family-names"}


def _licence(made: ROCrate, spdx: str) -> Any:
    link, name, description = LICENCE.get(spdx, (f"https://spdx.org/licenses/{spdx}", spdx, f"License {spdx}."))
    return _entity(made, link, "CreativeWork", name=name, description=description, url=link)


def _entity(made: ROCrate, identity: str, kind: str | list[str], /, **properties: Any) -> Any:
    from rocrate.model import ContextEntity

    known = made.get(identity)
    if known is not None:
        return known
    added = made.add(ContextEntity(made, identity, properties={"@type": kind}))
    for name, value in properties.items():
        added[name] = value
    return added


def _some(values: Sequence[Any]) -> Any:
    """JSON-LD's form of several values: a list, or the one."""
    return values[0] if len(values) == 1 else list(values)


def _time(moment: str) -> str:
    return moment.replace("Z", "+00:00")


def _action_id(run: Run) -> str:
    return "#" + run.name.replace("@", "-at-")
