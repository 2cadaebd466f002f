"""Results that lie in this workspace, opened for whoever compares them: two arms, or runs with a reference.

Rule: only reads, computes nothing again, and loads the analysis when it is asked for, as it brings scipy along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_repro.errors import RequestError, StateError
from pi_repro.files import read_json, write_json
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, Stage
from pi_repro.spec.validation import nearest

from .places import Places

if TYPE_CHECKING:
    from pi_repro.analysis.compare import Compared as Compared
    from pi_repro.analysis.reference import Metric as Metric
    from pi_repro.analysis.reference import Verified as Verified
    from pi_repro.analysis.results import Results


@dataclass(frozen=True)
class Runs:
    """Some runs of an experiment.

    Attributes:
        experiment: its name.
        settings: of its report; the arms and seeds in it are the runs.
        whole: whether they are all runs of the experiment.
        arm: the one that was named; None for all.
    """

    experiment: str
    settings: Mapping[str, Any]
    whole: bool
    arm: str | None = None


def verify(name: str, reference: Path, places: Places) -> Verified:
    """Compare the runs of an experiment, or the one of an evaluate stage, with a recorded reference.

    Raises:
        RequestError: no such experiment or stage, or the reference knows none of its arms.
        StateError: results or reference are missing, damaged, or of other items.
    """
    runs = _runs(name, params.plan(places.workspace))
    if not reference.is_file():
        raise RequestError(
            "no such file", where="--reference", given=reference, todo=f"pirepro verify {name} --statistical --record"
        )
    results = _open(runs, places)
    from pi_repro.analysis import reference as references

    return references.verify(read_json(reference), str(reference), runs.experiment, results)


def record(name: str, target: Path, places: Places) -> Path:
    """Write the reference that later runs of an experiment are held to.

    Raises:
        RequestError: no such experiment, or one run of it alone was named.
        StateError: results are missing or damaged, or the seeds are too few.
    """
    runs = _runs(name, params.plan(places.workspace))
    if not runs.whole:
        raise RequestError("a reference is of all runs of an experiment", given=name, allowed=runs.experiment)
    results = _open(runs, places)
    from pi_repro.analysis import reference as references

    write_json(target, references.record(runs.experiment, results))
    return target


def compare(a: str, b: str, places: Places) -> tuple[Compared, ...]:
    """Compare two arms, or all arms of one name of two experiments.

    Raises:
        RequestError: no such experiment or arm; an arm and an experiment; two experiments without a common arm.
        StateError: results are missing or damaged, or nothing in them is paired.
    """
    plan = params.plan(places.workspace)
    one, two = _named(a, plan), _named(b, plan)
    if (one.arm is None) != (two.arm is None):
        raise RequestError("an arm is compared with an arm, an experiment with an experiment", given=f"{a} and {b}")
    if one.arm is not None:
        arms = [(one.arm, str(two.arm))]
    else:
        common = [arm for arm in one.settings["arms"] if arm in two.settings["arms"]]
        if one.experiment == two.experiment:
            raise RequestError("the same experiment twice", given=a, todo=f"name its arms: {a}/{common[0]} ...")
        if not common:
            raise RequestError("no arm in common", given=f"{a} and {b}", allowed=", ".join(one.settings["arms"]))
        arms = [(arm, arm) for arm in common]
    opened = _open(one, places), _open(two, places)
    from pi_repro.analysis.compare import compare as side_by_side
    from pi_repro.analysis.effects import Side

    return tuple(
        side_by_side(
            Side(opened[0], x), Side(opened[1], y), (f"{one.experiment}/{x}", f"{two.experiment}/{y}")
        )
        for x, y in arms
    )  # fmt: skip


def _reports(plan: Plan) -> dict[str, Stage]:
    return {stage.settings["name"]: stage for stage in plan.stages if stage.kind == "report"}


def _runs(name: str, plan: Plan) -> Runs:
    """The runs that a person means by an experiment, its report, or an evaluate stage."""
    reports = _reports(plan)
    kind, _, key = name.partition("@")
    if name in reports or (kind == "report" and key in reports):
        experiment = key or name
        return Runs(experiment, reports[experiment].settings, whole=True)
    if not key:
        raise _unknown(name, sorted(reports))
    stage = plan.stage(name)
    if stage.kind != "evaluate" or stage.experiment is None:
        raise RequestError(
            "only what was evaluated has numbers to compare",
            given=name,
            allowed="an experiment, or an evaluate stage",
            todo=f"pirepro verify evaluate@{key} --statistical --reference FILE" if kind != "fetch" else None,
        )
    settings, arm = reports[stage.experiment].settings, stage.settings["arm"]
    only = {"arms": {arm: settings["arms"][arm]}, "baseline": arm, "seeds": [stage.settings["seed"]]}
    return Runs(stage.experiment, {**settings, **only}, whole=False, arm=arm)


def _named(given: str, plan: Plan) -> Runs:
    """EXPERIMENT, EXPERIMENT/ARM, or an ARM that one enabled experiment alone has."""
    reports = _reports(plan)
    experiment, slash, arm = given.partition("/")
    if not slash and experiment not in reports:
        owners = [name for name, stage in reports.items() if given in stage.settings["arms"]]
        if len(owners) > 1:
            raise RequestError(
                "several experiments have this arm", given=given, allowed=", ".join(f"{o}/{given}" for o in owners)
            )
        experiment, arm = (owners or [given])[0], given if owners else ""
    if experiment not in reports:
        arms = [f"{name}/{a}" for name, stage in reports.items() for a in stage.settings["arms"]]
        raise _unknown(given, [*sorted(reports), *arms])
    settings = reports[experiment].settings
    if arm and arm not in settings["arms"]:
        raise _unknown(given, [f"{experiment}/{name}" for name in settings["arms"]])
    return Runs(experiment, settings, whole=True, arm=arm or None)


def _unknown(given: str, names: list[str]) -> RequestError:
    guess = nearest(given, names)
    return RequestError(
        "no such experiment or arm here",
        given=given,
        allowed=", ".join(names) or "none is enabled",
        todo=f"did you mean {guess!r}?" if guess else "enable it: pirepro enable SPEC",
    )


def _open(runs: Runs, places: Places) -> Results:
    from pi_repro.analysis.results import Results
    from pi_repro.analysis.suite import read_suite

    suite = places.workspace / "data" / runs.settings["evaluate"]["suite"]
    if not (suite / "suite.json").is_file():
        raise StateError(
            "the suite is not here", where=str(suite), todo=f"dvc pull {suite.relative_to(places.workspace)}"
        )
    folder = places.workspace / "results" / runs.experiment
    # Calibrated intervals, whatever the report of the experiment shows.
    settings = {**runs.settings, "report": runs.settings.get("report") or True}
    return Results(folder, settings, read_suite(suite), whole=runs.whole)
