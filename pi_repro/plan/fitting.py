"""Whether what a training asks for fits its data: found when a plan is made, not after the data was fetched.

Rule: the arithmetic is that of `training.course`, the limits those that a stage keeps when it runs, and what is
not known is not refused. A fetcher in _EXACT refuses data of another size than its card says. For the real sources
a count is a promise whose breach is only warned of, so they get room for more. Of others nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_repro.errors import RequestError
from pi_repro.spec import extending
from pi_repro.spec.card import Card
from pi_repro.spec.grids import placed
from pi_repro.spec.loading import Loaded
from pi_repro.spec.training import Align, Joint, Pretrain
from pi_repro.spec.validation import combined
from pi_repro.spec.yamlfile import Location

_EXACT = ("demo_pairs", "demo_triplets", "demo_concepts", "fractal_triplets")
_PROMISED = ("nights", "yfcc15m", "yfcc15m_openai")
#: Of what is promised, per cent that may be there: published counts of YFCC15M differ by 4 %.
_ROOM = 110
#: Arms that a message names.
_SHOWN = 3


@dataclass(frozen=True)
class _Misfit:
    """A value that a stage would refuse.

    Attributes:
        problem: as the stage would put it.
        field: of the training, inside its settings.
        given, allowed: as in a RequestError.
    """

    problem: str
    field: Location
    given: str
    allowed: str


def samples_per_update(settings: Align | Pretrain) -> int:
    """Samples of an update."""
    return settings.batch * (settings.accumulation if isinstance(settings, Pretrain) else 1)


def updates(settings: Align | Pretrain, count: int) -> int:
    """Updates of a whole training on so many samples an epoch; a fraction of the triplets leaves an epoch as long."""
    extra = settings.extra_updates if isinstance(settings, Pretrain) else 0
    return extra + settings.epochs * (count // samples_per_update(settings))


def check(loaded: Loaded) -> None:
    """Look for what a training stage would refuse once its data is there.

    Raises:
        RequestError: all that was found, each with its place in the spec.
    """
    found: dict[tuple[_Misfit, str], list[str]] = {}
    file = None
    for arm, stages in loaded.arms.items():
        for stage, settings in stages.items():
            for misfit in _misfits(settings, loaded):
                # Read again only where there is something to point at.
                file = file or placed(extending.load(loaded.path)[0])
                own: Location = ("science", "arms", arm, "override", stage, *misfit.field)
                base: Location = ("science", "pretrain" if stage == "joint" else stage, *misfit.field)
                if stage == "joint" and misfit.field[0] == "auxiliary":
                    base = ("science", *misfit.field)
                where = file.where(own if own in file.lines else base)
                found.setdefault((misfit, where), []).append(f"{stage} of {arm}")
    errors = [
        RequestError(
            f"{misfit.problem} ({_some(names)})",
            where=where,
            given=misfit.given,
            allowed=misfit.allowed,
            todo=f"change {'.'.join(map(str, misfit.field))}, in the spec or in an arm's override",
        )
        for (misfit, where), names in found.items()
    ]
    if errors:
        raise combined(errors)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _most(card: Card) -> int | None:
    """The most samples that an epoch of a dataset may turn out to have; None where nobody knows."""
    if card.fetcher in _EXACT:
        return card.count
    return card.count * _ROOM // 100 if card.fetcher in _PROMISED else None


def _misfits(settings: Align | Pretrain, loaded: Loaded) -> Iterator[_Misfit]:
    """What a stage of these settings would refuse."""
    if isinstance(settings, Joint):
        term = settings.auxiliary
        yield from _unfilled(loaded.cards[term.data], term.batch, str(term.batch), ("auxiliary", "batch"))
    card, update = loaded.cards[settings.data], samples_per_update(settings)
    given = f"{settings.batch} x {settings.accumulation}" if isinstance(settings, Pretrain) else str(settings.batch)
    unfilled = list(_unfilled(card, update, given, ("batch",)))
    yield from unfilled
    most = _most(card)
    if unfilled or most is None:
        return  # nothing to count, or nothing to count with
    total, promised = updates(settings, most), updates(settings, card.count)
    counted = f"{settings.epochs} epochs of {card.count:,} samples by card {card.name}, {update:,} an update"
    warmup = settings.schedule.warmup_updates
    if warmup >= total:
        yield _Misfit(
            "the warm-up lasts as long as the training",
            ("schedule", "warmup_updates"),
            str(warmup),
            f"fewer than its {promised} updates ({counted})",
        )
    late = [each for each in settings.publish_states if each > total] if isinstance(settings, Pretrain) else []
    if late:
        yield _Misfit(
            "publish_states names an update past the last",
            ("publish_states",),
            ", ".join(map(str, late)),
            f"1 to {promised} ({counted})",
        )


def _unfilled(card: Card, update: int, given: str, field: Location) -> Iterator[_Misfit]:
    most = _most(card)
    if most is not None and most < update:
        yield _Misfit(
            "the data does not fill one update",
            field,
            f"{given} samples an update",
            f"at most {card.count}, the samples of an epoch by card {card.name}",
        )
