"""Any checkpoint that a user brings, judged like our own.

Rule: a candidate is (a) a weights file of this package, which names its architecture itself, (b) any file
that open_clip loads, with the name of its model, or (c) `open_clip:NAME/TAG`, weights that open_clip publishes.
For (b) and (c) the images go through the transform that open_clip gives for the model, and the results say so.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from safetensors import SafetensorError, safe_open

from pi_repro.data import captions
from pi_repro.errors import RequestError, StateError
from pi_repro.files import sha256_file
from pi_repro.training import model as models
from pi_repro.training.weights import METADATA, checksum

from .battery import Battery, TripletTask
from .benchmark import Conditions, Tokenizer
from .embed import Embedder, Pulse
from .preprocess import Preprocess, clip_preprocess, own_preprocess

PUBLISHED = "open_clip:"

#: Called with (set id, items done, items in all).
Progress = Callable[[str, int, int], None]


def silent(name: str, done: int, total: int) -> None:
    """A Progress that nobody watches."""


@dataclass(frozen=True)
class Candidate:
    """A model ready to be judged.

    Attributes:
        weights: as the user named them; of a file only its name, since results hold no paths.
        architecture: the model's name.
        sha256: of the file; of published weights, of all tensors by name.
        model: in eval mode, on the CPU.
        tokenizer: texts to tokens.
        preprocess: images to input.
    """

    weights: str
    architecture: str
    sha256: str
    model: torch.nn.Module
    tokenizer: Tokenizer
    preprocess: Preprocess


def evaluate_weights(
    weights: str,
    suite: Path,
    *,
    model: str | None = None,
    triplets: tuple[TripletTask, ...] = (),
    sets: tuple[str, ...] = (),
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch: int = 64,
    recall_k: tuple[int, ...] = (1, 5, 10),
    workers: int = 0,
    prefetch: int = 2,
    data_root: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Mapping[str, Any]]:
    """Judge a candidate on a suite.

    A process that called `training.determinism.enter` gives the bits of the evaluate stage; any other is
    free in its threads and kernels, which can move the last digits.

    Args:
        weights: FILE, or "open_clip:NAME/TAG".
        suite: folder of the suite.
        model: open_clip's name of the architecture, or a JSON file with its config; for files of others.
        triplets: (card, folder, splits) to judge by 2AFC.
        sets: ids to judge; all when empty.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16".
        batch: items a forward pass.
        recall_k: the k of recall@k.
        workers: loader processes for large sets.
        prefetch: batches each keeps ready.
        data_root: where shards of site data live.
        progress: called with (set id, items done, items in all).

    Returns:
        set id -> record, as the evaluate stage writes it.

    Raises:
        RequestError: the request names something unknown, or weights and model don't fit.
        StateError: a file is missing or damaged, by name.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise StateError("no CUDA device here", given=device, todo="choose cpu")
    candidate = read_candidate(weights, model)
    conditions = Conditions(
        candidate.preprocess, candidate.tokenizer, batch, precision, recall_k, workers=workers, prefetch=prefetch
    )
    battery = Battery(suite, triplets, conditions, data_root)
    chosen = sets or battery.ids
    for name in chosen:
        if name not in battery.ids:
            raise RequestError("no such set", where=str(suite), given=name, allowed=_near(name, battery.ids))
    embedder = Embedder(candidate.model.to(device).eval(), candidate.preprocess.prepare, device, precision, batch)
    records = {}
    for name in chosen:
        result = battery.open(name).judge(embedder, _named(name, progress))
        records[name] = result.noting(
            weights=candidate.weights, weights_sha256=candidate.sha256, architecture=candidate.architecture
        ).record
    return records


def read_candidate(weights: str, model: str | None = None) -> Candidate:
    """Load what the user named; arguments and errors as in `evaluate_weights`."""
    if weights.startswith(PUBLISHED):
        if model is not None:
            raise RequestError("published weights name their model themselves", where="--model", given=model)
        return _published(weights)
    file = Path(weights)
    if not file.is_file():
        raise RequestError(
            "no such weights file", where="--weights", given=weights, allowed=f"a file, or {PUBLISHED}NAME/TAG"
        )
    if model is not None:
        return _others(file, model)
    return _ours(file)


def _ours(file: Path) -> Candidate:
    settings = _settings(file)
    return Candidate(
        weights=file.name,
        architecture=str(settings["name"]),
        sha256=sha256_file(file),
        model=models.load(settings, file).eval(),
        tokenizer=captions.fast(models.tokenizer(settings)),
        preprocess=clip_preprocess(models.image_size(settings)),
    )


def _settings(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
        return dict(json.loads(metadata[METADATA])["model"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise RequestError(
            "file does not say which model it belongs to",
            where=str(file),
            todo="give its architecture: --model NAME, as open_clip calls it, or --model FILE.json with its config",
        ) from None


def _others(file: Path, model: str) -> Candidate:
    name = _known_model(model)
    try:
        # open_clip reads pickled checkpoints with weights_only, which runs no code of theirs.
        module, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(file))
    except Exception as error:
        raise RequestError(
            f"weights don't load into model {name}", where=str(file), given=_first_line(error)
        ) from error
    return _opened(file.name, name, sha256_file(file), module, transform)


def _published(weights: str) -> Candidate:
    name, _, tag = weights.removeprefix(PUBLISHED).rpartition("/")
    known = [f"{PUBLISHED}{model}/{published}" for model, published in open_clip.list_pretrained()]
    if f"{PUBLISHED}{name}/{tag}" not in known:
        raise RequestError(
            "open_clip publishes no such weights", where="--weights", given=weights, allowed=_near(weights, known)
        )
    try:
        module, _, transform = open_clip.create_model_and_transforms(name, pretrained=tag)
    except Exception as error:
        raise StateError(
            "published weights can't be fetched", where=weights, given=_first_line(error), todo="check the network"
        ) from error
    return _opened(weights, name, checksum(module.state_dict()), module, transform)


def _opened(weights: str, name: str, sha256: str, module: torch.nn.Module, transform: Any) -> Candidate:
    tokenizer = captions.fast(open_clip.get_tokenizer(name))
    return Candidate(weights, name, sha256, module.eval(), tokenizer, own_preprocess(transform))


def _known_model(model: str) -> str:
    config = Path(model)
    if config.suffix == ".json":
        if not config.is_file():
            raise RequestError("no such model config", where="--model", given=model)
        open_clip.add_model_config(config)
        model = config.stem
    if model not in open_clip.list_models():
        near = _near(model, open_clip.list_models())
        raise RequestError("open_clip knows no such model", where="--model", given=model, allowed=near)
    return model


def _named(name: str, progress: Progress) -> Pulse:
    return lambda done, total: progress(name, done, total)


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4) or list(known)[:3]
    return "for instance " + ", ".join(close)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
