"""The samples as fixtures, made once a session."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pi_repro.provenance.determinism_env import ENVIRONMENT

# Before torch: it chooses its kernels at first use.
os.environ.update(ENVIRONMENT)

import open_clip
import pytest
import torch

from pi_repro.evaluation.benchmark import Conditions
from pi_repro.evaluation.embed import Embedder
from pi_repro.evaluation.preprocess import clip_preprocess
from pi_repro.training import model as models

from .samples import ARCHITECTURE, BATCH, MODEL, SIZE, random_model, write_suite, write_triplets, write_weights


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("data") / "suite")


@pytest.fixture(scope="session")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_triplets(tmp_path_factory.mktemp("data") / "votes")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(clip_preprocess(SIZE), models.tokenizer(MODEL), BATCH, "fp32", (1, 5, 10))


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(random_model(7), clip_preprocess(SIZE).prepare, "cpu", "fp32", BATCH)


@pytest.fixture(scope="session")
def open_clip_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test model's config, known to open_clip by its name."""
    path = tmp_path_factory.mktemp("config") / f"{MODEL['name']}.json"
    path.write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(path)
    return path
