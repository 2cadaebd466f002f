"""Another package adds an objective, an adapter, a model and a dataset; nothing of this package is changed for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from .conftest import BIN, Workspace, make_workspace

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "pi-toy"
version = "1.0"

[tool.setuptools]
packages = ["pi_toy"]

[project.entry-points."pi_repro.objectives"]
squared_hinge = "pi_toy.objective:SquaredHinge"

[project.entry-points."pi_repro.adapters"]
last_layer = "pi_toy.adapter:LastLayer"

[project.entry-points."pi_repro.fetchers"]
noise_triplets = "pi_toy.fetcher:fetch"

[project.entry-points."pi_repro.models"]
toy-vit-32 = "pi_toy.model:ARCHITECTURE"
"""

#: As the README gives it.
OBJECTIVE = """\
import torch


class SquaredHinge:
    images = ("ref", "left", "right")

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def loss(self, features, targets):                     # one loss a sample, never a mean
        ref, left, right = (torch.nn.functional.normalize(features[n], dim=-1) for n in self.images)
        gap = (ref * right).sum(-1) - (ref * left).sum(-1)  # d0 - d1 by cosine distance
        sign = 2.0 * targets["label"].float() - 1.0         # label 1: right is closer
        return (self.margin - gap * sign).clamp_min(0.0) ** 2
"""

ADAPTER = '''\
"""The projection alone."""


class LastLayer:
    def attach(self, model):
        return ["visual.proj"]

    def weights(self, model):
        return model.state_dict()
'''

FETCHER = '''\
"""A square, itself with little noise, and with much."""

import io

import numpy as np
from PIL import Image

from pi_repro.data.shardwriter import ShardWriter
from pi_repro.files import write_json


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def fetch(card, context):
    random = np.random.default_rng(card.settings["seed"])
    with ShardWriter(context.out, card.name, card.kind, shard_size=24) as writer:
        for number in range(64):
            label = number % 2  # 1: right is closer
            square = np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
            sides = [square + noise * random.standard_normal(square.shape) for noise in (10, 60)]
            members = {"ref.png": png(square), "left.png": png(sides[label]), "right.png": png(sides[1 - label])}
            extra = {"label": label, "split": (0, 0, 1, 2)[number // 2 % 4], "votes": 6}
            writer.add(f"t{number:04d}", {**members, "json": b"{}"}, extra)
    write_json(context.out / "card.json", card.model_dump(mode="json"))
'''

MODEL = '''\
"""Read on login nodes too: imports nothing."""

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
'''


@dataclass(frozen=True)
class Plugged(Workspace):
    """A workspace whose environment holds one package more."""

    package: Path

    @property
    def environment(self) -> dict[str, str]:
        """With the package, which lies in a folder of its own."""
        inherited = super().environment
        return {**inherited, "PYTHONPATH": os.pathsep.join([str(self.package), inherited.get("PYTHONPATH", "")])}


