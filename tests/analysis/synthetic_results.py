"""Results and a suite as evaluation and fetch would leave them, from a latent-skill model instead of networks.

Rule: every item has a difficulty and every run a skill that grows with the logarithm of samples seen; arms
differ by known amounts. Nothing here imitates a measured number.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from pi_repro.analysis.results import Results
from pi_repro.analysis.suite import read_suite
from pi_repro.data.shardwriter import ShardWriter
from pi_repro.spec import claims as lists

CLAIMS = lists.load(Path(__file__).parents[2] / "specs" / "claims.yaml")

SETS = [
    # id, title, family, classes, n, skill offset (None: guesses), disjoint, note
    (
        "demo/all",
        "All training concepts, drawn by a held-out artist",
        "ImageNet",
        1479,
        1479,
        -4.2,
        True,
        "Concepts seen.",
    ),
    (
        "demo/unseen",
        "Concepts that no training artist shows, held-out artist",
        "ImageNet-OOD",
        165,
        165,
        -3.2,
        True,
        "The only truly zero-shot set: neither drawings nor concepts are in training.",
    ),
    (
        "demo/older",
        "Training concepts, older style of the held-out artist",
        "ImageNet-OOD",
        1069,
        1069,
        -4.9,
        True,
        "Concepts seen; style unseen.",
    ),
    (
        "demo/line-art",
        "Training concepts as black line art",
        "ImageNet-OOD",
        557,
        557,
        -4.6,
        True,
        "SHARES ITS OUTLINES WITH TRAINING.",
    ),
    ("demo/groups", "Groups of drawings", "VTAB", 9, 1494, -0.4, False, "The same drawings as all concepts."),
    ("demo/subgroups", "Subgroups of drawings", "VTAB", 98, 1494, -1.7, False, "The same drawings as all concepts."),
    ("demo/flags", "Flags", "Fine-grained & Specialty", 258, 258, -2.4, True, "Flags of all artists look alike."),
    ("demo/faces", "Faces", "Fine-grained & Specialty", 104, 104, -2.6, True, ""),
    ("demo/clocks", "Clock faces", "Fine-grained & Specialty", 24, 24, -2.8, True, ""),
    ("demo/digits", "Hand-written digits", "Domain & Small", 10, 1000, None, True, "Foreign domain."),
    ("demo/arrows", "Arrow or not", "Domain & Small", 2, 300, 0.6, True, "Two classes: no top-5."),
]
RETRIEVAL = [
    ("demo/captions", "Captions of the held-out artist", 300),
    ("demo/captions-3d", "Captions, 3-D style", 200),
]
HELD = [
    ("demo-triplets", "val", 420),
    ("demo-triplets", "test", 600),
    ("demo-concepts", "val", 300),
    ("demo-concepts", "test", 500),
]
WORDS = ["red", "small", "waving", "hand", "cat", "with", "flag", "moon", "cup of tea", "rising", "sun", "clock"]


@dataclass(frozen=True)
class ArmModel:
    """How an arm behaves: its added skill, and 2AFC skill after stage 1 and after its last stage."""

    description: str
    stages: tuple[str, ...] = ("pretrain",)
    start: str = "draw"
    skill: float = 0.0
    taught: dict[str, float] = field(default_factory=dict)
    triplets: str = ""


ARMS = {
    "random": ArmModel("initialized at random, then pretrained"),
    "pi": ArmModel(
        "aligned on transferred human judgements, then pretrained",
        ("initialize", "pretrain"),
        skill=-0.12,
        taught={"demo-triplets": 0.30, "demo-concepts": 0.1},
        triplets="demo-triplets",
    ),
    "concept": ArmModel(
        "aligned on concept triplets, a control that is not human",
        ("initialize", "pretrain"),
        skill=0.35,
        taught={"demo-triplets": 0.02, "demo-concepts": 0.9},
        triplets="demo-concepts",
    ),
    "posthoc": ArmModel(
        "random's last weights, then aligned",
        ("finetune",),
        "random",
        skill=-0.05,
        taught={"demo-triplets": 0.35},
        triplets="demo-triplets",
    ),
}


@dataclass(frozen=True)
class World:
    """A results folder, the suite and the report's settings; both folders are for reading only."""

    results: Path
    suite: Path
    settings: dict[str, Any]

    def open(self) -> Results:
        return Results(self.results, self.settings, read_suite(self.suite))


