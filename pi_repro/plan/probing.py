"""The stages that look into kept checkpoints: one an arm and seed, beside its evaluation.

Rule: a spec without probes has none of them. The baseline of a seed comes first, because the others of the seed compare
their features with its own at equal epochs, by the files that it wrote.
"""

from __future__ import annotations

from typing import Any

from pi_repro.spec.experiment import WHOLE
from pi_repro.spec.loading import Loaded
from pi_repro.spec.probes import settings

from .stage import Stage

#: What dvc.yaml declares for every probe; a role that one does not have is filled with the suite.
ROLES = ("draw", "start", "trained", "suite", "pairs", "twin")


def stages(loaded: Loaded, recipe: int) -> list[Stage]:
    """The probes of an experiment, in an order in which each comes after what it depends on."""
    experiment, science = loaded.experiment, loaded.experiment.science
    if science.probes is None:
        return []
    name, found = experiment.name, []
    asked: dict[str, Any] = settings(science.probes, loaded.given)
    for seed in science.seeds:
        draw = f"artifacts/{name}/draw-s{seed}"
        for arm in sorted(science.arms, key=lambda arm: arm != science.baseline):
            content = science.arms[arm]
            start = draw
            if content.start != "draw":
                start = f"artifacts/{name}/{content.start}-s{seed}/{science.arms[content.start].whole[0]}"
            deps = {
                "draw": draw,
                "start": start,
                "trained": f"artifacts/{name}/{arm}-s{seed}",
                "suite": f"data/{science.evaluate.suite}",
            }
            if science.probes.sharpness is not None:
                deps["pairs"] = f"data/{science.pretrain.data}"
            if science.probes.features is not None and arm != science.baseline and set(content.stages) & set(WHOLE):
                deps["twin"] = out(name, science.baseline, seed)
            told = {
                "recipe": recipe,
                "device": science.device,
                "model": dict(loaded.model),
                **asked,
                "arm": arm,
                "baseline": science.baseline,
                "stages": list(content.stages),
                "seed": seed,
            }
            place = out(name, arm, seed)
            found.append(Stage("probe", f"{name}-{arm}-s{seed}", told, deps, place, name, experiment.resources))
    return found


def out(experiment: str, arm: str, seed: int) -> str:
    """Where one of them gives its files: below the results, so that whoever reads these has them."""
    return f"results/{experiment}/probes/{arm}-s{seed}"
