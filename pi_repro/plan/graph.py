"""From experiments to stages: every setting resolved, every dependency a path, in an order that runs.

A stage's name, folder and settings are functions of the specs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.spec import plugins
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import WHOLE, Resources
from pi_repro.spec.loading import Loaded
from pi_repro.spec.training import Align, Joint, Pretrain
from pi_repro.spec.validation import nearest

from . import methods, probing
from .stage import SECTIONS as SECTIONS
from .stage import Stage as Stage

#: Raised by a developer when the meaning of a stage's code changes, so that old results are rebuilt.
RECIPES = {
    "fetch": 1,
    "draw": 1,
    "initialize": 2,
    "pretrain": 2,
    "joint": 1,
    "finetune": 2,
    "evaluate": 1,
    "probe": 1,
    "report": 2,
}

#: Kinds in the order they appear in dvc.yaml.
KINDS = tuple(RECIPES)

#: Of a fetch that no experiment asks for: nothing of it changes a bit.
FETCHING = Resources(
    gpus=0, parallel=1, workers=0, prefetch=1, checkpoint_every=1, device_watts=1, grid_g_per_kwh=0, rates={}
)


@dataclass(frozen=True)
class Plan:
    """Stages in an order in which each comes after what it depends on."""

    stages: tuple[Stage, ...]
    parents: Mapping[str, Mapping[str, tuple[str, ...]]]

    def stage(self, name: str) -> Stage:
        """The stage of a name.

        Raises:
            RequestError: with the nearest names when there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        guess = nearest(name, names)
        raise RequestError(
            "no such stage",
            given=name,
            allowed=f"one of the {len(names)} that `pirepro plan` lists",
            todo=f"did you mean {guess!r}?" if guess else "enable its experiment: pirepro enable SPEC",
        )

    def of(self, experiment: str) -> Plan:
        """The stages of an experiment and all that they depend on."""
        wanted = {stage.name for stage in self.stages if stage.experiment == experiment}
        return self.with_ancestors(wanted)

    def with_ancestors(self, names: set[str]) -> Plan:
        """The named stages and all that they depend on."""
        wanted = set(names)
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= {parent for parents in self.parents[stage.name].values() for parent in parents}
        return Plan(tuple(stage for stage in self.stages if stage.name in wanted), self.parents)


def build(experiments: Sequence[Loaded], cards: Sequence[Card] = ()) -> Plan:
    """The stage graph of several experiments.

    Args:
        experiments: checked specs.
        cards: datasets and suites to fetch besides, whether or not an experiment names them.

    Raises:
        RequestError: when two experiments claim one name for different things.
    """
    stages: dict[str, Stage] = {}
    wanted = [stage for loaded in experiments for stage in _stages(loaded)]
    for stage in [*wanted, *(fetch_of(card, FETCHING) for card in cards)]:
        old = stages.get(stage.name)
        if old is not None and (old.settings != stage.settings or old.experiment != stage.experiment):
            raise RequestError(
                "two experiments use this name for different stages",
                where=stage.name,
                todo="rename one of the experiments or arms",
            )
        stages.setdefault(stage.name, stage)
    ordered = tuple(sorted(stages.values(), key=lambda stage: KINDS.index(stage.kind)))
    makers = {stage.out: stage.name for stage in ordered}
    parents = {stage.name: {role: _makers(path, makers) for role, path in stage.deps.items()} for stage in ordered}
    return Plan(ordered, parents)


def fetch_of(card: Card, resources: Resources) -> Stage:
    """The stage that fetches a dataset or suite; shared by all who name it."""
    return Stage("fetch", card.name, _fetch(card), {}, f"data/{card.name}", None, resources)


def _makers(path: str, makers: Mapping[str, str]) -> tuple[str, ...]:
    """The stages that give a path: the stage of that out, or all whose outs lie below it."""
    if path in makers:
        return (makers[path],)
    return tuple(name for out, name in makers.items() if out.startswith(path + "/"))


