"""From files to a checked experiment: the spec, its cards, its model's shape, its resolved arms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pi_repro.errors import RequestError

from . import claims, extending, plugins, yamlfile
from . import probes as probing
from .architecture import architecture
from .base import Frozen
from .card import Card
from .claims import Claims
from .experiment import Experiment
from .grids import merged as merged
from .grids import placed
from .training import Align, Joint, Plugin, Pretrain
from .validation import combined, nearest, validate
from .yamlfile import Location, YamlFile

TRAINING_STAGES: dict[str, type[Align] | type[Pretrain]] = {
    "initialize": Align,
    "pretrain": Pretrain,
    "joint": Joint,
    "finetune": Align,
}
#: group of parts -> the field of a training stage that names one.
_PARTS = {"objectives": "objective", "adapters": "adapter", "labels": "labels"}


@dataclass(frozen=True)
class Loaded:
    """An experiment whose every reference was followed.

    Attributes:
        path: the spec's file.
        experiment: the spec.
        cards: name -> card, for every dataset and suite the experiment names.
        model: the spec's model with its architecture.
        arms: arm -> stage -> settings with the arm's overrides applied.
        bases: files that the spec extends, the nearest first.
        claims: those that its report is asked to judge.
        given: role -> name and sha256 of each file beside the spec that its probes read.
    """

    path: Path
    experiment: Experiment
    cards: Mapping[str, Card]
    model: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Align | Pretrain]]
    bases: tuple[Path, ...] = ()
    claims: Claims | None = None
    given: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def on_processes(self, number: int) -> Loaded:
        """The same experiment on another number of processes (or GPUs) a job.

        Raises:
            RequestError: they can't share its micro-batches.
        """
        resources = self.experiment.resources
        content = self.experiment.model_dump()
        content["resources"]["gpus" if resources.gpus else "processes"] = number
        try:
            return replace(self, experiment=Experiment.model_validate(content))
        except ValidationError as error:
            raise RequestError(error.errors()[0]["msg"].removeprefix("Value error, "), where="--processes") from None


def load(path: Path) -> Loaded:
    """Read and check a spec with all that it names.

    Raises:
        RequestError: with every error found, each with file, line, field, given and allowed.
    """
    file, bases = extending.load(path)
    file = placed(file)
    experiment = validate(Experiment, file)
    science = experiment.science
    errors: list[RequestError] = []
    arms: dict[str, dict[str, Align | Pretrain]] = {}
    for name, arm in science.arms.items():
        arms[name] = {}
        for stage in arm.stages:
            try:
                arms[name][stage] = _resolved(file, experiment, name, stage)
            except RequestError as error:
                errors.append(error)
    if errors:
        raise combined(errors)
    cards: dict[str, Card] = {}
    for dataset, kind, location in _datasets(experiment, arms):
        try:
            cards[dataset] = _card(path, file, dataset, kind, location)
        except RequestError as error:
            errors.append(error)
    errors += _plugin_errors(file, arms)
    errors += _name_errors(
        file, "initializations", science.model.initialization, ("science", "model", "initialization")
    )
    model: dict[str, Any] = {}
    try:
        where = file.where(("science", "model", "name"))
        shape = architecture(science.model.name, path.parent / "models", where)
        model = science.model.model_dump(mode="json") | {"architecture": shape}
    except RequestError as error:
        errors.append(error)
    asked = science.report.claims if science.report else None
    listed: Claims | None = None
    if asked is not None:
        try:
            listed = claims.beside(path, asked, file.where(("science", "report", "claims")))
        except RequestError as error:
            errors.append(error)
    errors += _probe_errors(file, experiment, cards)
    given: dict[str, dict[str, str]] = {}
    try:
        given = probing.given(science.probes, path.parent)
    except RequestError as error:
        errors.append(_placed(error, file.where(("science", "probes", "rsa"))))
    if errors:
        raise combined(errors)
    return Loaded(path, experiment, cards, model, arms, bases, listed, given)


def load_card(path: Path) -> Card:
    """Read and check one card; its file name must be its name."""
    file = yamlfile.load(path)
    card = validate(Card, file)
    if card.name != path.stem:
        raise RequestError(
            "a card's name is its file's name", where=file.where(("name",)), given=card.name, allowed=path.stem
        )
    if card.fetcher not in plugins.BUILT_IN["fetchers"] and card.fetcher not in plugins.offered("fetchers"):
        raise RequestError(
            "no such fetcher",
            where=file.where(("fetcher",)),
            given=card.fetcher,
            **plugins.known("fetchers", card.fetcher),
        )
    return card


def _resolved(file: YamlFile, experiment: Experiment, arm: str, stage: str) -> Align | Pretrain:
    override = experiment.science.arms[arm].override.get(stage, {})  # type: ignore[call-overload]
    prefix: Location = ("science", "arms", arm, "override", stage)
    return validate(TRAINING_STAGES[stage], file, merged(experiment.science.base(stage), override), prefix)


def _datasets(
    experiment: Experiment, arms: Mapping[str, Mapping[str, Align | Pretrain]]
) -> list[tuple[str, str, Location]]:
    """(card, kind it must be, where the spec names it), each once, in the order of the spec."""
    rows: list[tuple[str, str, Location]] = []
    for arm, stages in arms.items():
        for stage, settings in stages.items():
            override = experiment.science.arms[arm].override.get(stage, {})  # type: ignore[call-overload]
            own: Location = ("science", "arms", arm, "override", stage)
            base: Location = ("science", "pretrain" if stage == "joint" else stage)
            kind = "pairs" if isinstance(settings, Pretrain) else "triplets"
            rows.append((settings.data, kind, (*(own if "data" in override else base), "data")))
            if isinstance(settings, Joint):
                changed = "data" in override.get("auxiliary", {})
                place: Location = (*own, "auxiliary", "data") if changed else ("science", "auxiliary", "data")
                rows.append((settings.auxiliary.data, "triplets", place))
    evaluate = experiment.science.evaluate
    rows.append((evaluate.suite, "suite", ("science", "evaluate", "suite")))
    rows += [
        (entry.data, "triplets", ("science", "evaluate", "two_afc", number, "data"))
        for number, entry in enumerate(evaluate.two_afc)
    ]
    return list({row[0]: row for row in reversed(rows)}.values())[::-1]


def _card(spec: Path, file: YamlFile, name: str, kind: str, location: Location) -> Card:
    folder = spec.parent / "data"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(card.stem for card in folder.glob("*.yaml"))
        guess = nearest(name, names)
        raise RequestError(
            "no card of this name",
            where=file.where(location),
            given=name,
            allowed=", ".join(names) or f"a file in {folder}",
            todo=f"did you mean {guess!r}?" if guess else f"write {path}",
        )
    card = load_card(path)
    if card.kind != kind:
        raise RequestError(
            f"{name} holds {card.kind}, not {kind}", where=file.where(location), allowed=f"a card of kind {kind}"
        )
    return card


def _plugin_errors(file: YamlFile, arms: Mapping[str, Mapping[str, Align | Pretrain]]) -> list[RequestError]:
    errors = []
    for arm, stages in arms.items():
        for stage, settings in stages.items():
            own: Location = ("science", "arms", arm, "override", stage)
            base: Location = ("science", "pretrain" if stage == "joint" else stage)
            holders: list[tuple[object, Location, Location]] = [(settings, own, base)]
            if isinstance(settings, Joint):
                holders.append((settings.auxiliary, (*own, "auxiliary"), ("science", "auxiliary")))
            for holder, here, there in holders:
                for group, part in _PARTS.items():
                    plugin: Plugin | None = getattr(holder, part, None)
                    if plugin is not None:
                        place = (*here, part) if (*here, part) in file.lines else (*there, part)
                        errors += _options_errors(file, group, plugin, place)
            named = (*own, "optimizer", "name")
            place = named if named in file.lines else (*base, "optimizer", "name")
            errors += _name_errors(file, "optimizers", settings.optimizer.name, place)
    return errors


def _probe_errors(file: YamlFile, experiment: Experiment, cards: Mapping[str, Card]) -> list[RequestError]:
    """Sets that probes ask for and the suite does not have."""
    science = experiment.science
    suite = cards.get(science.evaluate.suite)
    if science.probes is None or suite is None:
        return []
    where: Location = ("science", "probes")
    return [_placed(error, file.where((*where, *place))) for place, error in probing.set_errors(science.probes, suite)]


def _placed(error: RequestError, where: str) -> RequestError:
    return RequestError(error.problem, where=where, given=error.given, allowed=error.allowed, todo=error.todo)


def _name_errors(file: YamlFile, group: str, name: str, location: Location) -> list[RequestError]:
    """An unknown name of a part."""
    if name in plugins.BUILT_IN[group] or name in plugins.offered(group):
        return []
    problem = f"no such {plugins.member(group)}"
    return [RequestError(problem, where=file.where(location), given=name, **plugins.known(group, name))]


def _options_errors(file: YamlFile, group: str, plugin: Plugin, location: Location) -> list[RequestError]:
    model = plugins.BUILT_IN[group].get(plugin.name)
    if model is None:
        return _name_errors(file, group, plugin.name, (*location, "name"))
    options = plugin.model_dump(mode="json")["options"]
    try:
        checked: Frozen = validate(model, file, options, (*location, "options"))
    except RequestError as error:
        return [error]
    errors = []
    for pattern in getattr(checked, "pattern", ()):
        try:
            re.compile(pattern)
        except re.error as error:
            errors.append(
                RequestError(
                    f"no regular expression: {error}",
                    where=file.where((*location, "options", "pattern")),
                    given=pattern,
                )
            )
    return errors
