"""One synthetic experiment for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi_repro.analysis.findings import Findings, find
from pi_repro.analysis.results import Results

from . import synthetic_results
from .synthetic_results import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four arms, three seeds, six checkpoints, eleven sets, two retrieval sets, four 2AFC splits."""
    root = tmp_path_factory.mktemp("world")
    synthetic_results.write_suite(root / "suite")
    synthetic_results.write_results(root / "results")
    return World(root / "results", root / "suite", synthetic_results.settings())


@pytest.fixture(scope="session")
def results(world: World) -> Results:
    return world.open()


@pytest.fixture(scope="session")
def findings(results: Results) -> Findings:
    return find(results)


@pytest.fixture
def tiny(tmp_path: Path) -> World:
    """Two arms, one seed, two checkpoints: to be damaged by the test that asks for it."""
    arms = {name: synthetic_results.ARMS[name] for name in ("random", "pi")}
    synthetic_results.write_suite(tmp_path / "suite")
    synthetic_results.write_results(tmp_path / "results", arms, seeds=(0,), epochs=(0, 4))
    return World(tmp_path / "results", tmp_path / "suite", synthetic_results.settings(arms, (0,)))