def _stages(loaded: Loaded) -> list[Stage]:
    experiment, science = loaded.experiment, loaded.experiment.science
    name, resources = experiment.name, experiment.resources
    stages = [fetch_of(card, resources) for card in loaded.cards.values()]

    def add(kind: str, key: str, settings: Mapping[str, Any], deps: Mapping[str, str], out: str) -> None:
        content = {"recipe": RECIPES[kind], **settings}
        stages.append(Stage(kind, f"{name}-{key}" if key else name, content, deps, out, name, resources))

    model = dict(loaded.model)
    evaluate = science.evaluate.model_dump(mode="json")
    triplets = {f"triplets-{number}": f"data/{entry.data}" for number, entry in enumerate(science.evaluate.two_afc)}
    for seed in science.seeds:
        common = {"seed": seed, "device": science.device, "model": model}
        start_of: dict[str, str] = {}
        drawn = common | _provided(plugins.providers(("initializations", science.model.initialization)))
        add("draw", f"s{seed}", drawn, {}, f"artifacts/{name}/draw-s{seed}")
        # An arm that starts from another comes after it, however the spec orders them.
        for arm in sorted(science.arms, key=lambda arm: science.arms[arm].start != "draw"):
            folder = f"{arm}-s{seed}"
            start = science.arms[arm].start
            weights = f"artifacts/{name}/draw-s{seed}" if start == "draw" else start_of[start]
            for stage in science.arms[arm].stages:
                settings = loaded.arms[arm][stage]
                content = common | {"mode": science.mode, SECTIONS[stage]: settings.model_dump(mode="json")}
                content |= _provided(plugins.providers(*_parts(settings)))
                deps = {"start": weights, **_data(settings)}
                weights = f"artifacts/{name}/{folder}/{stage}"
                add(stage, folder, content, deps, weights)
                if stage in WHOLE:
                    start_of[arm] = weights
            judged = {"device": science.device, "model": model, "evaluate": evaluate, "arm": arm, "seed": seed}
            deps = {"weights": weights, "suite": f"data/{science.evaluate.suite}", **triplets}
            add("evaluate", folder, judged, deps, f"results/{name}/{folder}")
    stages += probing.stages(loaded, RECIPES["probe"])
    add(
        "report",
        "",
        _report(loaded, evaluate),
        {"results": f"results/{name}", "suite": f"data/{science.evaluate.suite}"},
        f"reports/{name}",
    )
    return stages


def _data(settings: Align | Pretrain) -> dict[str, str]:
    """Role -> folder of the data that a training reads."""
    if isinstance(settings, Align):
        return {"triplets": f"data/{settings.data}"}
    own = {"pairs": f"data/{settings.data}"}
    return own | {"triplets": f"data/{settings.auxiliary.data}"} if isinstance(settings, Joint) else own


def _parts(settings: Align | Pretrain) -> Iterator[tuple[str, str]]:
    """(group, name) of every part that a training is made of."""
    triplets = settings.auxiliary if isinstance(settings, Joint) else settings
    if not isinstance(triplets, Pretrain):
        yield "objectives", triplets.objective.name
        if triplets.labels is not None:
            yield "labels", triplets.labels.name
    if isinstance(settings, Align):
        yield "adapters", settings.adapter.name
    yield "optimizers", settings.optimizer.name


def _fetch(card: Card) -> dict[str, Any]:
    content = {"recipe": RECIPES["fetch"], "card": card.model_dump(mode="json")}
    return content | _provided(plugins.providers(("fetchers", card.fetcher)))


def _provided(providers: dict[str, str]) -> dict[str, Any]:
    """A plugin's code is not ours to number: its package's version stands for it."""
    return {"providers": providers} if providers else {}


def _triplets(settings: Align | Pretrain) -> str | None:
    """The triplets that a training learns from."""
    if isinstance(settings, Align):
        return settings.data
    return settings.auxiliary.data if isinstance(settings, Joint) else None


def _of_votes(stage_1: object) -> bool:
    """False of a stage 1 that learns without its triplets' votes, or from altered ones."""
    return not isinstance(stage_1, Align) or (stage_1.labels is None and stage_1.objective.name != "self_supervised")


def _report(loaded: Loaded, evaluate: Mapping[str, Any]) -> dict[str, Any]:
    experiment, science = loaded.experiment, loaded.experiment.science
    arms = {
        name: {
            "description": arm.description,
            "start": arm.start,
            "stages": list(arm.stages),
            # What the arm was aligned on: the set that its manipulation check looks at.
            "triplets": next((found for kind in loaded.arms[name].values() if (found := _triplets(kind))), None),
            # A control: that the manipulation check finds nothing is no failure. Not said of others, whose reports
            # had their fingerprints before there were controls.
            **({} if _of_votes(loaded.arms[name].get("initialize")) else {"votes": False}),
        }
        for name, arm in science.arms.items()
    }
    return {
        "name": experiment.name,
        "title": experiment.title,
        "notice": experiment.notice,
        "arms": arms,
        "baseline": science.baseline,
        "seeds": list(science.seeds),
        "evaluate": evaluate,
        **({} if science.probes is None else {"probes": science.probes.model_dump(mode="json")}),
        **_asked(loaded),
    }


def _asked(loaded: Loaded) -> dict[str, Any]:
    """What a report says beyond arms, sets and curves, with all that it takes; empty when nothing is asked for."""
    science = loaded.experiment.science
    if science.report is None:
        return {}
    asked: dict[str, Any] = {"report": science.report.model_dump(mode="json"), "methods": methods.facts(loaded)}
    if loaded.claims is not None:
        kinds = loaded.arms[science.report.treatment]
        whole = next((kinds[stage] for stage in WHOLE if stage in kinds), science.pretrain)
        asked["claims"] = {
            "list": loaded.claims.model_dump(mode="json"),
            "scale": {
                "suite": science.evaluate.suite,
                "pairs": whole.data,
                "triplets": next((found for kind in kinds.values() if (found := _triplets(kind))), None),
                "epochs": whole.epochs,
                "treatment": science.report.treatment,
                "posthoc": science.report.posthoc,
                "model": science.model.name,
            },
        }
    return asked