def settings(arms: dict[str, ArmModel] | None = None, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Settings of the report stage."""
    splits: dict[str, list[str]] = {}
    for name, split, _ in HELD:
        splits.setdefault(name, []).append(split)
    return {
        "recipe": 1,
        "name": "demo",
        "title": "Perceptual against random initialization, on drawings",
        "notice": "A demonstration of the pipeline, no evidence about the paper.",
        "arms": {
            name: {"description": arm.description, "start": arm.start, "stages": list(arm.stages)}
            | ({"triplets": arm.triplets} if arm.triplets else {})
            for name, arm in (arms or ARMS).items()
        },
        "baseline": "random",
        "seeds": list(seeds),
        "evaluate": {
            "suite": "demo-suite",
            "batch": 128,
            "precision": "fp32",
            "recall_k": [1, 5, 10],
            "two_afc": [{"data": name, "splits": found} for name, found in splits.items()],
        },
    }


def asked(world: World) -> World:
    """The same with a `report` section and the claims that are shipped."""
    scale = {"suite": "demo-suite", "pairs": "demo-pairs", "triplets": "demo-triplets", "epochs": 16, "model": "tiny"}
    scale |= {"treatment": "concept", "posthoc": "posthoc"}
    more = {
        "report": {"claims": "claims", "treatment": "concept", "posthoc": "posthoc"},
        "claims": {"list": CLAIMS.model_dump(mode="json"), "scale": scale},
        "methods": _methods(list(world.settings["arms"].items())),
    }
    # As the stage gets them: through JSON.
    return replace(world, settings=json.loads(json.dumps(world.settings | more)))


def _methods(arms: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What plan/methods.py would say of such an experiment."""
    pairs = {"kind": "pretrain", "data": "demo-pairs", "count": 7_700, "epochs": 16, "batch": 128, "update": 128}
    pairs |= {"updates": 960, "pairs": 122_880, "triplets": 0, "objective": "clip", "adapter": None, "lr": 2e-3}
    pairs |= {"adapter_options": {}}
    pairs |= {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 20, "precision": "fp32"}
    own = {"objective": "triplet_hinge", "adapter": "full", "count": 1_920, "batch": 64, "update": 64, "epochs": 1}
    own |= {"updates": 30, "pairs": 0, "triplets": 1_920}

    def stage(kind: str, data: str) -> dict[str, Any]:
        made = pairs if kind == "pretrain" else pairs | own | {"kind": kind, "data": data}
        return made | {"operations": 1e6 * (made["pairs"] + 3 * made["triplets"])}

    return {
        "device": "cpu",
        "mode": "exact",
        "model": {"name": "tiny", "initialization": "open_clip", "parameters": 3_400_000},
        "suite": {"title": "Demo sets", "sets": len(SETS) + len(RETRIEVAL)},
        "stages": {name: [stage(kind, arm.get("triplets", "")) for kind in arm["stages"]] for name, arm in arms},
    }


def write_json(path: Path, value: Any) -> None:
    """Plain JSON; nobody's results depend on these reaching the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True, allow_nan=False), encoding="utf-8")


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little"))


def _ranks(skill: float, name: str, n: int, candidates: int, *run: object) -> np.ndarray:
    """Rank 0 with the probability that skill and the item's difficulty give; else geometric-ish."""
    difficulty = _rng("difficulty", name).normal(0, 1.2, n)
    noise = _rng("noise", name, *run).logistic(0, 1, n)
    margin = skill - difficulty + noise
    behind = np.exp(np.clip(-margin, 0, 12)) * _rng("behind", name, *run).uniform(0.4, 1.4, n)
    return np.where(margin > 0, 0, np.minimum(candidates - 1, behind)).astype(np.int32)


def _skill(arm: ArmModel, name: str, seed: int, samples: int, total: int) -> float:
    growth = 1.6 * np.log10(max(samples, 1) / total) - (6 if samples == 0 else 0)
    effect = arm.skill * (0.4 + 0.6 * samples / total)
    return float(growth + effect + _rng("seed", name, seed).normal(0, 0.08))


def _caption(row: int) -> str:
    picked = _rng("caption", row).choice(WORDS, size=3 + row % 4, replace=False)
    return " ".join(str(word) for word in picked) + (" at $5" if row % 97 == 0 else "")


def drawing(row: int, size: int = 64) -> bytes:
    """A small picture."""
    rng = _rng("drawing", row)
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, r = [*rng.integers(8, 56, 2).tolist(), int(rng.integers(6, 22))]
        color = tuple(rng.integers(30, 230, 3).tolist())
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape((x - r, y - r, x + r, y + r), fill=color)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_suite(folder: Path) -> None:
    """A suite folder: the list, and the shards of the retrieval sets, which alone are looked at."""
    sets: list[dict[str, Any]] = [
        {
            "id": i,
            "title": t,
            "task": "classification",
            "family": f,
            "classes": c,
            "n": n,
            "metric": "acc1",
            "disjoint": d,
            "note": note,
        }
        for i, t, f, c, n, _, d, note in SETS
    ]
    for number, (name, title, n) in enumerate(RETRIEVAL):
        sets.append(
            {
                "id": name,
                "title": title,
                "task": "retrieval",
                "family": "Retrieval",
                "classes": None,
                "n": n,
                "metric": "image_retrieval_recall@1",
                "disjoint": True,
                "note": "The same drawings as a classification set." if number == 0 else "",
            }
        )
        with ShardWriter(folder / name, name, "retrieval", shard_size=500, layout="suite") as shards:
            for row in range(n):
                text = "\n".join(_caption(2 * row + k) for k in range(2))
                shards.add(f"{row:05d}", {"png": drawing(row), "txt": text.encode()})
    write_json(folder / "suite.json", {"sets": sets})


def _examples(arm: str, seed: int, skill: float, n: int) -> dict[str, Any]:
    def top(rows: list[int], cosines: list[float], right: int, kind: str) -> list[dict[str, Any]]:
        found = []
        for row, cosine in zip(rows, cosines, strict=True):
            image = {"row": row, "id": f"{row:05d}", "cosine": cosine, "right": row == right}
            extra = (
                {"captions": [_caption(2 * row), _caption(2 * row + 1)]}
                if kind == "image"
                else {"caption_row": 2 * row, "caption": _caption(2 * row)}
            )
            found.append({**image, **extra})
        return found

    content: dict[str, Any] = {"image_to_text": [], "text_to_image": []}
    for query in np.linspace(0, n - 1, 6).round().astype(int).tolist():
        for kind, direction in (("image", "text_to_image"), ("text", "image_to_text")):
            rng = _rng("example", arm, seed, query, kind)
            rows = [int(r) for r in rng.choice(n, 5, replace=False) if r != query]
            place = int(rng.integers(0, 3 if skill > 0 else 6))
            if place < 5:
                rows = [*rows[:place], query, *rows[place:]]
            rows = rows[:5]
            cosines = sorted((round(float(c), 6) for c in rng.uniform(0.2, 0.5, len(rows))), reverse=True)
            asked = (
                {"caption_row": 2 * query, "caption": _caption(2 * query)}
                if kind == "image"
                else {"captions": [_caption(2 * query), _caption(2 * query + 1)]}
            )
            content[direction].append(
                {
                    "row": query,
                    "id": f"{query:05d}",
                    **asked,
                    "rank": place,
                    "margin": round(float(rng.normal(0, 0.05)), 6),
                    "top": top(rows, cosines, query, kind),
                }
            )
    return content


def write_results(
    folder: Path,
    arms: dict[str, ArmModel] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 16),
    updates_an_epoch: int = 60,
) -> None:
    """`results/<exp>/` for every arm and seed."""
    total = epochs[-1] * updates_an_epoch * 128
    for name, arm in (arms or ARMS).items():
        for seed in seeds:
            run = folder / f"{name}-s{seed}"
            points = []
            # An arm that only finetunes is judged at its start and at its end.
            for epoch in epochs if "pretrain" in arm.stages else (0, 1):
                finetuned = "pretrain" not in arm.stages
                update = epoch * (30 if finetuned else updates_an_epoch)
                point = {
                    "epoch": epoch,
                    "update": update,
                    "samples": update * (64 if finetuned else 128),
                    "folder": f"epoch-{epoch:04d}",
                    "sha256": hashlib.sha256(f"{name}{seed}{epoch}".encode()).hexdigest(),
                }
                points.append(point)
                seen = total if finetuned else point["samples"]
                model = ARMS["random"] if finetuned and epoch == 0 else arm
                _write_checkpoint(
                    run / point["folder"],
                    name if model is arm else "random",
                    model,
                    seed,
                    seen,
                    total,
                    finetuned and epoch > 0,
                )
            write_json(
                run / "evaluation.json",
                {
                    "arm": name,
                    "seed": seed,
                    "stage": arm.stages[-1],
                    "checkpoints": points,
                    "sets": [s[0] for s in SETS] + [r[0] for r in RETRIEVAL],
                },
            )


