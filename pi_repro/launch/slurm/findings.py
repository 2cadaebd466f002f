"""What the doctor's job saw, judged: pure, a check for each thing that a site's jobs rely on."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pi_repro.launch.container import Image
from pi_repro.launch.doctor import Check
from pi_repro.launch.slurm.queue import Row
from pi_repro.spec.site import Site

#: Seconds that a clock may be wrong unnoticed, and at which leases are in doubt.
_SKEW_S, _MUCH_S = 2.0, 60.0

#: Where a runtime does not hand GPUs on by itself.
_GPU_HINTS = {
    "charliecloud": "ch-fromhost --nvidia FOLDER, once, for a folder image: it adds the driver's libraries",
    "podman": "ask the support for NVIDIA's CDI description (nvidia-ctk cdi generate), which podman needs",
    "docker": "ask the support for NVIDIA's container toolkit, which docker needs",
}


@dataclass(frozen=True)
class Trip:
    """The job that was sent and what came back.

    Attributes:
        job_id: SLURM's number.
        gpu: whether it asked for a GPU.
        waited_s: seconds until it spoke up; None when it never did.
        ended: whether its script came to its end.
        answer: what `inquire` found; None when it did not answer.
        row: how SLURM tells the job at last; None where it is silent.
        said: last lines of its log and output.
        scontrol: whether the node's host can ask the controller about the job.
        host_gpus: what nvidia-smi lists on the node, outside a container.
        accounted: whether sacct knows the job.
    """

    job_id: str
    gpu: bool
    waited_s: float | None
    ended: bool
    answer: dict[str, Any] | None
    row: Row | None
    said: tuple[str, ...]
    scontrol: bool
    host_gpus: tuple[str, ...]
    accounted: bool


def checks(trip: Trip, site: Site, image: Image | None) -> list[Check]:
    """Every finding, in the order in which they should be mended."""
    if trip.answer is None:
        return [_silent(trip)]
    return [
        _job(trip, trip.answer),
        _image(trip.answer, site, image),
        _python(trip.answer),
        _torch(trip.answer),
        *_gpu(trip, trip.answer, site),
        _seen(trip.answer),
        *_folders(trip.answer),
        _lock(trip.answer),
        _clock(trip.answer),
        *_interface(trip.answer, site),
        _scontrol(trip),
        _sacct(trip, site),
    ]


def _silent(trip: Trip) -> Check:
    state = str(trip.row) if trip.row else f"job {trip.job_id}"
    waits = trip.row is None or trip.row.state == "PENDING"
    if waits and not trip.ended:
        return Check("job", False, f"{state}: it did not begin", "ask again later, or look with `squeue --start --me`")
    told = [line.strip() for line in trip.said if not re.search(r" I slurm job |^== attempt ", line)]
    last = "; ".join(told[-6:]) or "it left no output: its node may not see this folder"
    hint = "mend what it says: the image, Python, a module, or a folder"
    if re.search(r"ch-run.*can't mkdir", last):
        hint = "a squashfs image has no mount point there: make image FORMS=folder, or runtime.options [--write-fake]"
    return Check("job", False, f"{state} gave no answer: {last}", hint)


def _job(trip: Trip, answer: dict[str, Any]) -> Check:
    where = answer["node"] or answer["host"]
    return Check("job", True, f"job {trip.job_id} ran on {where}, after {trip.waited_s or 0:.0f} s in the queue")


def _image(answer: dict[str, Any], site: Site, image: Image | None) -> Check:
    if image is None:
        return Check(
            "image",
            True,
            "none: stages run in the node's own Python" if site.runtime.kind == "none" else "not in container.lock",
        )
    problem = answer["image"]["problem"]
    if problem is None and answer["image"]["digest"] != image.digest:
        problem = f"the job was not told its digest, but {answer['image']['digest']}"
    return Check(
        "image",
        problem is None,
        problem or f"{image.digest[:19]}..., a {image.form} in {site.runtime.kind}",
        "make image, or name in the site's file the image that container.lock lists",
    )


def _python(answer: dict[str, Any]) -> Check:
    same = answer["python"].split(".")[:2] == platform.python_version().split(".")[:2]
    return Check(
        "Python",
        same,
        f"{answer['python']}, {answer['executable']}" + ("" if same else f"; here {platform.python_version()}"),
        "use one minor version on the login node and in jobs: fingerprints name it",
    )


def _torch(answer: dict[str, Any]) -> Check:
    problem = answer["torch"].get("problem")
    return Check(
        "torch",
        problem is None,
        problem or answer["torch"]["version"],
        "make env in a folder that the nodes see, or name an image in the site's file",
    )


def _gpu(trip: Trip, answer: dict[str, Any], site: Site) -> Iterator[Check]:
    if not trip.gpu:
        yield Check("GPU", False, "the partition has none", "needed by the paper's spec, not by the demo", needed=False)
        return
    given, seen = answer["cuda_visible"], answer["torch"].get("devices", [])
    yield Check(
        "GPU given",
        given is not None,
        f"SLURM gives device {given}" if given is not None else "SLURM set no CUDA_VISIBLE_DEVICES",
        "gpu_type in the site's file, and the partition's gres (`sinfo -o %G`)",
        needed=False,
    )
    if seen:
        driver = f"; {answer['devices'][0]}" if answer["devices"] else ""
        yield Check("GPU used", True, f"torch sees {', '.join(seen)}{driver}")
    elif trip.host_gpus:
        yield Check(
            "GPU used",
            False,
            f"the node has {trip.host_gpus[0]}, but torch in the job sees none",
            _GPU_HINTS.get(site.runtime.kind, "is the driver new enough for this torch? else: the runtime's options"),
        )
    else:
        yield Check(
            "GPU used", False, "the node's nvidia-smi lists none", "the demo needs none; the paper's spec does", False
        )


def _seen(answer: dict[str, Any]) -> Check:
    return Check(
        "shared files",
        answer["heard"] is not None,
        "what login node and job write, the other sees"
        if answer["heard"]
        else "the job does not see what the login node writes after its start",
        "scratch in the site's file: a folder that login node and nodes share",
    )


def _folders(answer: dict[str, Any]) -> Iterator[Check]:
    wrong = {name: state for name, state in answer["folders"].items() if state != "writable"}
    if not wrong:
        yield Check("folders", True, f"{', '.join(answer['folders'])} are writable in the job")
    for name, state in wrong.items():
        # Shards may be kept where nobody writes.
        yield Check(
            f"folder {name}",
            False,
            f"{state} in the job",
            f"a folder that nodes share as `{name}` in the site's file, or a bind of the runtime",
            needed=not (name == "data_root" and state == "read-only"),
        )


def _lock(answer: dict[str, Any]) -> Check:
    state = answer["lock"]
    if state == "seen":
        return Check("file locks", True, "a lock of the login node is seen in the job")
    if state == "not seen":
        return Check(
            "file locks",
            False,
            "a lock of the login node is not seen in the job: each host sees its own alone",
            "scratch on a file system whose flock works across hosts (Lustre: mounted with `flock`)",
        )
    return Check(
        "file locks",
        False,
        f"not there: {state}",
        "jobs take heartbeats in their place, which are slower",
        needed=False,
    )


def _clock(answer: dict[str, Any]) -> Check:
    clock = answer["clock"]
    if clock is None:
        return Check("clock", False, "could not be compared", "mend the shared files first", needed=False)
    # The login node answered between the two times of the job.
    skew = clock["login"] - (clock["sent"] + clock["received"]) / 2
    unsure = (clock["received"] - clock["sent"]) / 2
    off = max(0.0, abs(skew) - unsure)
    return Check(
        "clock",
        off <= _SKEW_S,
        f"{'ahead' if skew < 0 else 'behind'} by {off:.0f} s in the job"
        if off > _SKEW_S
        else f"as here, within {max(1.0, unsure):.0f} s",
        "tell the cluster's support: the clocks of its hosts differ (NTP)",
        needed=off > _MUCH_S,
    )


def _interface(answer: dict[str, Any], site: Site) -> Iterator[Check]:
    if site.interface is not None:
        names = ", ".join(answer["interfaces"])
        # Of several, each host has one.
        there = [name for word in site.interface.split(",") if (name := word.strip()) in answer["interfaces"]]
        yield Check(
            "interface",
            bool(there),
            f"{there[0]} is one of {names}" if there else f"the node has {names}",
            "interface in the site's file: one of them, which the nodes of a job share",
        )


def _scontrol(trip: Trip) -> Check:
    return Check(
        "scontrol",
        trip.scontrol,
        "answers on the node: jobs can be requeued" if trip.scontrol else "does not answer on the node",
        "jobs can't be requeued there: at a limit or a preemption they are submitted again instead",
        needed=False,
    )


def _sacct(trip: Trip, site: Site) -> Check:
    if site.accounting:
        return Check(
            "sacct",
            trip.accounted,
            "knows the job" if trip.accounted else "does not know the job",
            "accounting: false in the site's file",
            needed=False,
        )
    return Check(
        "sacct",
        not trip.accounted,
        "off, as the site says" if not trip.accounted else "answers, though the site says accounting: false",
        "accounting: true in the site's file: ends of jobs are told more exactly",
        needed=False,
    )
