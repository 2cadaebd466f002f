"""Verdicts on the paper's claims: what was planned, computed, and judged by the rule that was written before.

Rule: a verdict is about the paper's claim and is given on the paper's data alone: without what a claim needs, or where
the rule leaves it open, it is "not measured at this scale", with the reason. What the same test gives on the
experiment's own data is said beside it, as `here`, and is no verdict on the paper. One seed decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pi_repro.spec.claims import Claim, Claims, Needs, Rule

from . import power
from .effects import Pair, pair
from .estimands import Component, Computed, compute
from .hypotheses import holm
from .results import Results
from .statistics import Estimate

Verdict = Literal["reproduced", "not reproduced", "not measured at this scale"]
Here = Literal["holds", "fails", "open", "not computed"]
VERDICTS: dict[Here, Verdict] = {"holds": "reproduced", "fails": "not reproduced"}


@dataclass(frozen=True)
class Scale:
    """What an experiment was computed from, as far as claims ask.

    Attributes:
        suite, pairs, triplets: names of the cards; None where the arm uses none.
        epochs: of stage 2 of the perceptual arm.
        treatment: the perceptual arm; None without one.
        posthoc: the arm aligned after pretraining; None without one.
        model: open_clip's name of the network.
    """

    suite: str
    pairs: str | None
    triplets: str | None
    epochs: int
    treatment: str | None
    posthoc: str | None
    model: str


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes:
        verdict: on the paper's claim.
        here: what the test gives on this experiment's data.
        lacking: what the paper's claim takes and this experiment has not.
        why: why the test holds not here.
        computed: the numbers.
        p: largest p of the components (all of which have to pass), 1 for one that points the other way; None where
            there are none.
        p_holm: the same, adjusted for all claims of the table (Holm).
    """

    claim: Claim
    verdict: Verdict
    here: Here
    lacking: tuple[str, ...]
    why: tuple[str, ...]
    computed: Computed
    p: float | None
    p_holm: float | None


def judge(claims: Claims, results: Results, scale: Scale) -> tuple[Judged, ...]:
    """Judge every claim, in the file's order."""
    judged = [_judge(claim, claims.needed(claim), results, scale) for claim in claims.claims]
    tested = [place for place, one in enumerate(judged) if one[3] is not None]
    adjusted = dict(zip(tested, holm([p for *_, p in judged if p is not None]), strict=True))
    return tuple(
        Judged(claim, _verdict(here, lacking), here, lacking, why, computed, p, adjusted.get(place))
        for place, (claim, (here, lacking, (computed, why), p)) in enumerate(zip(claims.claims, judged, strict=True))
    )


_Found = tuple[Here, tuple[str, ...], tuple[Computed, tuple[str, ...]], float | None]


def _judge(claim: Claim, needs: Needs, results: Results, scale: Scale) -> _Found:
    lacking = tuple(_lacking(needs, scale, len(results.seeds)))
    other = scale.posthoc if claim.test.against == "posthoc" else results.baseline
    if scale.treatment is None or other is None:
        return "not computed", lacking, (Computed(lacking="the arm is not part of this experiment"), ()), None
    computed = compute(claim.test, pair(results, scale.treatment, other))
    if computed.lacking:
        return "not computed", lacking, (computed, (computed.lacking,)), None
    here, why = decide(claim.rule, computed, len(results.seeds))
    p = max((one.p if one.estimate.value > one.null else 1.0 for one in computed.components), default=None)
    return here, lacking, (computed, why), p


def _verdict(here: Here, lacking: Sequence[str]) -> Verdict:
    return "not measured at this scale" if lacking else VERDICTS.get(here, "not measured at this scale")


def _lacking(needs: Needs, scale: Scale, seeds: int) -> Iterator[str]:
    """What the paper's claim takes and this experiment has not."""
    if scale.model != needs.model:
        yield f"a {scale.model}, not a {needs.model}"
    if scale.suite != needs.suite:
        yield f"judged on {scale.suite}, not {needs.suite}"
    if scale.pairs != needs.pairs:
        yield f"pretrained on {scale.pairs}, not {needs.pairs}"
    if scale.triplets != needs.triplets:
        yield f"triplets of {scale.triplets}, not {needs.triplets}"
    if scale.epochs < needs.epochs:
        yield f"{scale.epochs} epochs, not {needs.epochs}"
    if seeds < needs.seeds:
        yield f"{seeds} seed{'s' if seeds > 1 else ''}, not {needs.seeds}"
    if needs.posthoc and scale.posthoc is None:
        yield "no arm is aligned after pretraining"


def decide(rule: Rule, computed: Computed, seeds: int) -> tuple[Here, tuple[str, ...]]:
    """Apply a rule to what was computed; with the reason where it leaves the claim open."""
    if seeds < 2:
        return "open", ("one seed has no spread: nothing is decided",)
    if rule.kind == "above":
        return _above(rule, computed.components, seeds)
    if rule.kind == "count":
        return _count(rule, computed)
    return _window(rule, computed) if rule.kind == "window" else _apart(rule, computed)


