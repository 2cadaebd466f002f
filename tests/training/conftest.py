"""The samples as fixtures, made once a session; every test computes as a stage does."""

from __future__ import annotations

import os
from pathlib import Path

from pi_repro.provenance.determinism_env import ENVIRONMENT

# Before torch: it chooses its kernels at first use.
os.environ.update(ENVIRONMENT)

import pytest
import torch

from pi_repro.stages import draw
from pi_repro.training import determinism

from . import samples


@pytest.fixture(scope="session", autouse=True)
def _exact() -> None:
    determinism.enter("cpu")
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_triplets(tmp_path_factory.mktemp("triplets"))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights drawn from seed 3."""
    context = samples.context("draw", {}, {}, tmp_path_factory.mktemp("draw"))
    draw.run(context)
    return context.out
