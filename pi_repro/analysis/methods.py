"""The paragraph on methods and compute, written from a report's settings and what was judged.

Rule: a function of the spec, its cards and the results; clocks, hosts and prices are no part of it, so compute is
given as updates, samples and operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .results import Results

_KINDS = {
    "initialize": "stage 1",
    "pretrain": "pretraining",
    "joint": "joint training",
    "finetune": "alignment after pretraining",
}
_MODES = {
    "exact": "in exact mode (the same bits on any number of processes)",
    "fast": "in fast mode (kernels whose bits vary)",
}
_DECAYED = {"matrices": "matrices", "all": "all tensors"}
#: Settings that order samples or keep records, and their words: said only where two stages differ in them.
_QUIET = {
    "shuffle_block": "shards shuffled in blocks of {}",
    "keep_epochs": "weights kept of epochs {}",
    "publish_states": "states published at updates {}",
    "checksum_every": "checksums every {} updates",
}


def paragraph(settings: Mapping[str, Any], results: Results) -> str:
    """Plain text of one paragraph; empty where the settings hold no facts."""
    facts = settings.get("methods")
    return " ".join(_sentences(facts, results)) if facts else ""


def _sentences(facts: Mapping[str, Any], results: Results) -> Iterator[str]:
    model, seeds = facts["model"], len(results.seeds)
    size = f" with {_count(model['parameters'])} parameters" if model["parameters"] else ""
    yield (
        f"The model is {model['name']}{size}, drawn by the rule “{model['initialization']}” from each of {seeds} "
        f"seed{'s' if seeds > 1 else ''}; all arms of a seed start from the same weights, and everything was trained "
        f"{_MODES[facts['mode']]}."
    )
    yield from _arms(facts, results)
    yield (
        f"Models were judged zero-shot on {facts['suite']['sets']} sets ({facts['suite']['title']}) at "
        f"{max(len(points) for points in results.checkpoints.values())} checkpoints at most, without training on any "
        "of them."
    )
    yield from _compute(facts["stages"], results)
    yield (
        f"Differences are to {results.baseline}, paired by seed and item; intervals are 95 % intervals over new seeds "
        "and new items, each with its own variance and Student's t."
    )


class _Part(NamedTuple):
    """One thing said of a stage; a quiet one is said only where it differs from the stage referred to."""

    key: str
    text: str
    quiet: bool = False


class _Told(NamedTuple):
    arm: str
    stage: Mapping[str, Any]
    whole: bool


def _arms(facts: Mapping[str, Any], results: Results) -> Iterator[str]:
    """A sentence an arm, in the spec's order: the plain ones first, which the others are told by."""
    told: list[_Told] = []
    for arm in facts.get("arms", results.arms):
        if arm not in results.arms:
            continue
        said = []
        for stage in facts["stages"].get(arm, ()):
            text, whole = _said(stage, [one for one in told if one.stage["kind"] == stage["kind"]])
            said.append(text)
            told.append(_Told(arm, stage, whole))
        start = results.arms[arm].start
        before = "" if start == "draw" else f"from {start}'s pretrained weights, "
        yield f"Arm {arm} ({results.arms[arm].description}): {before}{'; then '.join(said)}."


def _said(stage: Mapping[str, Any], told: Sequence[_Told]) -> tuple[str, bool]:
    """A stage in words, and whether they are all of it; told: those of its kind, the first first."""
    kind, parts = _KINDS[stage["kind"]], _parts(stage)
    for one in told:
        # Facts, not words: words may round or leave out.
        if one.stage == stage:
            return f"as {one.arm}'s {kind}", False
    # A reader follows one reference, never a chain of them: only what was told in whole is varied.
    varied = [(one.arm, _differences(parts, _parts(one.stage))) for one in told if one.whole]
    arm, changed = min(((arm, found) for arm, found in varied if found), key=lambda one: len(one[1]), default=("", []))
    if changed and 2 * len(changed) < len(parts):
        return f"as {arm}'s {kind}, but {', '.join(changed)}", False
    return f"{kind}: {', '.join(part.text for part in parts if not part.quiet)}", True


def _differences(parts: Sequence[_Part], others: Sequence[_Part]) -> list[str]:
    """What differs from another stage, in the words of the first."""
    mine, known = {part.key for part in parts}, {part.key: part.text for part in others}
    found = [part.text for part in parts if known.get(part.key) != part.text]
    return found + [f"{key} at its default" for key in known if key not in mine]


