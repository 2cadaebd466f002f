"""Stopping jobs: each saves its state first, so that running it again goes on from there.

Rule: only jobs of this workspace are touched, although others may share its scratch folder.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Mapping
from contextlib import suppress

from pi_repro.errors import StateError
from pi_repro.launch import heartbeat, owned, writer
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.owned import Owned
from pi_repro.launch.places import Places
from pi_repro.launch.writer import Driver
from pi_repro.plan import params

#: Seconds that a driver is given to end before its jobs are stopped: it records with DVC what was published, which
#: may take longer, but starts nothing more.
_DRIVER_S = 120.0


def cancel(names: Collection[str], here: Places, cluster: Cluster | None) -> dict[str, str]:
    """Stop stages, or without names everything: the driver first, so that it starts nothing more.

    Args:
        names: of stages.
        here: the workspace's own folders.
        cluster: where jobs were sent; its scratch is looked into as well as the workspace's own.

    Returns:
        stage -> what became of its job.

    Raises:
        RequestError: neither the plan nor any job knows a name.
        StateError: the driver works on another machine, or is somebody else's.
    """
    scratches = [here.scratch, *([cluster.places.scratch] if cluster else [])]
    arrays = cluster.arrays() if cluster else {}
    known = {job.name for job in owned.jobs(scratches, here.workspace)}
    _refuse_unknown(set(names) - known - set(arrays.values()), here)
    told = {} if names else _stop_drivers(here)
    # Looked for after the driver was told: it may have started another meanwhile.
    mine = [job for job in owned.jobs(scratches, here.workspace) if not names or job.name in names]
    said = [(job.name, what) for job in mine if (what := _stop_process(job))]
    submitted = {job.fingerprint: job.name for job in mine if job.submitted}
    if cluster and submitted:
        said += [(submitted[fingerprint], what) for fingerprint, what in cluster.cancel(submitted).items()]
    wanted = {folder: stage for folder, stage in arrays.items() if not names or stage in names}
    if cluster and wanted:
        said += cluster.cancel_arrays(wanted)
    for name, what in said:  # a stage has several where its settings were changed while it ran
        told[name] = f"{told[name]}; {what}" if name in told else what
    return {**dict.fromkeys(names, "no job of it runs or waits"), **told}


def _refuse_unknown(names: Collection[str], here: Places) -> None:
    if names:
        plan = params.plan(here.workspace)
        for name in sorted(names):
            plan.stage(name)


def _stop_drivers(places: Places) -> dict[str, str]:
    drivers = [driver for driver in writer.drivers(places) if driver.kind == "run"]
    for driver in drivers:
        if not driver.here:
            raise _out_of_reach("works on another machine", driver)
        with suppress(ProcessLookupError):  # it ended by itself
            try:
                os.kill(driver.pid, signal.SIGTERM)
            except PermissionError:
                raise _out_of_reach("is another user's", driver) from None
    end = time.monotonic() + _DRIVER_S
    while left := [driver for driver in writer.drivers(places) if driver in drivers]:
        if time.monotonic() > end:
            return {"the driver": f"{left[0]} still records with DVC; it starts nothing more"}
        time.sleep(0.1)
    return {"the driver": f"stopped {drivers[0]}"} if drivers else {}


def _out_of_reach(why: str, driver: Driver) -> StateError:
    return StateError(
        f"the driver {why}, and would go on with other stages",
        given=str(driver),
        todo=f"pirepro cancel on {driver.host}, as its user; or name the stages: pirepro cancel STAGE",
    )


def _stop_process(job: Owned) -> str | None:
    """Ask a process that is no SLURM job to save and end; what was done, None when there is none."""
    holder: Mapping[str, object] | None = job.lease.holder()
    if not holder or holder.get("slurm_job"):
        return None
    mine, process = heartbeat.identity(), f"process {holder.get('pid')}"
    elsewhere = f"{process} on {holder.get('host')}: cancel it there"
    if any(holder.get(name) != mine[name] for name in ("host", "boot")):
        return elsewhere
    if holder.get("pids") != mine["pids"]:  # its number is a stranger's here
        return f"{process} in another container of this machine: cancel it there"
    try:
        os.kill(int(str(holder["pid"])), signal.SIGTERM)
    except ProcessLookupError:
        return None  # it ended while we looked
    except PermissionError:
        return f"{elsewhere}, as the user who runs it"
    return f"{process} was asked to save and end"
