"""The cluster that a command concerns: its site, the folders it brings, and who submits to it.

Rule: jobs go to a cluster when a person says so, by --slurm, PIREPRO_SITE or `pirepro site use`. Whoever only looks
(status, logs, cancel) looks where the last jobs went, whatever was chosen since, and runs on this machine don't make
that forgotten: the jobs go on. submitit is imported when a job is submitted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import RequestError, StateError
from pi_repro.files import write_atomic
from pi_repro.launch import places as grounds
from pi_repro.launch import writer
from pi_repro.launch.places import Places
from pi_repro.launch.runner import Runner
from pi_repro.launch.slurm import sites
from pi_repro.provenance import capture
from pi_repro.spec.site import Site

#: The site that documents all fields; it is no cluster.
EXAMPLE = "example"
#: What submits, looks, stops, and starts the processes of a job.
_COMMANDS = ("sbatch", "squeue", "scancel", "srun")


@dataclass(frozen=True)
class Cluster:
    """A site as this workspace uses it.

    Attributes:
        name: what a person calls it: a name, or a path.
        site: its description.
        places: the workspace's folders with the site's.
    """

    name: str
    site: Site
    places: Places

    def runner(self) -> Runner:
        """Who submits to it.

        Raises:
            StateError: its image is missing or not the one of this checkout; there is no SLURM here.
        """
        from pi_repro.launch import container
        from pi_repro.launch.slurm.runner import SlurmRunner

        if missing := [command for command in _COMMANDS if shutil.which(command) is None]:
            raise StateError(
                "there is no SLURM here",
                where=f"site {self.name}",
                given=f"no {', '.join(missing)} in PATH",
                todo="run it on the cluster's login node, where `sbatch --version` answers; or without --slurm, here",
            )
        return SlurmRunner(self.site, self.places, container.image_of(self.site.runtime, self.places.workspace))

    def view(self, fingerprints: Iterable[str]) -> dict[str, str] | None:
        """What SLURM says of these fingerprints' live jobs; None when it does not answer."""
        from pi_repro.launch.slurm.runner import SlurmRunner

        return SlurmRunner(self.site, self.places).view(fingerprints)

    def cancel(self, fingerprints: Iterable[str]) -> dict[str, str]:
        """Have the jobs of these fingerprints save and end; fingerprint -> what became of its job."""
        from pi_repro.launch.slurm.runner import SlurmRunner

        return SlurmRunner(self.site, self.places).cancel(fingerprints)

    def arrays(self) -> dict[Path, str]:
        """Folder -> stage of every dataset for whose shards an array was ever submitted."""
        from pi_repro.launch.slurm import arrays

        return arrays.noted(self.places.scratch)

    def cancel_arrays(self, wanted: dict[Path, str]) -> list[tuple[str, str]]:
        """End this workspace's arrays of some of these; stage and what became of an array of it."""
        from pi_repro.launch.slurm import arrays

        site = self.site
        return arrays.cancel(wanted, self.places.workspace, site.signal_s, min(1.0, site.poll_s))


def named(name: str, here: Places) -> Cluster:
    """A cluster by the name of its site.

    Raises:
        RequestError: no such site, or errors in its file.
    """
    site = sites.load(name, here.workspace)
    if name not in sites.names(here.workspace):
        name = str(sites.path_of(name, here.workspace))
    return Cluster(name, site, sites.places(site, here))


def chosen(here: Places) -> Cluster | None:
    """Where this workspace's jobs go without further words; None: they run here.

    Raises:
        RequestError: what was chosen is no site, or has errors.
    """
    name = sites.chosen(here.workspace)
    return named(name, here) if name else None


def asked(name: str | None, here: Places, where: str = "--slurm") -> Cluster:
    """Where --slurm [--site NAME] sends jobs: the site named, the chosen one, or the only one there is.

    Args:
        name: as a person says it; None when nobody did.
        here: the workspace's own folders.
        where: what asks, for the message.

    Raises:
        RequestError: there is none, or several and no choice.
    """
    name = name or sites.chosen(here.workspace)
    if name:
        return named(name, here)
    known = [each for each in sites.names(here.workspace) if each != EXAMPLE]
    if len(known) == 1:
        return named(known[0], here)
    raise RequestError(
        "several sites, and none is chosen" if known else "no site says how jobs reach a cluster",
        where=where,
        allowed=", ".join(f"--site {each}" if where == "--slurm" else each for each in known) or None,
        todo="pirepro site use NAME" if known else "pirepro site init NAME, on the cluster's login node",
    )


def looked_at(name: str | None, here: Places) -> Cluster | None:
    """Where to look at stages: where a run works now, if that is this machine; else as `sent_to`. None: only here.

    Raises:
        RequestError: what was named or chosen is no site, or has errors.
    """
    said = name or os.environ.get(sites.VARIABLE, "").strip()
    if not said and any(driver.site is None and driver.kind != "gc" for driver in writer.drivers(here)):
        return chosen(here)  # a chosen site says where the folders of a run on this machine are
    return sent_to(name, here)


def sent_to(name: str | None, here: Places) -> Cluster | None:
    """Where jobs are: the site named, that of PIREPRO_SITE, that of the last jobs, or the chosen one; None: nowhere.

    Raises:
        RequestError: what was named or chosen is no site, or has errors.
    """
    name = name or os.environ.get(sites.VARIABLE, "").strip()
    if name:
        return named(name, here)
    last = _last(here).read_text(encoding="utf-8").strip() if _last(here).is_file() else ""
    if last in sites.names(here.workspace) or (os.sep in last and Path(last).is_file()):
        return named(last, here)
    return chosen(here)


def find() -> Places:
    """The places of the workspace around this folder, with those of the cluster that is looked at.

    Raises:
        RequestError: outside a workspace, or what was chosen is no site.
    """
    here = grounds.find()
    cluster = looked_at(None, here)
    return cluster.places if cluster else here


def remember(cluster: Cluster, here: Places) -> None:
    """Note where jobs go, for who looks later."""
    write_atomic(_last(here), f"{cluster.name}\n".encode())


def refuse_changed_code(places: Places) -> None:
    """Jobs that start at any time read the checkout: it must be the commit that provenance will name.

    Raises:
        RequestError: the code differs from its commit, and nobody said that it may.
    """
    if os.environ.get(capture.DEV) == "1":
        return
    state = capture.git_state(places.workspace)
    if state["dirty"]:
        raise RequestError(
            "the code differs from its commit; jobs in SLURM would run what nobody can get again",
            where=str(places.workspace),
            given="uncommitted changes in pi_repro/ or requirements.lock",
            todo=f"commit them; or say --dev (for dvc repro: export {capture.DEV}=1), which provenance then records",
        )


def _last(here: Places) -> Path:
    return here.state / "last-site"
