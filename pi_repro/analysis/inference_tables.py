"""The tables of what is inferred: long form, one value a row, as the report's other tables.

Rule: accuracies are fractions except where a column says points; a claim's numbers are in the unit that it names.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import tradeoff_shown
from .claims import Judged
from .inference import Inference
from .tables import Cell, Table, bounds, cells


def inference_tables(found: Inference) -> tuple[Table, ...]:
    """All of them; those without a row are left out."""
    made = (
        Table(
            "bouts",
            ("arm", "set", "difference", "low", "high", "p", "p_holm", "p_bh", "ahead", "chance_uniform",
             "chance_commonest", "chance_published", "arm_above_chance", "other_above_chance", "counts", "overlap"),
            tuple(_bouts(found)),
        ),
        Table(
            "counts",
            ("arm", "kind", "sets", "wins", "losses", "ties", "dropped", "sign_test_p"),
            tuple(_counts(found)),
        ),
        Table("tests", ("arm", "rests_on", "test", "p", "units", "effective_sets"), tuple(_tests(found))),
        Table(
            "means",
            ("arm", "quantity", "value", "low", "high"),
            tuple(
                cells(arm, name, *bounds(estimate))
                for arm, one in found.contests.items()
                for name, estimate in (
                    ("mean top-1, these sets", one.mean),
                    ("mean top-1, sets like these", one.over_sets),
                    ("wins of a seed", one.wins),
                )
            ),
        ),
        Table(
            "onsets",
            ("arm", "set", "epoch", "low", "high", "established"),
            tuple(
                cells(arm, name, o.epoch, o.low, o.high, o.established)
                for arm, onsets in found.onsets.items()
                for name, o in onsets.items()
            ),
        ),
        Table(
            "laws",
            ("family", "measure", "arm", "points", "aicc_gain_of_saturating", "low", "high", "bends", "form",
             "ceiling"),
            tuple(
                cells(*key, r.points, *bounds(r.gain), r.bends, r.better, r.ceiling) for key, r in found.rivals.items()
            ),
        ),
        Table(
            "power",
            ("arm", "effect_points", "seeds", "seeds_if_spread_is_low", "seeds_if_spread_is_high",
             "detectable_points"),
            tuple(
                cells(arm, n.effect, n.seeds, n.fewest, n.most, one.detectable)
                for arm, one in found.contests.items()
                for n in one.needs
            ),
        ),
        Table(
            "claims",
            ("id", "source", "claim", "verdict", "here", "lacking", "why", "estimand", "data", "planned", "rule",
             "threshold", "unit", "p", "p_holm"),
            tuple(_claim(one) for one in found.claims),
        ),
        Table(
            "components",
            ("claim", "component", "unit", "value", "low", "high", "joint_low", "joint_high", "p"),
            tuple(row for one in found.claims for row in _components(one)),
        ),
        *((tradeoff_shown.table(found.tradeoff),) if found.tradeoff else ()),
    )  # fmt: skip
    return tuple(table for table in made if table.rows)


def _bouts(found: Inference) -> Iterator[tuple[Cell, ...]]:
    for arm, one in found.contests.items():
        for row in one.sets:
            bout, chance = row.bout, row.bout.chance
            yield cells(
                arm, bout.name, *bounds(bout.difference), row.p, row.holm, row.bh, bout.sign, chance.uniform,
                chance.commonest, chance.published, *bout.above, bout.counts, bout.overlap,
            )  # fmt: skip


def _counts(found: Inference) -> Iterator[tuple[Cell, ...]]:
    for arm, one in found.contests.items():
        kinds = {"raw": one.count.raw, "gated": one.count.gated}
        kinds |= {f"gated, NIGHTS overlap: {kind}": tally for kind, tally in one.count.split.items()}
        for kind, tally in kinds.items():
            yield cells(arm, kind, tally.sets, tally.wins, tally.losses, tally.ties, tally.dropped, tally.p)


def _tests(found: Inference) -> Iterator[tuple[Cell, ...]]:
    for arm, one in found.contests.items():
        for test in found.by_seeds(arm):
            yield cells(arm, "seeds", test.name, test.p, test.units, None)
        for test in one.by_sets:
            yield cells(arm, "sets", test.name, test.p, test.units, one.effective)


def _claim(one: Judged) -> tuple[Cell, ...]:
    claim = one.claim
    return cells(
        claim.id, claim.source, claim.claim, one.verdict, one.here, "; ".join(one.lacking), "; ".join(one.why),
        claim.estimand, claim.data,
        claim.planned, claim.rule.words, claim.rule.threshold, claim.rule.unit, one.p, one.p_holm,
    )  # fmt: skip


def _components(one: Judged) -> Iterator[tuple[Cell, ...]]:
    for part in one.computed.components:
        joint = bounds(part.joint)[1:]
        yield cells(one.claim.id, part.name, one.claim.rule.unit, *bounds(part.estimate), *joint, part.p)
    for name, onset in one.computed.onsets:
        yield cells(one.claim.id, name, "epochs", onset.epoch, onset.low, onset.high, None, None, None)
