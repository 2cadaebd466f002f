"""What an experiment costs, from its spec and cards alone: no clock, no disk, no network, no torch.

Rule: every figure is arithmetic on something that the spec or a card declares, and what nobody
declared is named as unknown instead of guessed.

    seconds(stage, d)  = startup + samples / (rate x d)          d devices
    align, pretrain      samples = (epochs x floor(count / update) + extra updates) x update,
                         update = batch x accumulation; joint: pretrain, and align for its triplets
                         d = processes of a job, at most batch / micro_batch
    evaluate             samples = checkpoints x (test images + 3 x triplets of the 2AFC splits)
                         d = processes of a job, which share the sets
    probe                at evaluate's rate on one device: images and pairs that pass through the model; of a matrix
                         for RSA all images of its set are counted, as the spec does not say how many it has
    device-hours       = sum of d x seconds / 3600
    kWh                = device-hours x device_watts / 1000;    kg CO2e = kWh x g a kWh / 1000
    weights            = 4 bytes x parameters (fp32); a training state = 3 x weights (with Adam's two moments)

Fetching, drawing and reporting take no device time here. One copy of every output is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Arm, Evaluate, Experiment, Resources
from pi_repro.spec.loading import TRAINING_STAGES, merged
from pi_repro.spec.probes import Probes, chosen
from pi_repro.spec.training import Align, Joint, Pretrain

from . import fitting
from .bill import Budget, DataCost, Estimate, StageCost
from .parameters import parameter_count
from .schedule import makespan

_STATE_WEIGHTS = 3  # weights and two moments, all fp32
_STATES_KEPT = 2  # the newest checkpoint and the one before it
_LEDGER_BYTES = 2_900  # one line of ledger.jsonl and of curves.csv, an update; ViT-B/32 has 302 tensors
_ITEM_BYTES = 12  # rank, label and prediction of a judged image
_RESULT_BYTES = 4096  # JSON of one set at one checkpoint
_PROBE_BYTES = 500_000  # one probe of one checkpoint: features of some thousand images are the largest part
_REPORT_BYTES, _REPORT_FILES = 10_000_000, 40


def estimate(experiment: Experiment, cards: Mapping[str, Card], architecture: Mapping[str, object]) -> Estimate:
    """The cost of everything that an experiment asks for.

    Args:
        experiment: a checked spec.
        cards: name -> card of every dataset and suite it names.
        architecture: open_clip's config of the model (embed_dim, vision_cfg, text_cfg).
    """
    resources = experiment.resources
    parameters = parameter_count(architecture)
    stages = tuple(_stages(experiment, cards, 4 * (parameters or 0)))
    unknown = [] if parameters else [f"weights: parameters of {experiment.science.model.name} cannot be counted here"]
    missing = [rate for rate in ("align", "pretrain", "evaluate") if rate not in resources.rates]
    unknown += [f"time of {rate}: the spec's resources state no rate" for rate in missing]
    trained = [cost for cost in stages if cost.kind in TRAINING_STAGES]
    largest = max((cost.output_bytes for cost in trained), default=0)
    return Estimate(
        experiment=experiment.name,
        device="GPU" if experiment.science.device == "cuda" else "CPU process",
        parameters=parameters,
        stages=stages,
        data=tuple(_data(card) for _, card in sorted(cards.items())),
        machine=_budget(stages, resources, resources.parallel),
        cluster=_budget(stages, resources, None),
        one_device=_alone(stages, resources),
        output_bytes=sum(cost.output_bytes for cost in stages),
        files=sum(cost.files for cost in stages),
        scratch_bytes=min(resources.parallel, len(trained))
        * (_STATES_KEPT * _STATE_WEIGHTS * 4 * (parameters or 0) + largest),
        unknown=tuple(unknown),
    )


def stage_cost(
    name: str,
    settings: Align | Pretrain,
    kind: str,
    count: int,
    resources: Resources,
    weights_bytes: int,
    after: Sequence[str] = (),
) -> StageCost:
    """The cost of one training stage.

    Args:
        kind: "initialize", "pretrain", "joint" or "finetune".
        count: pairs or triplets of one epoch, as the data's card states them.
    """
    pretrain = isinstance(settings, Pretrain)
    update, updates = fitting.samples_per_update(settings), fitting.updates(settings, count)
    kept = len({*settings.keep_epochs, settings.epochs})
    states = len(settings.publish_states) if isinstance(settings, Pretrain) else 0
    samples = updates * update
    devices = resources.share(settings.batch // settings.micro_batch)
    rate = "pretrain" if pretrain else "align"
    seconds, alone = (_seconds(resources, rate, samples, number) for number in (devices, 1))
    if isinstance(settings, Joint):
        # The triplet term is alignment's work, without its start.
        triplets = updates * settings.auxiliary.batch
        seconds, alone = (
            sofar + _seconds(resources, "align", triplets, number) - _seconds(resources, "align", 0, number)
            for sofar, number in ((seconds, devices), (alone, 1))
        )
    return StageCost(
        name=name,
        kind=kind,
        samples=samples,
        devices=devices,
        seconds=seconds,
        seconds_alone=alone,
        output_bytes=kept * weights_bytes + states * _STATE_WEIGHTS * weights_bytes + updates * _LEDGER_BYTES,
        files=3 + kept + 3 * states,  # training.json, ledger, curves; a state is two tensor files and its JSON
        after=tuple(after),
    )


def evaluate_cost(
    name: str,
    evaluate: Evaluate,
    cards: Mapping[str, Card],
    checkpoints: int,
    resources: Resources,
    after: Sequence[str] = (),
) -> StageCost:
    """The cost of judging some checkpoints of one arm and seed, in one job that shares the sets evenly."""
    suite = cards[evaluate.suite]
    judged = sum(entry.n or 0 for entry in suite.sets) or suite.count
    triplets = sum(3 * _triplets(cards[entry.data], entry.splits) for entry in evaluate.two_afc)
    results = len(suite.sets) + sum(len(entry.splits) for entry in evaluate.two_afc)
    samples = checkpoints * (judged + triplets)
    devices = resources.world
    return StageCost(
        name=name,
        kind="evaluate",
        samples=samples,
        devices=devices,
        seconds=_seconds(resources, "evaluate", samples, devices),
        seconds_alone=_seconds(resources, "evaluate", samples, 1),
        output_bytes=samples * _ITEM_BYTES + checkpoints * results * _RESULT_BYTES,
        files=1 + 2 * checkpoints * results,
        after=tuple(after),
    )


def probe_cost(
    name: str,
    probes: Probes,
    suite: Card,
    kept: Mapping[str, Sequence[int]],
    resources: Resources,
    after: Sequence[str] = (),
) -> StageCost:
    """The cost of looking into the checkpoints of one arm and seed.

    Args:
        kept: training stage -> the epochs whose weights it keeps.
    """
    size = {entry.id: entry.n or 0 for entry in suite.sets}
    looked = {stage: probes.at(tuple(epochs)) for stage, epochs in kept.items() if stage in probes.stages}
    checkpoints = sum(len(epochs) for epochs in looked.values())
    samples = 0
    if probes.features is not None:  # those compared with: the draw, and where each stage began
        samples += min(probes.features.images, size[probes.features.set]) * (checkpoints + 1 + len(kept))
    for each in probes.linear.sets if probes.linear is not None else ():
        limit = (probes.linear.images if probes.linear is not None else None) or size[each]
        samples += checkpoints * min(limit, size[each])
    samples += checkpoints * size[probes.rsa.set] if probes.rsa is not None else 0
    if probes.sharpness is not None:
        asked = probes.sharpness
        sharp = sum(len({*epochs} & {*chosen(asked.epochs, tuple(kept[stage]))}) for stage, epochs in looked.items())
        # At the weights, in every direction, and for the gradient a pass, another and its way back.
        passes = 1 + (asked.directions + 1) * len(asked.radii) + 4
        samples += sharp * passes * asked.pairs
    seconds = _seconds(resources, "evaluate", samples, 1)
    asks = (probes.features, probes.distance or None, probes.sharpness, probes.rsa)
    files = sum(one is not None for one in asks) + len(probes.linear.sets if probes.linear else ())
    return StageCost(
        name=name,
        kind="probe",
        samples=samples,
        devices=1,
        seconds=seconds,
        seconds_alone=seconds,
        output_bytes=checkpoints * files * _PROBE_BYTES,
        files=1 + 2 * checkpoints * files,
        after=tuple(after),
    )


def _stages(experiment: Experiment, cards: Mapping[str, Card], weights: int) -> Iterator[StageCost]:
    """Every stage but fetch, after those that it depends on."""
    science, resources, title = experiment.science, experiment.resources, experiment.name
    judging = []
    arms = sorted(science.arms.items(), key=lambda item: item[1].start != "draw")
    for seed in science.seeds:
        draw = f"draw@{title}-s{seed}"
        yield StageCost(draw, "draw", 0, 1, 0.0, 0.0, weights, 2, ())
        for arm_name, arm in arms:
            slug = f"{title}-{arm_name}-s{seed}"
            before = draw if arm.start == "draw" else f"{science.arms[arm.start].whole[0]}@{title}-{arm.start}-s{seed}"
            checkpoints = 0
            kept: dict[str, list[int]] = {}
            for kind in arm.stages:
                settings = _settings(experiment, arm, kind)
                cost = stage_cost(
                    f"{kind}@{slug}",
                    settings,
                    kind,
                    cards[settings.data].count,
                    resources,
                    weights,
                    (before,),
                )
                yield cost
                kept[kind] = sorted({*settings.keep_epochs, settings.epochs})
                before, checkpoints = cost.name, len(kept[kind])
            judge = f"evaluate@{slug}"
            yield evaluate_cost(judge, science.evaluate, cards, checkpoints, resources, (before,))
            judging.append(judge)
            if science.probes is not None:
                twin = f"probe@{title}-{science.baseline}-s{seed}"
                compared = science.probes.features and arm_name != science.baseline and arm.whole
                awaited = (before, twin) if compared else (before,)
                probe, suite = f"probe@{slug}", cards[science.evaluate.suite]
                yield probe_cost(probe, science.probes, suite, kept, resources, awaited)
                judging.append(probe)
    yield StageCost(f"report@{title}", "report", 0, 1, 0.0, 0.0, _REPORT_BYTES, _REPORT_FILES, tuple(judging))


def _settings(experiment: Experiment, arm: Arm, kind: str) -> Align | Pretrain:
    base = experiment.science.base(kind)
    override = arm.override.get(kind, {})  # type: ignore[call-overload]
    return TRAINING_STAGES[kind].model_validate(merged(base, override))


def _seconds(resources: Resources, rate: str, samples: int, devices: int) -> float:
    known = resources.rates.get(rate)  # type: ignore[call-overload]
    return known.startup_s + samples / (known.per_second * devices) if known else 0.0


def _triplets(card: Card, splits: Sequence[str]) -> int:
    """Triplets of some splits: as the card's settings expect them, else its count; a half of test counts as test."""
    sizes = card.settings.get("splits")
    known = sizes if isinstance(sizes, Mapping) else {}
    whole = [split.partition("_")[0] for split in splits]
    return sum(known[split] if isinstance(known.get(split), int) else card.count for split in whole)


def _data(card: Card) -> DataCost:
    return DataCost(
        name=card.name,
        location=card.location,
        download_bytes=sum(source.bytes or 0 for source in card.sources),
        unknown=tuple(source.name for source in card.sources if source.bytes is None),
        disk_bytes=card.disk_bytes,
        files=card.files,
    )


def _budget(stages: Sequence[StageCost], resources: Resources, slots: int | None) -> Budget:
    wall = makespan([(cost.name, cost.seconds, cost.after) for cost in stages], slots)
    return _priced(wall / 3600, sum(cost.device_hours for cost in stages), resources)


def _alone(stages: Sequence[StageCost], resources: Resources) -> Budget:
    hours = sum(cost.seconds_alone for cost in stages) / 3600
    return _priced(hours, hours, resources)


def _priced(wall_hours: float, device_hours: float, resources: Resources) -> Budget:
    kwh = device_hours * resources.device_watts / 1000
    return Budget(wall_hours, device_hours, kwh, kwh * resources.grid_g_per_kwh / 1000)
