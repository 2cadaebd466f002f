"""An estimate as a value: stages, data, budgets, and the rows that people read.

Rule: sums and wording only; the formulas are in pi_repro.plan.cost.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataCost:
    """What one card asks for.

    Attributes:
        download_bytes: sum of the sources whose size the card knows.
        unknown: names of the sources whose size it does not know.
    """

    name: str
    location: str
    download_bytes: int
    unknown: tuple[str, ...]
    disk_bytes: int
    files: int


@dataclass(frozen=True)
class StageCost:
    """What one stage costs.

    Attributes:
        name: as in dvc.yaml, "pretrain@demo-pi-s0".
        samples: pairs, triplets or images that pass through the model.
        devices: GPUs (or one-thread CPU processes) that work side by side.
        seconds: wall time on `devices`; seconds_alone: on one device.
        after: names of the stages that must be done first (fetches are not listed).
    """

    name: str
    kind: str
    samples: int
    devices: int
    seconds: float
    seconds_alone: float
    output_bytes: int
    files: int
    after: tuple[str, ...]

    @property
    def device_hours(self) -> float:
        """Hours of all its devices together."""
        return self.devices * self.seconds / 3600


@dataclass(frozen=True)
class Budget:
    """One way to run everything: wall time, device time and what they emit."""

    wall_hours: float
    device_hours: float
    kwh: float
    kg_co2e: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a whole experiment.

    Attributes:
        device: "GPU" or "CPU process".
        parameters: of the model; None where its architecture is not one this module can count.
        machine: `resources.parallel` stages side by side, each on its devices.
        cluster: every independent stage at once, each on its devices (the critical path).
        one_device: everything in turn on a single device of the same kind.
        output_bytes, files: outputs of all stages but fetch.
        scratch_bytes: training states and unpublished outputs at the same time, at most.
        unknown: what could not be counted, in words.
    """

    experiment: str
    device: str
    parameters: int | None
    stages: tuple[StageCost, ...]
    data: tuple[DataCost, ...]
    machine: Budget
    cluster: Budget
    one_device: Budget
    output_bytes: int
    files: int
    scratch_bytes: int
    unknown: tuple[str, ...]

    @property
    def data_bytes(self) -> int:
        """Disk for all data sets."""
        return sum(card.disk_bytes for card in self.data)

    @property
    def data_files(self) -> int:
        """Inodes of all data sets."""
        return sum(card.files for card in self.data)

    @property
    def download_bytes(self) -> int:
        """Download, as far as sizes are known."""
        return sum(card.download_bytes for card in self.data)

    def stage(self, name: str) -> StageCost | None:
        """The cost of a stage by its name in dvc.yaml; None for fetches and strangers."""
        return next((cost for cost in self.stages if cost.name == name), None)

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, how much, remark) for people, in the order to be read."""
        kinds = list(dict.fromkeys(cost.kind for cost in self.stages if cost.samples))
        table = []
        for kind in kinds:
            costs = [cost for cost in self.stages if cost.kind == kind]
            hours = sum(cost.device_hours for cost in costs)
            table.append(
                (
                    f"{kind} x {len(costs)}",
                    f"{hours:,.2f} {self.device}-hours",
                    f"{sum(cost.samples for cost in costs):,} samples",
                )
            )
        for label, budget, remark in (
            ("all, on one machine", self.machine, "as resources.gpus and resources.parallel say"),
            ("all, every stage at once", self.cluster, "the critical path; as many machines as it takes"),
            (f"all, on one {self.device}", self.one_device, "one stage after the other"),
        ):
            table.append(
                (
                    label,
                    f"{budget.wall_hours:,.2f} h",
                    f"{budget.device_hours:,.2f} {self.device}-hours, {budget.kwh:,.2f} kWh, "
                    f"{budget.kg_co2e:,.2f} kg CO2e; {remark}",
                )
            )
        table.append(("outputs", f"{human_bytes(self.output_bytes)}", f"{self.files:,} files"))
        table.append(("scratch", f"{human_bytes(self.scratch_bytes)}", "at most at the same time"))
        table.append(("data", f"{human_bytes(self.data_bytes)}", f"{self.data_files:,} files"))
        unknown = [f"{card.name}: {len(card.unknown)}" for card in self.data if card.unknown]
        remark = f"and sources of unknown size ({', '.join(unknown)})" if unknown else "all sizes known"
        table.append(("download", f"{human_bytes(self.download_bytes)}", remark))
        table += [("not counted", "", text) for text in self.unknown]
        return table


def human_bytes(count: int) -> str:
    """Decimal units, as disks are sold: 1.12 TB."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"
