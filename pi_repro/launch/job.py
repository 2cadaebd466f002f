"""A job: one stage with everything it needs, as a JSON file that any host with the workspace can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_repro.files import read_json, write_json
from pi_repro.plan.graph import Stage
from pi_repro.plan.resolve import Resolved
from pi_repro.spec.experiment import Resources
from pi_repro.stages.context import Stretch

from .lease import Lease
from .places import Places


@dataclass(frozen=True)
class Job:
    """One stage to be run under its fingerprint.

    Attributes:
        name: the stage.
        kind: its verb.
        fingerprint: its identity.
        payload: what the identity hashes.
        inputs: role -> rows of (sub-folder or "", fingerprint that was published); a role made by
            several stages is shown to the stage as one folder of links.
        resources: what changes no bit.
        processes: how many compute it side by side.
        stretch: for a training, the part that is wanted; None for all.
        places: where things lie.
    """

    name: str
    kind: str
    fingerprint: str
    payload: Mapping[str, Any]
    inputs: Mapping[str, tuple[tuple[str, str], ...]]
    resources: Resources
    places: Places
    processes: int = 1
    stretch: Stretch | None = None

    @property
    def scratch(self) -> Path:
        """The job's own folder."""
        return self.places.scratch / self.fingerprint

    @property
    def lease(self) -> Lease:
        """The lock that the running job holds."""
        return Lease(self.scratch / "lease.json")

    @property
    def log(self) -> Path:
        """Plain lines of the job."""
        return self.scratch / "log.txt"


def job_of(
    resolved: Resolved, parents: Mapping[str, tuple[str, ...]], done: Mapping[str, Resolved], places: Places
) -> Job:
    """The job of a stage whose inputs are all published."""
    stage: Stage = resolved.stage
    assert resolved.fingerprint is not None and resolved.payload is not None
    inputs = {}
    for role, names in parents.items():
        rows = []
        for name in names:
            maker = done[name]
            assert maker.fingerprint is not None
            rows.append((maker.stage.out.removeprefix(stage.deps[role]).lstrip("/"), maker.fingerprint))
        inputs[role] = tuple(rows)
    return Job(
        stage.name,
        stage.kind,
        resolved.fingerprint,
        resolved.payload,
        inputs,
        stage.resources,
        places,
        stage.processes,
    )


def write(job: Job) -> Path:
    """Write the job where its stage will run; returns the file."""
    path = job.scratch / "job.json"
    places = {name: str(value) if value else None for name, value in vars(job.places).items()}
    write_json(
        path,
        {
            "name": job.name,
            "kind": job.kind,
            "fingerprint": job.fingerprint,
            "payload": job.payload,
            "inputs": {role: [list(row) for row in rows] for role, rows in job.inputs.items()},
            "resources": job.resources.model_dump(mode="json"),
            "places": places,
            "processes": job.processes,
            "stretch": _plain(job.stretch),
        },
    )
    return path


def read(path: Path) -> Job:
    """Read a job written by `write`."""
    content = read_json(path)
    places = {name: Path(value) if value else None for name, value in content["places"].items()}
    return Job(
        name=content["name"],
        kind=content["kind"],
        fingerprint=content["fingerprint"],
        payload=content["payload"],
        inputs={role: tuple((row[0], row[1]) for row in rows) for role, rows in content["inputs"].items()},
        resources=Resources.model_validate(content["resources"]),
        places=Places(**places),  # type: ignore[arg-type]
        processes=content["processes"],
        stretch=_stretch(content["stretch"]),
    )


def _plain(stretch: Stretch | None) -> dict[str, Any] | None:
    if stretch is None:
        return None
    return {
        "begin": stretch.begin,
        "updates": stretch.updates,
        "state": None if stretch.state is None else str(stretch.state),
    }


def _stretch(content: Mapping[str, Any] | None) -> Stretch | None:
    if content is None:
        return None
    state = content["state"]
    return Stretch(content["begin"], content["updates"], None if state is None else Path(state))
