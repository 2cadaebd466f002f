"""From files to a checked experiment: the spec, its cards, its model's shape, its resolved arms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pi_repro.errors import RequestError

from . import plugins, yamlfile
from .architecture import architecture
from .base import Frozen
from .card import Card
from .experiment import Experiment
from .training import Align, Plugin, Pretrain
from .validation import combined, nearest, validate
from .yamlfile import Location, YamlFile

TRAINING_STAGES: dict[str, type[Align] | type[Pretrain]] = {
    "initialize": Align,
    "pretrain": Pretrain,
    "finetune": Align,
}


@dataclass(frozen=True)
class Loaded:
    """An experiment whose every reference was followed.

    Attributes:
        path: the spec's file.
        experiment: the spec.
        cards: name -> card, for every dataset and suite the experiment names.
        model: the spec's model with its architecture.
        arms: arm -> stage -> settings with the arm's overrides applied.
    """

    path: Path
    experiment: Experiment
    cards: Mapping[str, Card]
    model: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Align | Pretrain]]

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
    file = yamlfile.load(path)
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
    model: dict[str, Any] = {}
    try:
        where = file.where(("science", "model", "name"))
        shape = architecture(science.model.name, path.parent / "models", where)
        model = science.model.model_dump(mode="json") | {"architecture": shape}
    except RequestError as error:
        errors.append(error)
    if errors:
        raise combined(errors)
    return Loaded(path=path, experiment=experiment, cards=cards, model=model, arms=arms)


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


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` laid over `base`; mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        whole = "name" in value if isinstance(value, Mapping) else True
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and not (whole and value.get("name") != old.get("name"))
        ):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def _resolved(file: YamlFile, experiment: Experiment, arm: str, stage: str) -> Align | Pretrain:
    override = experiment.science.arms[arm].override.get(stage, {})  # type: ignore[call-overload]
    base = getattr(experiment.science, stage)
    prefix: Location = ("science", "arms", arm, "override", stage)
    return validate(TRAINING_STAGES[stage], file, merged(base.model_dump(mode="json"), override), prefix)


def _datasets(
    experiment: Experiment, arms: Mapping[str, Mapping[str, Align | Pretrain]]
) -> list[tuple[str, str, Location]]:
    """(card, kind it must be, where the spec names it), each once, in the order of the spec."""
    rows: list[tuple[str, str, Location]] = []
    for arm, stages in arms.items():
        for stage, settings in stages.items():
            own: Location = ("science", "arms", arm, "override", stage, "data")
            base: Location = ("science", stage, "data")
            changed = "data" in experiment.science.arms[arm].override.get(stage, {})  # type: ignore[call-overload]
            rows.append((settings.data, "pairs" if stage == "pretrain" else "triplets", own if changed else base))
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
            if not isinstance(settings, Align):
                continue
            for group, field in (("objectives", "objective"), ("adapters", "adapter")):
                plugin: Plugin = getattr(settings, field)
                own: Location = ("science", "arms", arm, "override", stage, field)
                location = own if own in file.lines else ("science", stage, field)
                errors += _options_errors(file, group, plugin, location)
    return errors


def _options_errors(file: YamlFile, group: str, plugin: Plugin, location: Location) -> list[RequestError]:
    names = plugins.BUILT_IN[group]
    if plugin.name not in names:
        if plugin.name in plugins.offered(group):
            return []
        return [
            RequestError(
                f"no such {group[:-1]}",
                where=file.where((*location, "name")),
                given=plugin.name,
                **plugins.known(group, plugin.name),
            )
        ]
    model = names[plugin.name]
    if model is None:
        return []
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
