"""What git says of the checkout.

Rule: asked without optional locks, so that workers side by side neither refuse each other nor a person's own
git, and never waited for long; a checkout without git is no error.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def output(workspace: Path, *arguments: str) -> bytes | None:
    """What a git command prints; None where there is no git, or it fails or takes a minute."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(workspace), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
