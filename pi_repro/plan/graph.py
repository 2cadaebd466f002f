"""From experiments to stages: every setting resolved, every dependency a path, in an order that runs.

A stage's name, folder and settings are functions of the specs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi_repro.errors import RequestError
from pi_repro.spec import plugins
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Resources
from pi_repro.spec.loading import Loaded
from pi_repro.spec.training import Align
from pi_repro.spec.validation import nearest

#: Raised by a developer when the meaning of a stage's code changes, so that old results are rebuilt.
RECIPES = {"fetch": 1, "draw": 1, "initialize": 2, "pretrain": 2, "finetune": 2, "evaluate": 1, "report": 1}

#: Kinds in the order they appear in dvc.yaml.
KINDS = tuple(RECIPES)


@dataclass(frozen=True)
class Stage:
    """One node of the DAG.

    Attributes:
        kind: the verb.
        key: what it is done to; unique within the kind, `[a-z0-9-]+`.
        settings: resolved science settings.
        deps: role -> path of the folder it reads, relative to the workspace.
        out: path of the folder it gives.
        experiment: the experiment it belongs to; None for a shared fetch.
        resources: of the experiment, for whoever runs it; never hashed.
    """

    kind: str
    key: str
    settings: Mapping[str, Any]
    deps: Mapping[str, str]
    out: str
    experiment: str | None
    resources: Resources

    @property
    def name(self) -> str:
        """As DVC addresses it."""
        return f"{self.kind}@{self.key}"

    @property
    def processes(self) -> int:
        """Processes that compute it side by side."""
        return self.on(self.resources.world)

    def on(self, world: int) -> int:
        """Processes that compute it side by side when so many are offered: those that can share its work.

        Raises:
            RequestError: they can't divide its micro-batches.
        """
        if self.kind == "evaluate":
            return world
        settings = self.settings.get("pretrain") or self.settings.get("align")
        if not settings:
            return 1
        most = int(settings["batch"]) // int(settings["micro_batch"])
        if most % min(world, most):
            raise RequestError(
                f"the {most} micro-batches of a batch can't be divided",
                where=self.name,
                given=f"{world} processes",
                allowed=", ".join(str(1 << power) for power in range(most.bit_length())),
            )
        return min(world, most)


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


def build(experiments: Sequence[Loaded]) -> Plan:
    """The stage graph of several experiments.

    Raises:
        RequestError: when two experiments claim one name for different things.
    """
    stages: dict[str, Stage] = {}
    for loaded in experiments:
        for stage in _stages(loaded):
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


def _makers(path: str, makers: Mapping[str, str]) -> tuple[str, ...]:
    """The stages that give a path: the stage of that out, or all whose outs lie below it."""
    if path in makers:
        return (makers[path],)
    return tuple(name for out, name in makers.items() if out.startswith(path + "/"))


def _stages(loaded: Loaded) -> list[Stage]:
    experiment, science = loaded.experiment, loaded.experiment.science
    name, resources = experiment.name, experiment.resources
    stages = [
        Stage("fetch", card.name, _fetch(card), {}, f"data/{card.name}", None, resources)
        for card in loaded.cards.values()
    ]

    def add(kind: str, key: str, settings: Mapping[str, Any], deps: Mapping[str, str], out: str) -> None:
        content = {"recipe": RECIPES[kind], **settings}
        stages.append(Stage(kind, f"{name}-{key}" if key else name, content, deps, out, name, resources))

    model = dict(loaded.model)
    evaluate = science.evaluate.model_dump(mode="json")
    triplets = {f"triplets-{number}": f"data/{entry.data}" for number, entry in enumerate(science.evaluate.two_afc)}
    for seed in science.seeds:
        common = {"seed": seed, "device": science.device, "model": model}
        start_of: dict[str, str] = {}
        add("draw", f"s{seed}", common, {}, f"artifacts/{name}/draw-s{seed}")
        # An arm that starts from another comes after it, however the spec orders them.
        for arm in sorted(science.arms, key=lambda arm: science.arms[arm].start != "draw"):
            folder = f"{arm}-s{seed}"
            start = science.arms[arm].start
            weights = f"artifacts/{name}/draw-s{seed}" if start == "draw" else start_of[start]
            for stage in science.arms[arm].stages:
                settings = loaded.arms[arm][stage]
                section, role = ("pretrain", "pairs") if stage == "pretrain" else ("align", "triplets")
                content = common | {"mode": science.mode, section: settings.model_dump(mode="json")}
                if isinstance(settings, Align):
                    used = (("objectives", settings.objective.name), ("adapters", settings.adapter.name))
                    content |= _provided(plugins.providers(*used))
                deps = {"start": weights, role: f"data/{settings.data}"}
                weights = f"artifacts/{name}/{folder}/{stage}"
                add(stage, folder, content, deps, weights)
                if stage == "pretrain":
                    start_of[arm] = weights
            judged = {"device": science.device, "model": model, "evaluate": evaluate, "arm": arm, "seed": seed}
            deps = {"weights": weights, "suite": f"data/{science.evaluate.suite}", **triplets}
            add("evaluate", folder, judged, deps, f"results/{name}/{folder}")
    add(
        "report",
        "",
        _report(loaded, evaluate),
        {"results": f"results/{name}", "suite": f"data/{science.evaluate.suite}"},
        f"reports/{name}",
    )
    return stages


def _fetch(card: Card) -> dict[str, Any]:
    content = {"recipe": RECIPES["fetch"], "card": card.model_dump(mode="json")}
    return content | _provided(plugins.providers(("fetchers", card.fetcher)))


def _provided(providers: dict[str, str]) -> dict[str, Any]:
    """A plugin's code is not ours to number: its package's version stands for it."""
    return {"providers": providers} if providers else {}


def _report(loaded: Loaded, evaluate: Mapping[str, Any]) -> dict[str, Any]:
    experiment, science = loaded.experiment, loaded.experiment.science
    arms = {
        name: {
            "description": arm.description,
            "start": arm.start,
            "stages": list(arm.stages),
            # What the arm was aligned on: the set that its manipulation check looks at.
            "triplets": next((kind.data for kind in loaded.arms[name].values() if isinstance(kind, Align)), None),
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
    }
