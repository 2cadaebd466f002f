"""What an experiment needs of this machine, checked before anything is fetched, written or started.

Rule: looks and never touches; names everything that is missing at once, and what to type instead. GPUs are
counted by the driver's own tools, so that no torch is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pi_repro.data.zeroshot.supply import BY_HAND
from pi_repro.errors import StateError
from pi_repro.plan import data_bill
from pi_repro.plan.bill import Estimate, human_bytes
from pi_repro.spec import supplied
from pi_repro.spec.card import Card, Source
from pi_repro.spec.experiment import Experiment, Resources

from . import holdings

#: A site file here says how jobs reach a cluster.
SITES = Path("slurm", "sites")


class Places(Protocol):
    """The folders that are looked at; pi_repro.launch.places gives them."""

    @property
    def workspace(self) -> Path:
        """The checkout."""

    @property
    def scratch(self) -> Path:
        """Running stages."""

    @property
    def store(self) -> Path:
        """Published stages."""

    @property
    def data_root(self) -> Path | None:
        """Large or restricted data; None when not configured."""


@dataclass(frozen=True)
class Missing:
    """One thing that is not there: what, how much is needed, what was found, what to do."""

    what: str
    needed: str
    found: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}: needs {self.needed}; found {self.found}\n    -> {self.todo}"


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine; memory in bytes, None where the driver's tool is not there to tell."""

    name: str
    memory_bytes: int | None


def check(
    experiment: Experiment,
    cards: Mapping[str, Card],
    places: Places,
    estimate: Estimate,
    *,
    site: str | None = None,
    download: bool = True,
    published_bytes: int = 0,
) -> list[Missing]:
    """Everything that is missing here for an experiment, or an empty list.

    Args:
        cards: name -> card of every dataset and suite it names.
        estimate: of plan.cost for the same experiment, for disk.
        site: name of the cluster the jobs go to; its devices, and the folders it names, are then its own business.
        download: whether open data that is not here may be fetched.
        published_bytes: size of the outputs that are in the store already.
    """
    missing: list[Missing] = []
    if experiment.science.device == "cuda" and site is None:
        missing += _devices(experiment.resources, places.workspace)
    missing += _data(cards, places, download)
    outputs = max(0, estimate.output_bytes - published_bytes)
    missing += _disk(cards, places, outputs, estimate.scratch_bytes, site)
    return missing


def check_data(card: Card, places: Places, *, site: str | None = None) -> list[Missing]:
    """What is missing here for fetching one card: a data root, disk; or an empty list.

    Which sets need terms to be accepted, and whether they were, its fetcher says before it downloads anything.

    Args:
        site: name of the cluster whose folders these are.
    """
    cards = {card.name: card}
    return _root(cards.values(), places) + _disk(cards, places, 0, 0, site)


def refusal(missing: Sequence[Missing], experiment: str, spec: str, site: str | None = None) -> StateError:
    """The error that stops a run: all that is missing, and what to type instead.

    Args:
        experiment: its name.
        spec: path of its file, as the user would type it.
        site: name of the cluster the jobs go to; None for this machine.
    """
    where = f"on site {site}" if site else "on this machine"
    lines = [f"{len(missing)} of its needs are not met {where}; nothing was fetched or started"]
    lines += [f"  - {item}" for item in missing]
    elsewhere = (
        f"           on a cluster:              pirepro run {spec} --slurm --site NAME\n"
        "                                      (pirepro site init NAME describes it, on its login node)"
    )
    return StateError(
        "\n".join(lines),
        where=f"experiment {experiment} ({spec})",
        todo=f"see its cost:              pirepro plan {spec}\n"
        f"           run the demo here:         pirepro run specs/demo.yaml\n"
        f"           leave it out of dvc repro: pirepro disable {spec}" + ("" if site else f"\n{elsewhere}"),
    )


def data_refusal(missing: Sequence[Missing], name: str) -> StateError:
    """The error that stops a fetch: all that is missing for a dataset."""
    lines = [f"{len(missing)} of its needs are not met; nothing was fetched", *(f"  - {item}" for item in missing)]
    return StateError("\n".join(lines), where=f"dataset {name}", todo=f"see its card: pirepro data card {name}")


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that a process started here would see, asked of the driver's tool, else of /proc."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
        found = parse_gpus(answer)
    except (OSError, subprocess.SubprocessError):
        folder = Path("/proc/driver/nvidia/gpus")
        found = tuple(Gpu("NVIDIA GPU", None) for _ in sorted(folder.iterdir())) if folder.is_dir() else ()
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """nvidia-smi's lines "name, MiB" as GPUs; a size that is no number counts as unknown."""
    found = []
    for line in answer.strip().splitlines():
        name, _, size = line.rpartition(",")
        text = size.strip()
        found.append(Gpu((name or line).strip(), int(text) * 2**20 if text.isdigit() else None))
    return tuple(found)


