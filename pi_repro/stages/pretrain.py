"""pretrain: CLIP on image-text pairs, from the weights of draw or initialize."""

from __future__ import annotations

from pi_repro.data.loader import PairSource
from pi_repro.spec.training import Pretrain
from pi_repro.stages.context import StageContext
from pi_repro.training import determinism, learners, processes, weights
from pi_repro.training import model as models
from pi_repro.training.course import Course
from pi_repro.training.inputs import open_shards
from pi_repro.training.loop import Training, train
from pi_repro.training.step import Conditions


def run(context: StageContext) -> None:
    """Fill `context.out` as `training.loop.train` says; errors as there."""
    settings = context.settings
    pretrain = Pretrain.model_validate(settings["pretrain"])
    seed = settings["seed"]
    device = determinism.enter(settings["device"], context.processes.local_rank, settings["mode"])
    group = processes.join(context.processes, device)
    shards = open_shards(context.inputs["pairs"], context)
    source = PairSource(
        shards, pretrain.augmentation, models.image_size(settings["model"]), models.tokenizer(settings["model"]), seed
    )
    course = Course(
        source.order(pretrain.shuffle_block),
        pretrain.epochs,
        pretrain.batch,
        pretrain.micro_batch,
        pretrain.accumulation,
    )
    model = models.load(settings["model"], weights.last(context.inputs["start"]))
    learners.prepare(model, device, context.resources)
    conditions = Conditions(
        device, pretrain.precision, seed, pretrain.micro_batch, pretrain.batch // pretrain.micro_batch
    )
    train(
        Training(
            stage="pretrain",
            model=model,
            settings=settings["model"],
            weights=lambda module: module.state_dict(),
            learner=learners.contrastive(
                settings["mode"], model, conditions, pretrain.accumulation, settings["model"], group
            ),
            source=source,
            group=group,
            course=course,
            optimizer=pretrain.optimizer,
            schedule=pretrain.schedule,
            keep_epochs=pretrain.keep_epochs,
            publish_states=pretrain.publish_states,
            checksum_every=pretrain.checksum_every,
            about={"seed": seed, "data": {"name": shards.name, "count": shards.count, "sha256": shards.sha256}},
        ),
        context,
    )