def _write(folder: Path, name: str, record: dict[str, Any], items: dict[str, np.ndarray]) -> None:
    write_json(folder / f"{name}.json", record)
    save_file(items, folder / f"{name}.items.safetensors")


def _write_checkpoint(
    folder: Path, name: str, arm: ArmModel, seed: int, samples: int, total: int, finetuned: bool
) -> None:
    for set_id, _, family, classes, n, offset, _, _ in SETS:
        if offset is None:
            rank = _rng("guess", set_id, name, seed, samples).integers(0, classes, n).astype(np.int32)
        else:
            skill = _skill(arm, set_id, seed, samples, total) + offset + 2.2
            rank = _ranks(skill, set_id, n, classes, name, seed, samples)
        label = (np.arange(n) % classes).astype(np.int32)
        predicted = np.where(rank == 0, label, (label + 1) % classes).astype(np.int32)
        metrics = {
            "acc1": float((rank < 1).mean()),
            "acc5": float((rank < 5).mean()) if classes >= 5 else None,
            "mean_per_class_recall": float(np.mean(rank == 0)),
        }
        _write(
            folder,
            set_id,
            {
                "dataset": set_id,
                "task": "classification",
                "family": family,
                "metrics": metrics,
                "n": n,
                "classes": classes,
                "chance": 1 / classes,
                "dataset_sha256": f"d-{set_id}",
            },
            {"rank": rank, "label": label, "predicted": predicted},
        )
    for set_id, _, n in RETRIEVAL:
        skill = _skill(arm, set_id, seed, samples, total) - 1.0
        text_rank = _ranks(skill, set_id + "t", n, 2 * n, name, seed, samples)
        image_rank = _ranks(skill - 0.3, set_id + "i", 2 * n, n, name, seed, samples)
        metrics = {}
        for k in (1, 5, 10):
            metrics[f"image_retrieval_recall@{k}"] = float((image_rank < k).mean())
            metrics[f"text_retrieval_recall@{k}"] = float((text_rank < k).mean())
        _write(
            folder,
            set_id,
            {
                "dataset": set_id,
                "task": "retrieval",
                "family": "Retrieval",
                "metrics": metrics,
                "n": n,
                "captions": 2 * n,
                "dataset_sha256": f"d-{set_id}",
                "examples": _examples(name, seed, skill, n),
            },
            {
                "text_rank": text_rank,
                "image_rank": image_rank,
                "text_margin": (0.05 * skill - 0.01 * text_rank).astype(np.float32),
                "image_margin": (0.05 * skill - 0.01 * image_rank).astype(np.float32),
                "caption_image": np.repeat(np.arange(n), 2).astype(np.int32),
            },
        )
    for data, split, n in HELD:
        taught = arm.taught.get(data, 0.0) if finetuned or "initialize" in arm.stages else 0.0
        skill = 0.25 + (0.9 if "concept" in data else 0.2)
        skill += taught * (0.25 + 0.75 * 2 ** (-samples / total * 6)) if not finetuned else taught
        skill += 0.4 * samples / total + _rng("2afc", seed).normal(0, 0.05)
        difficulty = _rng("difficulty", data, split).normal(0, 1, n)
        noise = _rng("2afc-noise", data, split, seed, name, samples).logistic(0, 0.6, n)
        score = np.where(skill - difficulty + noise > 0, 2, 0).astype(np.uint8)
        pixel = np.where(_rng("pixel", data, split).random(n) < (0.5 if "triplets" in data else 0.79), 2, 0)
        _write(
            folder,
            f"2afc-{data}-{split}",
            {
                "dataset": data,
                "task": "2afc",
                "family": None,
                "split": split,
                "n": n,
                "chance": 0.5,
                "metrics": {"two_afc": float(score.mean()) / 2, "pixel_mse": float(pixel.mean()) / 2},
                "dataset_sha256": f"d-{data}",
            },
            {"score": score, "pixel": pixel.astype(np.uint8)},
        )
