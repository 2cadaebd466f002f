"""The package of EXTENDING.md, as the page gives it: a loss, an optimizer, an initialization, labels, an adapter, data.

Nothing of this package is changed for it. What the page shows is what runs here, letter by letter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pi_repro.spec import plugins

from .conftest import BIN, ROOT, Workspace, make_workspace

#: A block of the page that is a file: its first line names it.
FILE = re.compile(r"```(?:toml|python|yaml)\n(# (\S+)\n.*?)```\n", re.DOTALL)


def page() -> dict[str, str]:
    """Path -> content of every file that the page gives."""
    return {name: content for content, name in FILE.findall((ROOT / "EXTENDING.md").read_text(encoding="utf-8"))}


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
    """Write the page's package and install it as a user would, but into a folder of its own."""
    source = folder / "source"
    for name, content in page().items():
        if not name.startswith("specs/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(content, encoding="utf-8")
    (source / "pi_toy" / "__init__.py").touch()
    options = ["--quiet", "--offline", "--no-cache", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    command = [str(BIN / "uv"), "pip", "install", *options, "--target", str(folder / "package"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "package"


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    folder = tmp_path_factory.mktemp("plugged")
    workspace = Plugged(make_workspace(folder / "ws").root, install(folder))
    for name, content in page().items():
        if name.startswith("specs/"):
            (workspace.root / name).write_text(content, encoding="utf-8")
    return workspace


def test_the_page_shows_one_of_each_part_that_can_be_added() -> None:
    groups = re.findall(r'entry-points."pi_repro\.(\w+)"\]\n[\w-]+ = "([\w.]+):', page()["pyproject.toml"])
    assert {group for group, _ in groups} == set(plugins.BUILT_IN)
    assert {module.replace(".", "/") + ".py" for _, module in groups} <= page().keys()


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
        ("darker", "labels"),
        ("lion", "optimizers"),
        ("small", "initializations"),
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
    assert abs(drawn["visual.conv1.weight"].std() - 0.01) < 1e-3
    assert json.loads((plugged.root / "params.json").read_text())["draw"]["toy-s0"]["settings"]["providers"] == {
        "initializations.small": "pi-toy==1.0"
    }
    assert "started" not in plugged.run(*run)
    before = plugged.digests()
    assert "started" in plugged.run(*run, "--force")
    assert plugged.digests() == before


@pytest.mark.full
def test_it_pretrains_with_the_plugin_s_optimizer_and_labels_and_verifies_from_a_state(plugged: Plugged) -> None:
    plugged.run("pirepro", "run", "specs/toy.yaml", "--until", "pretrain@toy-dark-s0")
    folder = plugged.root / "artifacts/toy/dark-s0"
    labels = json.loads((folder / "initialize/training.json").read_text())["data"]["labels"]
    assert labels["source"] == "darker" and 0 < labels["agree_with_votes"] < labels["of"] == 32
    state = load_file(next((folder / "pretrain/states").glob("*/optimizer.safetensors")))
    assert {name.split("/")[0] for name in state} == {"momentum"}
    # A stretch from that state, on two processes, has the bits of the whole run.
    plugged.run("pirepro", "verify", "pretrain@toy-dark-s0", "--from-step", "4", "--steps", "3", "--processes", "2")
