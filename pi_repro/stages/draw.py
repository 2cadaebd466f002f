"""draw: all initial weights of a model from one seed.

Rule: what open_clip draws after torch.manual_seed(seed) on CPU, then what the spec's initialization draws in its
place, with the logit scale as the spec says. Every arm of the seed starts from this one file.
"""

from __future__ import annotations

import torch

from pi_repro.files import write_json
from pi_repro.stages.context import StageContext
from pi_repro.training import determinism, initializations, weights
from pi_repro.training import model as models


def run(context: StageContext) -> None:
    """Fill `context.out` with training.json and weights/epoch-0000.safetensors.

    Raises:
        RequestError: open_clip has another architecture of the model's name, or nobody offers the initialization.
        StateError: the process is not exact.
    """
    settings = context.settings
    drawn_anew = initializations.initialization(settings["model"]["initialization"])
    determinism.enter("cpu")
    torch.manual_seed(settings["seed"])
    model = models.build(settings["model"])
    drawn_anew(model)
    with torch.no_grad():
        model.get_parameter("logit_scale").fill_(settings["model"]["logit_scale_init"])
    row = {"epoch": 0, "update": 0, "samples": 0}
    file = "weights/epoch-0000.safetensors"
    sha256 = models.save(model, settings["model"], context.out / file, stage="draw", **row)
    context.log.info("drew %d weights from seed %d", sum(p.numel() for p in model.parameters()), settings["seed"])
    write_json(
        context.out / weights.TRAINING,
        {
            "stage": "draw",
            "seed": settings["seed"],
            "model": settings["model"],
            "checkpoints": [{**row, "file": file, "sha256": sha256}],
            "last": file,
        },
    )