def install(folder: Path) -> Path:
    """Write the toy package and install it as a user would, but into a folder of its own."""
    source = folder / "source"
    (source / "pi_toy").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT)
    modules = {"__init__": "", "objective": OBJECTIVE, "adapter": ADAPTER, "fetcher": FETCHER, "model": MODEL}
    for name, text in modules.items():
        (source / "pi_toy" / f"{name}.py").write_text(text)
    options = ["--quiet", "--offline", "--no-cache", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    command = [str(BIN / "uv"), "pip", "install", *options, "--target", str(folder / "package"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "package"


def write_spec(workspace: Workspace) -> None:
    """demo-tiny with the toy's model, dataset, objective and adapter."""
    specs = workspace.root / "specs"
    spec = yaml.safe_load((specs / "demo-tiny.yaml").read_text())
    spec["name"], science = "toy", spec["science"]
    science["model"]["name"] = "toy-vit-32"
    science["initialize"] |= {
        "data": "toy-triplets",
        "objective": {"name": "squared_hinge", "options": {"margin": 0.05}},
        "adapter": {"name": "last_layer"},
        "epochs": 6,
        "batch": 16,
        "micro_batch": 8,
    }
    science["evaluate"]["two_afc"][0]["data"] = "toy-triplets"
    del science["finetune"], science["arms"]["posthoc"]
    (specs / "toy.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    card = {
        "name": "toy-triplets",
        "kind": "triplets",
        "title": "Squares with noise",
        "description": "Generated; the side with less noise is closer.",
        "licence": "CC0-1.0",
        "fetcher": "noise_triplets",
        "location": "workspace",
        "sources": [
            {
                "name": "generated",
                "kind": "pypi",
                "locator": "pi-toy",
                "revision": "1.0",
                "digest": "recorded at first fetch",
                "bytes": None,
                "licence": "CC0-1.0",
            }
        ],
        "settings": {"seed": 5},
        "count": 32,
        "disk_bytes": 500_000,
        "files": 6,
    }
    (specs / "data" / "toy-triplets.yaml").write_text(yaml.safe_dump(card, sort_keys=False))


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    folder = tmp_path_factory.mktemp("plugged")
    workspace = Plugged(make_workspace(folder / "ws").root, install(folder))
    write_spec(workspace)
    return workspace


def test_a_spec_may_name_what_another_package_offers(plugged: Plugged) -> None:
    plugged.run("pirepro", "validate", "specs/toy.yaml")
    output = plugged.run("pirepro", "run", "specs/toy.yaml", "--dry-run")
    assert "fetch@toy-triplets" in output and "initialize@toy-pi-s0" in output


def test_without_the_package_each_name_is_refused_with_the_group_to_install_from(plugged: Plugged) -> None:
    output = Workspace(plugged.root).run("pirepro", "validate", "specs/toy.yaml", status=2)
    assert "Traceback" not in output
    for name, group in (
        ("squared_hinge", "objectives"),
        ("last_layer", "adapters"),
        ("noise_triplets", "fetchers"),
        ("toy-vit-32", "models"),
    ):
        assert name in output and f"an entry point in pi_repro.{group}" in output
    assert "toy-triplets.yaml:" in output and "toy.yaml:" in output


@pytest.mark.full
def test_options_that_a_plugin_does_not_take_stop_its_stage(plugged: Plugged) -> None:
    plugged.edit("toy.yaml", "margin: 0.05", "marg: 0.05")
    try:
        output = plugged.run("pirepro", "run", "specs/toy.yaml", "--until", "initialize", status=2)
        assert "squared_hinge" in output and "marg" in output and "Traceback" not in output
    finally:
        plugged.edit("toy.yaml", "marg: 0.05", "margin: 0.05")


@pytest.mark.full
def test_it_trains_on_the_plugin_s_data_with_the_plugin_s_parts(plugged: Plugged) -> None:
    run = ("pirepro", "run", "specs/toy.yaml", "--until", "initialize")
    plugged.run(*run)
    trained = plugged.root / "artifacts/toy/pi-s0/initialize"
    about = json.loads((trained / "training.json").read_text())
    assert about["trained"] == ["visual.proj"] and about["updates"] == 12
    assert about["model"]["architecture"]["embed_dim"] == 16
    ledger = [json.loads(line) for line in (trained / "ledger.jsonl").read_text().splitlines()]
    # A hinge of 0.05 that starts at about nothing learned is about 0.05 ** 2.
    assert ledger[0]["loss"] == pytest.approx(0.05**2, rel=0.9)
    assert ledger[-1]["loss"] < ledger[0]["loss"]
    drawn = load_file(next((plugged.root / "artifacts/toy/draw-s0/weights").glob("*.safetensors")))
    learned = load_file(trained / about["last"])
    assert {name for name in drawn if drawn[name].tobytes() != learned[name].tobytes()} == {"visual.proj"}
    assert "started" not in plugged.run(*run)
    before = plugged.digests()
    assert "started" in plugged.run(*run, "--force")
    assert plugged.digests() == before
