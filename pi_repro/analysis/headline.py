"""What a report says first.

Rule: the manipulation check stands before any result; a difference is claimed only where its interval
excludes zero, for whichever arm and sign; the words depend on the numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import style
from .findings import Choice, Findings
from .results import Arm, Results
from .statistics import Estimate


@dataclass(frozen=True)
class Headline:
    """The words at the top of a report.

    Attributes:
        verdict: one or two sentences.
        check: the manipulation check, a sentence an arm and triplet set.
        results: what differs from the baseline, and by how much.
    """

    verdict: str
    check: tuple[str, ...]
    results: tuple[str, ...]


def checks(results: Results, findings: Findings) -> dict[str, list[Choice]]:
    """Arm with a stage 1 -> the held-out triplets that its manipulation check reads.

    The arm's own triplets where the settings name them, else all; the test split, or val where there is none.
    """
    found: dict[str, list[Choice]] = {}
    for arm in results.arms.values():
        if "initialize" not in arm.stages:
            continue
        own = [c for c in findings.choices if arm.triplets in (None, c.held.data) and arm.name in c.raised]
        tested = {c.held.data for c in own if c.held.split.startswith("test")}  # or a half of it
        found[arm.name] = [
            c for c in own if c.held.split.startswith("test") or (c.held.split == "val" and c.held.data not in tested)
        ]
    return found


def headline(results: Results, findings: Findings) -> Headline:
    """Put the findings in words."""
    read = checks(results, findings)
    verdict = " ".join(part for part in (_check_verdict(results, read), _result_verdict(results, findings)) if part)
    return Headline(verdict, tuple(_check_lines(read)), tuple(_result_lines(results, findings)))


def _check_verdict(results: Results, read: dict[str, list[Choice]]) -> str:
    if not read:
        return ""
    above = [arm for arm, choices in read.items() if any(c.raised[arm].sign > 0 for c in choices)]
    unread = [arm for arm, choices in read.items() if not choices]
    controls = [arm for arm in read if arm not in unread and not results.arms[arm].votes]
    raised = [arm for arm in above if arm not in controls]
    failed = [arm for arm in read if arm not in (*above, *unread, *controls)]
    parts = []
    if failed:
        parts.append(
            f"Manipulation check failed: stage 1 did not raise the held-out 2AFC of {_list(failed)} "
            "above the untrained network."
        )
    if raised:
        parts.append(f"Stage 1 raised the held-out 2AFC of {_list(raised)} above the untrained network.")
    for did, names in (
        ("It did so", [arm for arm in controls if arm in above]),
        ("It did not", [arm for arm in controls if arm not in above]),
    ):
        if names:
            parts.append(f"{did} for {_list(names)}, controls without the votes or with altered ones.")
    if unread:
        parts.append(f"Whether stage 1 worked was not measured for {_list(unread)}.")
    return " ".join(parts)


def _result_verdict(results: Results, findings: Findings) -> str:
    row = findings.headline
    differences = row.differences
    if not differences:
        return ""
    place = f"top-1 on “{results.suite.headline.title}”"
    shifts = {
        word: [f"{arm} ({style.signed(e.value)} points)" for arm, e in differences.items() if e.sign == sign]
        for word, sign in (("above", 1), ("below", -1))
    }
    claims = [f"{_list(names)} {_verb(names)} {word} {results.baseline}" for word, names in shifts.items() if names]
    equal = [arm for arm, e in differences.items() if not e.sign]
    if not claims:
        return f"No arm differs from {results.baseline} in {place} by more than its interval."
    tail = f"; for {_list(equal)} no difference is established" if equal else ""
    return f"In {place}, {' and '.join(claims)}{tail}."


def _check_lines(read: dict[str, list[Choice]]) -> Iterable[str]:
    for arm, choices in read.items():
        for choice in choices:
            change = choice.raised[arm]
            before = choice.untrained.value if choice.untrained else change.value
            yield (
                f"{arm}, 2AFC on {choice.held.data} ({choice.held.split}): {style.percent(before)} % untrained, "
                f"{style.percent(before + change.value)} % after stage 1, {_change(change)}: {_judged(change)}. "
                f"Pixel error: {style.percent(choice.pixel)} %."
            )


def _result_lines(results: Results, findings: Findings) -> Iterable[str]:
    row = findings.headline
    for arm, estimate in row.arms.items():
        line = (
            f"{arm}: top-1 on “{results.suite.headline.title}” {style.percent(estimate.value)} % "
            f"{style.interval(estimate)}, {style.times(findings.multiples[arm])} times chance"
        )
        yield line + (
            f"; {_change(row.differences[arm])} against {results.baseline}." if arm in row.differences else "."
        )
    yield from _late_lines(results, findings)
    yield from _real_lines(results)
    for other in results.others:
        yield _wins_line(other, results, findings)
    if skipped := results.suite.skipped:
        yield f"Not the whole suite: its card leaves out {_list(list(skipped))}."
    for arm, course in findings.emergence.items():
        if course.first is None:
            yield f"{arm}: at no checkpoint does its headline difference exclude zero."
        elif course.lasting == course.epochs[-1]:
            yield f"{arm}: of the checkpoints, its headline difference lastingly excludes zero at the last alone."
        elif course.lasting is not None:
            yield f"{arm}: its headline difference excludes zero from epoch {course.lasting} to the end."
        else:
            yield f"{arm}: its headline difference excludes zero first at epoch {course.first}, but not at the end."


def _late_lines(results: Results, findings: Findings) -> Iterable[str]:
    """Whether triplets that came last taught what they should: the manipulation check of arms that only finetune."""
    for choice in findings.choices:
        for name, change in choice.learned.items():
            if not choice.held.split.startswith("test") or results.arms[name].triplets not in (None, choice.held.data):
                continue
            end = choice.courses[name][-1][1].value
            before, after = style.percent(end - change.value), style.percent(end)
            line = (
                f"{name}: 2AFC on {choice.held.data} ({choice.held.split}) {before} % before its triplets, {after} % "
                f"after them, {_change(change)}: {_judged(change)}"
            )
            yield line + (f"; {_change(choice.kept[name])} against the untrained network." if choice.kept else ".")


def _real_lines(results: Results) -> Iterable[str]:
    """Multi-label accuracy where a set has several right labels an image, mean over seeds."""
    for benchmark in results.suite.classification:
        values = {}
        for arm in results.arms:
            records = [results.record(arm, seed, results.last(arm), benchmark.id) for seed in results.seeds]
            found = [record["metrics"].get("real_acc1") for record in records]
            if None not in found:
                values[arm] = style.percent(sum(found) / len(found))
        if values:
            said = ", ".join(f"{arm} {value} %" for arm, value in values.items())
            yield f"“{benchmark.title}” with several right labels an image (ReaL): {said}."


def _wins_line(arm: Arm, results: Results, findings: Findings) -> str:
    wins = findings.wins[arm.name]
    ties = f", level on {wins.ties}" if wins.ties else ""
    return (
        f"{arm.name}: ahead of {results.baseline} on {wins.wins} of {findings.counted} disjoint sets, "
        f"behind on {wins.losses}{ties} (exact two-sided sign test, p = {wins.p:.2g})."
    )


def _judged(change: Estimate) -> str:
    return "raised" if change.sign > 0 else "lowered" if change.sign < 0 else "not raised beyond its interval"


def _change(estimate: Estimate) -> str:
    return f"{style.signed(estimate.value)} points {style.interval(estimate)}".rstrip()


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: list[str]) -> str:
    return "ends" if len(names) == 1 else "end"