def _above(rule: Rule, components: Sequence[Component], seeds: int) -> tuple[Here, tuple[str, ...]]:
    open_ones = [one for one in components if not _over(one.estimate, rule.threshold)]
    if not open_ones:
        return "holds", ()
    failed = [one for one in open_ones if one.joint.high is not None and one.joint.high < rule.relevant]
    if failed:
        return "fails", tuple(f"{one.name}: surely below {rule.relevant:g} {rule.unit}" for one in failed)
    return "open", tuple(_more_seeds(one, rule, seeds) for one in open_ones)


def _count(rule: Rule, computed: Computed) -> tuple[Here, tuple[str, ...]]:
    (one,) = computed.components
    low, high = one.estimate.low, one.estimate.high
    assert low is not None and high is not None
    half = computed.sets / 2
    # On a suite of another size the same share of sets stands for the paper's count.
    wanted = rule.threshold if computed.sets == _PAPER_SETS else rule.threshold / _PAPER_SETS * computed.sets
    if high < wanted:
        return "fails", (f"at most {high:.1f} of {computed.sets} sets, not {wanted:.1f}",)
    if low > half:
        return "holds", ()
    return "open", (f"{low:.1f} to {high:.1f} of {computed.sets} sets: half of them is not ruled out",)


#: The classification sets that the paper's count is of.
_PAPER_SETS = 29


def _window(rule: Rule, computed: Computed) -> tuple[Here, tuple[str, ...]]:
    ((name, found),) = computed.onsets
    assert rule.window is not None
    first, last = rule.window
    if found.low is None:
        return "fails", (f"{name}: ends surely below",)
    if found.low > last or (found.high is not None and found.high < first):
        return "fails", (
            f"{name}: the onset lies {'after' if found.low > last else 'before'} epoch {first:g} to {last:g}",
        )
    if found.high is None:
        return "open", (f"{name}: no lasting gain is established by the last epoch",)
    if first <= found.low and found.high <= last:
        return "holds", ()
    return "open", (f"{name}: the onset may lie anywhere from epoch {found.low} to {found.high}",)


def _apart(rule: Rule, computed: Computed) -> tuple[Here, tuple[str, ...]]:
    ends = [(onset.low, onset.high) for _, onset in computed.onsets if onset.low is not None and onset.high is not None]
    # A set without an onset so far may have one later: then it is apart from one that surely had it before.
    starts = [onset.low for _, onset in computed.onsets if onset.low is not None]
    if ends and max(starts) > min(high for _, high in ends):
        return "holds", ()
    # Sets whose onset is not known may yet be apart: all that may gain have to be known.
    known = len(ends) == len(starts) > 1
    if known and max(high for _, high in ends) - min(low for low, _ in ends) <= rule.relevant:
        return "fails", (f"{len(ends)} sets gain within {rule.relevant:g} epochs of each other",)
    return "open", (
        f"a lasting gain is established on {len(ends)} of {len(computed.onsets)} sets; none are told apart",
    )


def _over(estimate: Estimate, threshold: float) -> bool:
    return estimate.low is not None and estimate.low > threshold


def _more_seeds(one: Component, rule: Rule, seeds: int) -> str:
    """Why a component is open, and how many seeds would be expected to settle it."""
    low, high = one.estimate.low, one.estimate.high
    between = f"{low:.3g} to {high:.3g} {rule.unit}" if low is not None and high is not None else "no interval"
    effect = rule.relevant if rule.relevant > rule.threshold else one.estimate.value
    if not one.spread or not effect:
        return f"{one.name}: {between}"
    wanted = power.seeds_needed(effect - rule.threshold, one.spread)
    if wanted is not None and wanted <= seeds:
        return f"{one.name}: {between}; it is the images, not the {seeds} seeds, that are too few"
    count = f"{wanted} seeds" if wanted is not None else f"more than {power.MOST} seeds"
    return f"{one.name}: {between}; {count} would see {effect:.3g} with a chance of {power.POWER:.0%}"


def of_settings(settings: Mapping[str, Any], results: Results, posthoc: str | None = None) -> tuple[Judged, ...]:
    """Judge what a report stage's settings ask for; empty when they name no claims.

    Args:
        posthoc: the arm that was chosen among several that are aligned after pretraining; it stands for them, and
            the one that the settings name does not.
    """
    asked = settings.get("claims")
    if not asked:
        return ()
    scale = Scale(**asked["scale"] | ({"posthoc": posthoc} if posthoc else {}))
    return judge(Claims.model_validate(asked["list"], strict=False), results, scale)


def seeds_for(pairing: Pair, effects: Sequence[float]) -> tuple[power.Need, ...]:
    """Seeds to see some differences in mean top-1 over the counted sets (in percentage points), from these seeds."""
    members = [b for b in pairing.arm.results.suite.classification if b.disjoint]
    pilot = pairing.mean(members, "top1").scaled(100.0).seeds
    return power.needs(pilot, effects) if len(pilot) > 1 and pilot.std() > 0 else ()