def visible(found: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """What CUDA_VISIBLE_DEVICES leaves: numbers choose, an invalid one ends the list, names only count."""
    if variable is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for number, entry in enumerate(part.strip() for part in variable.split(",")):
        index = int(entry) if entry.lstrip("-").isdigit() else number
        if not entry or not 0 <= index < len(found):
            break
        chosen.append(found[index])
    return tuple(chosen)


def _devices(resources: Resources, workspace: Path) -> list[Missing]:
    needed, here = max(1, resources.gpus), gpus()
    enough = [gpu for gpu in here if _fits(gpu, resources)]
    if len(enough) >= needed:
        return []
    size = f" of {resources.gpu_memory_gb:g} GB or more" if resources.gpu_memory_gb else ""
    fewer = 1 << (len(enough).bit_length() - 1) if enough else 0
    todo = "use a machine with CUDA GPUs, or a cluster"
    if fewer:
        todo = f"set resources.gpus: {fewer} in the spec (slower, the same bits), or use a larger machine"
    missing = [Missing("GPUs", f"{needed} CUDA GPU{'s' * (needed > 1)}{size}", _described(here), todo)]
    sites = [path for path in (workspace / SITES).glob("*.yaml") if path.name != "example.yaml"]
    if not enough and not sites:
        missing.append(
            Missing(
                "cluster site",
                f"a site file in {SITES}/, where this machine has no GPU",
                "none",
                "pirepro site init NAME, on the cluster's login node; then pirepro run SPEC --slurm",
            )
        )
    return missing


def _fits(gpu: Gpu, resources: Resources) -> bool:
    return gpu.memory_bytes is None or gpu.memory_bytes >= resources.gpu_memory_gb * 1e9


def _described(here: Iterable[Gpu]) -> str:
    names = [gpu.name + (f" ({human_bytes(gpu.memory_bytes)})" if gpu.memory_bytes else "") for gpu in here]
    return ", ".join(names) or "no NVIDIA GPU"


def _data(cards: Mapping[str, Card], places: Places, download: bool) -> list[Missing]:
    absent = [
        card for _, card in sorted(cards.items()) if not holdings.is_here(card, places.workspace, places.data_root)
    ]
    missing = _root(absent, places)
    for card in absent:
        gated = [
            source
            for source in card.sources
            if source.access == "gated"
            and holdings.is_wanted(card, source)
            and not holdings.is_brought(card, source, places.data_root)
        ]
        if not download:
            missing.append(
                Missing(
                    f"data {card.name}",
                    "its index and shards",
                    "neither, and downloads are off",
                    "allow the download, or bring the folder from a machine that has it",
                )
            )
        elif gated:
            missing.append(
                Missing(
                    f"data {card.name}",
                    f"{len(gated)} sets whose terms you must accept: {', '.join(s.name for s in gated)}",
                    "neither their terms accepted nor copies of them",
                    _ways(card, gated),
                )
            )
    return missing


def _ways(card: Card, gated: Sequence[Source]) -> str:
    """How a person gets sets with terms, the least work first."""
    served = [source.name for source in gated if source.locator != BY_HAND]
    names = ",".join([*sorted(supplied.accepted()), *served])  # what was accepted before stays so
    copies = " ".join(f"--from {source.name}=PATH" for source in gated)
    ways = [f"accept them, and have the sets fetched: export {supplied.ACCEPTED}={names}"] * bool(served)
    ways += [f"give copies: pirepro data fetch {card.name} {copies}", *filter(None, (each.how_to for each in gated))]
    return "\n       or ".join(ways)


def _root(absent: Iterable[Card], places: Places) -> list[Missing]:
    """A folder for what does not lie in the workspace."""
    away = [card for card in absent if card.location == "site"]
    if not away or places.data_root is not None:
        return []
    sizes = ", ".join(f"{card.name} about {human_bytes(card.disk_bytes)}" for card in away)
    todo = "export PIREPRO_DATA_ROOT=/large/disk, or name data_root in a site file"
    return [Missing("data root", f"a folder for {sizes}", "none configured", todo)]


def _disk(cards: Mapping[str, Card], places: Places, outputs: int, scratch: int, site: str | None) -> list[Missing]:
    """Outputs are copied into the store, the workspace and DVC's cache; folders of one disk add up.

    What an interrupted fetch left is not needed twice. Folders that a site names have quotas that no look at the
    disk tells.
    """
    absent = [card for card in cards.values() if not holdings.is_here(card, places.workspace, places.data_root)]
    outputs += sum(card.disk_bytes for card in absent if card.location == "workspace")
    needs = [
        ("store", places.store, outputs),
        ("workspace and DVC's cache", places.workspace, 2 * outputs),
        ("scratch", places.scratch, scratch if outputs else 0),
    ]
    if places.data_root is not None:
        away = [card for card in absent if card.location == "site"]
        # Shards that several cards share are made once.
        shards = {data_bill.owner(card): _to_write(card, places.data_root) for card in away}
        needs.append(("data root", places.data_root, sum(shards.values())))
    if site is not None:
        needs = [need for need in needs if need[1].is_relative_to(places.workspace)]
    disks: dict[int, list[tuple[str, Path, int]]] = {}
    for name, path, size in needs:
        ground = _existing(path)
        disks.setdefault(ground.stat().st_dev, []).append((name, ground, size))
    missing = []
    for parts in disks.values():
        needed, free = sum(size for _, _, size in parts), shutil.disk_usage(parts[0][1]).free
        if needed > free:
            detail = ", ".join(f"{name} {human_bytes(size)}" for name, _, size in parts if size)
            missing.append(
                Missing(
                    "disk",
                    f"{human_bytes(needed)} ({detail})",
                    f"{human_bytes(free)} free",
                    "point PIREPRO_STORE, PIREPRO_SCRATCH or PIREPRO_DATA_ROOT to larger disks, or try pirepro gc",
                )
            )
    return missing


def _to_write(card: Card, data_root: Path) -> int:
    """Bytes that a fetch still puts into the data root, at its peak; local copies are linked."""
    copied = supplied.copies().keys() & {source.name for source in card.sources}
    cost = data_bill.bill(card)
    return max(0, (cost.disk_bytes if copied else cost.peak_bytes) - holdings.used(data_root / data_bill.owner(card)))


def _existing(path: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
