"""align: the image tower on triplets; the stage initialize before pretraining, finetune after it.

Rule: the text tower and the logit scale keep every bit of the start.
"""

from __future__ import annotations

from pi_repro.spec.training import Align
from pi_repro.stages.context import StageContext
from pi_repro.training import adapters, determinism, learners, objectives, processes, weights
from pi_repro.training import model as models
from pi_repro.training.course import Course
from pi_repro.training.inputs import open_shards
from pi_repro.training.loop import Training, train
from pi_repro.training.step import Conditions
from pi_repro.training.votes import Votes


def run(context: StageContext) -> None:
    """Fill `context.out` as `training.loop.train` says; errors as there."""
    settings = context.settings
    align = Align.model_validate(settings["align"])
    seed = settings["seed"]
    # What the request may get wrong is found before any data is read.
    objective, adapter = objectives.objective(align.objective), adapters.adapter(align.adapter)
    votes = Votes(align, models.image_size(settings["model"]), context)
    device = determinism.enter(settings["device"], context.processes.gpu, settings["mode"])
    shards = open_shards(context.inputs["triplets"], context)
    opened = votes.open(shards)
    # The first may read a terabyte before it comes; from then on a silence is a loss.
    group = processes.join(context.processes, device)
    source = opened(group)
    course = Course(source.order(align.shuffle_block), align.epochs, align.batch, align.micro_batch)
    model = models.load(settings["model"], weights.last(context.inputs["start"]))
    adapters.attach(adapter, model, seed)
    learners.prepare(model, device, context.resources)
    conditions = Conditions(device, align.precision, seed, align.micro_batch, align.batch // align.micro_batch)
    train(
        Training(
            stage=context.name.partition("@")[0],
            model=model,
            settings=settings["model"],
            weights=adapter.weights,
            learner=learners.alignment(settings["mode"], model, conditions, objective, group),
            source=source,
            group=group,
            course=course,
            optimizer=align.optimizer,
            schedule=align.schedule,
            keep_epochs=align.keep_epochs,
            publish_states=(),
            checksum_every=align.checksum_every,
            about={
                "seed": seed,
                "data": {
                    "name": shards.name,
                    "count": course.order.count,
                    "sha256": shards.sha256,
                    **votes.about(source),
                },
            },
        ),
        context,
    )
