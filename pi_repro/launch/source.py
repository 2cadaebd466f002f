"""The code of a commit, as an archive in a crate: who has no clone can compute the experiment again.

Rule: what a rebuild needs and no more, taken from git and not from the checkout, so that the archive is the
commit's and nothing else's. It holds no commit id, author or date.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from . import anonymity
from .archive import write_zip

_NEEDED: Final = {
    *(".dvc", ".dvcignore", ".gitignore", "LICENSE", "Makefile", "README.md", "dvc.yaml", "params.json"),
    *("pi_repro", "pyproject.toml", "requirements-dev.lock", "requirements.lock", "specs", "tools"),
}


def pack(
    workspace: Path, commits: Mapping[str, str], folder: Path, secrets: anonymity.Secrets | None
) -> dict[str, str]:
    """Write an archive for each commit that the checkout's git still has.

    Args:
        workspace: the checkout.
        commits: name in the crate (the id itself, or an alias) -> id.
        folder: of the crate.
        secrets: what must not be found in the code; None when nobody asks.

    Returns:
        name -> path of its archive in the crate.

    Raises:
        StateError: when the code names somebody.
    """
    found = {}
    for name, commit in commits.items():
        scratch = folder / ".code"
        try:
            if not _extract(workspace, commit, scratch):
                continue
            if secrets:
                anonymity.check(scratch, secrets)
            path = f"code/pi_repro-{name[:12]}.zip"
            (folder / "code").mkdir(exist_ok=True)
            write_zip(scratch, folder / path)
            found[name] = path
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found


def _extract(workspace: Path, commit: str, folder: Path) -> bool:
    listed = _git(workspace, "ls-tree", "--name-only", "-z", commit)
    names = sorted(_NEEDED & set((listed or b"").decode().split("\0")))
    content = _git(workspace, "archive", "--format=tar", commit, "--", *names) if names else None
    if content is None:
        return False
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return True


def _git(workspace: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(workspace), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
