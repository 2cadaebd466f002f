"""pretrain: CLIP on image-text pairs, from the weights of draw or initialize; joint: with a triplet term as well.

Rule: both are one course through the pairs. The term adds a batch of triplets to every update and alters nothing
of what is seen of the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pi_repro.data.joined import Two
from pi_repro.data.loader import PairSource, TripletSource
from pi_repro.data.shards import Shards
from pi_repro.spec.training import Joint, Pretrain
from pi_repro.stages.context import StageContext
from pi_repro.training import determinism, learners, objectives, processes, weights
from pi_repro.training import model as models
from pi_repro.training.course import Accompanied, Course
from pi_repro.training.inputs import open_shards
from pi_repro.training.loop import Training, train
from pi_repro.training.processes import Group
from pi_repro.training.step import Conditions
from pi_repro.training.votes import Votes


def run(context: StageContext) -> None:
    """Fill `context.out` as `training.loop.train` says; errors as there."""
    settings = context.settings
    joint = Joint.model_validate(settings["joint"]) if "joint" in settings else None
    pretrain = joint or Pretrain.model_validate(settings["pretrain"])
    seed, size = settings["seed"], models.image_size(settings["model"])
    # What the request may get wrong is found before any data is read.
    term = _Term(joint, size, context) if joint else None
    device = determinism.enter(settings["device"], context.processes.gpu, settings["mode"])
    shards = open_shards(context.inputs["pairs"], context)
    if term:
        term.open(context)
    # The first may read a terabyte before it comes; from then on a silence is a loss.
    group = processes.join(context.processes, device)
    source = PairSource(
        shards,
        pretrain.augmentation,
        size,
        models.tokenizer(settings["model"]),
        seed,
        pretrain.caption_noise,
    )
    course = Course(
        source.order(pretrain.shuffle_block),
        pretrain.epochs,
        pretrain.batch,
        pretrain.micro_batch,
        pretrain.accumulation,
        pretrain.extra_updates,
    )
    model = models.load(settings["model"], weights.last(context.inputs["start"]))
    learners.freeze(model, pretrain.freeze)
    learners.prepare(model, device, context.resources)
    conditions = Conditions(
        device, pretrain.precision, seed, pretrain.micro_batch, pretrain.batch // pretrain.micro_batch
    )
    how = (settings["mode"], model, conditions, pretrain.accumulation, settings["model"], group)
    about: dict[str, Any] = {"name": shards.name, "count": shards.count, "sha256": shards.sha256}
    if source.captions is not None:
        about["captions_of_others"] = int((source.captions != range(shards.count)).sum())
    train(
        Training(
            stage=context.name.partition("@")[0],
            model=model,
            settings=settings["model"],
            weights=lambda module: module.state_dict(),
            learner=learners.joint(*how, term.of_learner) if term else learners.contrastive(*how),
            source=Two(source, term.source(group), shards.count) if term else source,
            group=group,
            course=term.beside(course) if term else course,
            optimizer=pretrain.optimizer,
            schedule=pretrain.schedule,
            keep_epochs=pretrain.keep_epochs,
            publish_states=pretrain.publish_states,
            checksum_every=pretrain.checksum_every,
            about={"seed": seed, "data": about, **(term.about() if term else {})},
        ),
        context,
    )


class _Term:
    """The triplet term of a joint stage."""

    def __init__(self, joint: Joint, size: int, context: StageContext) -> None:
        self.settings = joint.auxiliary
        self.objective = objectives.objective(self.settings.objective)
        self.of_learner = (self.objective, self.settings.micro_batch, self.settings.weight)
        self._votes = Votes(self.settings, size, context)

    def open(self, context: StageContext) -> None:
        """Check the triplets and ask for their labels."""
        self._shards: Shards = open_shards(context.inputs["triplets"], context)
        self._opened: Callable[[Group], TripletSource] = self._votes.open(self._shards)

    def source(self, group: Group) -> TripletSource:
        """The triplets, once the processes have met."""
        self._source = self._opened(group)
        return self._source

    def beside(self, course: Course) -> Course:
        """A course through the pairs with a batch of triplets in every update."""
        settings = self.settings
        other = Course(self._source.order(settings.shuffle_block), course.epochs, settings.batch, settings.micro_batch)
        return Accompanied(**vars(course), other=other, first=course.order.count)

    def about(self) -> dict[str, Any]:
        """What training.json says of the triplets."""
        shards, count = self._shards, int(self._source.triplets.mask("train").sum())
        told = {"name": shards.name, "count": count, "sha256": shards.sha256, **self._votes.about(self._source)}
        return {"triplets": told}
