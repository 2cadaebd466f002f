"""Exact mode's pins are set before anything imports torch."""

import os

from pi_repro.provenance.determinism_env import ENVIRONMENT

os.environ.update(ENVIRONMENT)
