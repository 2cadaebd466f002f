"""Real workspaces: the repository's own files in a new folder, driven through the command line."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Workspace:
    """A folder in which commands run as a user would type them."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment; downloads are shared with the repository's own."""
        shared = os.environ.get("PIREPRO_DOWNLOADS", str(ROOT / ".pirepro" / "downloads"))
        return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PIREPRO_DOWNLOADS": shared}

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        output = log.open("ab") if log else subprocess.DEVNULL
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command to its end; returns all it printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def digests(self) -> dict[str, str]:
        """sha256 of every file of every output."""
        found = {}
        for folder in ("data", "artifacts", "results", "reports"):
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file() and path.name != ".gitignore":
                    found[path.relative_to(self.root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def forget(self) -> None:
        """Delete every output, the store, scratch and DVC's cache."""
        for name in ("data", "artifacts", "results", "reports", ".pirepro", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def forget_computed(self) -> None:
        """Delete every output but fetched data, and what the store holds of it."""
        for name in ("artifacts", "results", "reports"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for manifest in (self.root / ".pirepro/store").glob("*/manifest.json"):
            if json.loads(manifest.read_text())["payload"]["kind"] != "fetch":
                shutil.rmtree(manifest.parent)

    def edit(self, spec: str, old: str, new: str) -> None:
        """Change a spec's text."""
        path = self.root / "specs" / spec
        text = path.read_text()
        assert old in text, f"{spec} no longer holds {old!r}"
        path.write_text(text.replace(old, new, 1))

    def logs(self) -> str:
        """Logs of all published stages and of all scratch."""
        return "\n".join(path.read_text() for path in sorted((self.root / ".pirepro").rglob("log.txt")))


def make_workspace(folder: Path, *, enabled: str = "specs/demo-tiny.yaml") -> Workspace:
    """A new git repository with the project's files, and one spec enabled."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.startswith(("reports/", "provenance/", "dvc.lock")) or not (ROOT / name).is_file():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    path = folder / "specs" / "enabled.yaml"
    path.write_text(path.read_text().replace("specs/demo.yaml", enabled))
    workspace = Workspace(folder)
    workspace.run("pirepro", "plan", "--write")
    workspace.run("git", "init", "-q")
    commit(workspace, "begin")
    return workspace


def commit(workspace: Workspace, message: str) -> None:
    """Commit everything that git does not ignore."""
    workspace.run("git", "add", "-A")
    workspace.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", message)


def copy_of(workspace: Workspace, folder: Path) -> Workspace:
    """A copy with all outputs, the store and DVC's cache."""
    shutil.copytree(workspace.root, folder, symlinks=True)
    return Workspace(folder)


def once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Workspace], object]) -> Workspace:
    """A workspace that one worker makes and fills for all of them. Tests copy it and change the copy."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / name / "ws", shared / name / "done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)  # what another worker failed at
            fill(make_workspace(folder))
            done.touch()
    return Workspace(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """demo-tiny, run to its end."""

    def fill(workspace: Workspace) -> None:
        begun = time.monotonic()
        workspace.run("pirepro", "run", "specs/demo-tiny.yaml")
        print(f"demo-tiny took {time.monotonic() - begun:.0f} s")
        commit(workspace, "results of demo-tiny")

    return once(tmp_path_factory, "finished", fill)


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    """An own copy of the finished workspace."""
    return copy_of(finished, tmp_path / "ws")
