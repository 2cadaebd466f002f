"""A checkpoint as a folder that open_clip loads, with a card that says what it is.

Rule: the weights are copied byte for byte; the card states only what the training, the data cards and the
results record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pi_repro.data.pixels import MEAN, STD
from pi_repro.errors import RequestError
from pi_repro.files import files_under, read_json, write_atomic, write_json
from pi_repro.training import model as models

from .checkpoints import Checkpoint, Training, read_training

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
CARD = "README.md"

_LIMITATIONS = """\
- A research artifact: it shows what a recipe gives, and is not meant for any use where its errors matter.
- It inherits the gaps and biases of its training data, listed above.
- Judge it by the metrics below and at their scale only; none of them says how it does elsewhere.
"""


def export(
    weights: Path,
    which: int | Literal["last"],
    destination: Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    cards: Sequence[Mapping[str, Any]] = (),
    results: Path | None = None,
    notice: str = "",
) -> Path:
    """Write open_clip_model.safetensors, open_clip_config.json, <name>.json and README.md.

    Args:
        weights: weights folder of draw, initialize, pretrain or finetune.
        which: an epoch that was kept, or "last".
        destination: a folder that is absent or empty.
        recipe: resolved settings of the stage, for the card.
        cards: data cards (name, title, licence, sources) of what it was trained on.
        results: results folder of evaluate; its metrics at this checkpoint go into the card.
        notice: a line that the card bears.

    Returns:
        The exported weights file.

    Raises:
        RequestError: the epoch was not kept, the destination holds files, or open_clip has no such model.
        StateError: the weights are missing or damaged, by name.
    """
    training = read_training(weights)
    checkpoint = training.last if which == "last" else training.at(which)
    if destination.is_dir() and files_under(destination):
        raise RequestError("destination holds files already", where=str(destination), todo="name another folder")
    checkpoint.verify()
    if not models.has_twin(training.model):
        raise RequestError(
            "open_clip has no twin of this model: it would load the weights and compute something else",
            where="model.text_pooling",
            given=training.model["text_pooling"],
            allowed="open_clip",
            todo="judge it here: pirepro evaluate --weights FILE",
        )
    name = str(training.model["name"])
    architecture = dict(training.model["architecture"])
    write_atomic(destination / WEIGHTS, checkpoint.file.read_bytes())
    write_json(destination / f"{name}.json", architecture)
    preprocess = {
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "size": models.image_size(training.model),
    }
    write_json(destination / CONFIG, {"model_cfg": architecture, "preprocess_cfg": preprocess})
    parts = [
        _title(name, training, checkpoint, notice),
        _loading(name),
        _recipe(training, checkpoint, recipe),
        _data(cards),
        _metrics(results, checkpoint),
        f"## Limitations\n\n{_LIMITATIONS}",
    ]
    write_atomic(destination / CARD, "\n".join(part for part in parts if part).encode())
    return destination / WEIGHTS


def _title(name: str, training: Training, checkpoint: Checkpoint, notice: str) -> str:
    header = "---\nlibrary_name: open_clip\ntags: [clip, zero-shot-image-classification]\n---\n"
    lines = f"# {name}, epoch {checkpoint.epoch} of stage {training.stage}\n"
    return f"{header}\n{lines}" + (f"\n> {notice}\n" if notice else "")


def _loading(name: str) -> str:
    return f"""\
## How to load it

```python
import open_clip

open_clip.add_model_config("{name}.json")
model, _, preprocess = open_clip.create_model_and_transforms("{name}", pretrained="{WEIGHTS}")
tokenizer = open_clip.get_tokenizer("{name}")
model.eval()
```

or, with this folder as `FOLDER`, `open_clip.create_model_and_transforms("local-dir:FOLDER")`.
"""


def _recipe(training: Training, checkpoint: Checkpoint, recipe: Mapping[str, Any] | None) -> str:
    lines = [
        "## Recipe\n",
        f"- stage: {training.stage}",
        f"- epoch {checkpoint.epoch}, update {checkpoint.update}, {checkpoint.samples} samples seen",
        f"- sha256 of the weights: `{checkpoint.sha256}`",
    ]
    if recipe is not None:
        settings = json.dumps(recipe, indent=1, sort_keys=True, ensure_ascii=False)
        lines += ["\nResolved settings of the stage:\n", f"```json\n{settings}\n```"]
    return "\n".join(lines) + "\n"


def _data(cards: Sequence[Mapping[str, Any]]) -> str:
    if not cards:
        return "## Data and licence\n\nNot recorded in this export.\n"
    lines = ["## Data and licence\n"]
    for card in cards:
        lines.append(f"- **{card['name']}**: {card.get('title', '')} (licence: {card.get('licence', 'not recorded')})")
        for source in card.get("sources", ()):
            credit = f"; {source['attribution']}" if source.get("attribution") else ""
            lines.append(f"  - {source['name']} {source['revision']}: {source['licence']}{credit}")
    return "\n".join(lines) + "\n"


def _metrics(results: Path | None, checkpoint: Checkpoint) -> str:
    if results is None:
        return "## Metrics\n\nNone recorded in this export.\n"
    evaluation = read_json(results / "evaluation.json")
    judged = {entry["sha256"]: entry["folder"] for entry in evaluation["checkpoints"]}
    if checkpoint.sha256 not in judged:
        raise RequestError(
            "results hold no metrics of these weights", where=str(results), given=f"epoch {checkpoint.epoch}"
        )
    lines = ["## Metrics\n", "| set | n | metric | value |", "|---|---|---|---|"]
    for name in evaluation["sets"]:
        record = read_json(results / judged[checkpoint.sha256] / f"{name}.json")
        lines += [
            f"| {name} | {record['n']} | {metric} | {'undefined' if value is None else f'{value:.4f}'} |"
            for metric, value in record["metrics"].items()
        ]
    return "\n".join(lines) + "\n"