def _parts(stage: Mapping[str, Any]) -> list[_Part]:
    """All that is set of a stage; what stands at its default is quiet, and so is what only orders or records."""
    rest = dict(stage.get("settings", {}))
    term = rest.pop("auxiliary", None)
    own = dict(term) if term else rest
    optimizer, schedule = rest.pop("optimizer", {}), rest.pop("schedule", {})
    of_pairs = stage["kind"] in ("pretrain", "joint")
    what = "pairs" if of_pairs else "triplets"
    loss = f"objective {_named(stage['objective'], own.pop('objective', {}).get('options'))}"
    if stage["objective"] == "clip":
        loss = "CLIP's loss"
    elif term:
        loss = f"CLIP's loss and, at weight {_value(own.pop('weight'))}, {loss}"
    found = [_Part("loss", loss)]
    if stage["adapter"]:
        found.append(_Part("adapter", f"adapter {_named(stage['adapter'], stage['adapter_options'])}"))
    found.append(_Part("data", f"on {stage['data']} ({stage['count']:,} {what})"))
    if term:
        each = (
            f"beside each update {own.pop('batch'):,} of the {stage['triplet_count']:,} triplets of {own.pop('data')}"
        )
        found.append(_Part("triplets", each))
    if stage["objective"] != "clip":
        labels, share = own.pop("labels", None), own.pop("fraction", 1.0)
        by = f"labels {_named(labels['name'], labels['options'])} instead of the votes" if labels else "the votes"
        found.append(_Part("labels", by, labels is None))
        dose = "all of" if share == 1 else f"a share of {_value(share)} of"
        found.append(_Part("fraction", f"{dose} the training split", share == 1))
    if of_pairs:
        noise, freeze = rest.pop("caption_noise", 0.0), rest.pop("freeze", ())
        swapped = f"a share of {_value(noise)} of the captions swapped" if noise else "captions as they are"
        found.append(_Part("caption_noise", swapped, not noise))
        rests = f"{_value(freeze)} tower frozen" if freeze else "both towers trained"
        found.append(_Part("freeze", rests, not freeze))
    found += [
        _Part("epochs", f"{stage['epochs']} epoch{'s' if stage['epochs'] > 1 else ''}"),
        _Part("updates", _updates(stage, what, rest.pop("accumulation", 1), rest.pop("extra_updates", 0))),
    ]
    found += _images(rest, stage["batch"])
    if term:
        found += [_Part(f"triplets' {key}", f"triplets' {text}", quiet) for key, text, quiet in _images(own, None)]
        found += [_Part(f"triplets' {key}", f"triplets' {key} {_value(value)}") for key, value in own.items()]
    found += _learning(stage, optimizer, schedule)
    shown = {"data", "objective", "adapter", "epochs", "batch", "precision"}
    found += [_Part(key, f"{key} {_value(value)}") for key, value in sorted(rest.items()) if key not in shown]
    return found


def _updates(stage: Mapping[str, Any], what: str, accumulation: int, extra: int) -> str:
    batches = f" in {accumulation:,} accumulated batches" if accumulation > 1 else ""
    early = f" ({extra:,} of them before the first epoch)" if extra else ""
    return f"{stage['updates']:,} updates of {stage['update']:,} {what}{batches}{early}"


def _images(settings: dict[str, Any], batch: int | None) -> Iterator[_Part]:
    """How samples are read and what is kept of them; takes these out of the settings.

    Args:
        batch: samples of a batch; a batch that is one micro-batch says nothing of it.
    """
    if augmentation := settings.pop("augmentation", None):
        scale = augmentation.get("scale")
        crop = f" (scale {_value(scale[0])} to {_value(scale[1])})" if scale else ""
        yield _Part("augmentation", f"augmentation {augmentation['kind']}{crop}")
    if micro := settings.pop("micro_batch", None):
        yield _Part("micro_batch", f"micro-batches of {micro:,}", batch in (micro, None))
    for key, words in _QUIET.items():
        if key in settings:
            yield _Part(key, words.format(_value(settings.pop(key))), True)


def _learning(stage: Mapping[str, Any], optimizer: Mapping[str, Any], schedule: Mapping[str, Any]) -> Iterator[_Part]:
    decayed = f" on {_DECAYED[optimizer['decay']]}" if "decay" in optimizer else ""
    yield _Part("optimizer", f"{_named(stage['optimizer'], optimizer.get('options'))} at {_value(stage['lr'])}")
    for key, value in optimizer.items():
        if key in ("betas", "eps"):
            yield _Part(key, f"{key} {_value(value)}")
        elif key == "clip_norm":
            clipped = "gradients not clipped" if value is None else f"gradient norm clipped at {_value(value)}"
            yield _Part(key, clipped, value is None)
        elif key == "implementation":
            yield _Part(key, f"kernel {value}", True)
        elif key not in ("name", "lr", "weight_decay", "decay", "options"):
            yield _Part(f"optimizer's {key}", f"optimizer's {key} {_value(value)}")
    yield _Part("weight_decay", f"weight decay {_value(stage['weight_decay'])}{decayed}")
    warm = f" after {stage['warmup']:,} warm-up updates" if stage["warmup"] else ""
    yield _Part("schedule", f"{stage['schedule']} schedule{warm}")
    for key, value in schedule.items():
        if key not in ("kind", "warmup_updates"):
            yield _Part(f"schedule's {key}", f"schedule's {key} {_value(value)}")
    yield _Part("precision", stage["precision"])


def _named(name: str, options: Mapping[str, Any] | None) -> str:
    """A part with its options: "triplet_hinge (distance cosine, margin 0.05)"."""
    listed = ", ".join(f"{key} {_value(value)}" for key, value in sorted((options or {}).items()))
    return f"{name} ({listed})" if listed else name


def _value(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return " and ".join(map(_value, value)) or "none"
    return "none" if value is None else str(value)


def _compute(stages: Mapping[str, Sequence[Mapping[str, Any]]], results: Results) -> Iterator[str]:
    every = [stage for arm in results.arms for stage in stages.get(arm, ())]
    seeds = len(results.seeds)
    totals = {name: seeds * sum(stage[name] for stage in every) for name in ("updates", "pairs", "triplets")}
    runs = len(results.arms) * seeds
    shown = f"{_count(totals['pairs'])} pairs and {_count(totals['triplets'])} triplets"
    operations = [stage["operations"] for stage in every]
    cost = ""
    if operations and None not in operations:
        cost = (
            f", about {seeds * sum(operations):.1e} floating-point operations of the towers' blocks, forward and "
            "backward"
        )
    yield f"Planned training of all {runs} runs: {totals['updates']:,} updates on {shown}{cost}."


def _count(number: float) -> str:
    """1500000 -> "1.5 million", for sentences."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"
