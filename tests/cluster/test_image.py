"""The container for real: built from the Dockerfile on a base made here, and run, alone and under SLURM."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pi_repro.launch.container import Image, image_of
from pi_repro.launch.runtimes import PYTHON, wrap
from pi_repro.spec.site import Runtime
from tests.cluster.conftest import SITE, Cluster, ClusteredWorkspace, require
from tests.e2e.conftest import ROOT, Workspace
from tools import image as maker

SPEC = "specs/demo-tiny.yaml"
BASE = ROOT / ".pirepro" / "base.tar"
NAME = "local-debian"
#: Podman on a machine that may raise no limit and mixes versions of control groups (shared/CLUSTER_NOTES).
PODMAN = ("--cgroup-manager=cgroupfs", "--runtime=runc", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")


def make(checkout: Path, *options: str) -> str:
    """`make image` in a checkout, with this Python; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.image", *options], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def base() -> Path:
    """A base image of this machine's own, kept from one session to the next."""
    require("buildah", "ch-run", "mksquashfs")
    if not BASE.exists():
        require("mmdebstrap")
        subprocess.run(["bash", ROOT / "slurm/testcluster/base.sh", BASE], check=True)
    return BASE


@dataclass(frozen=True)
class Thin:
    """A checkout whose lock names three small packages, and its image."""

    root: Path

    @property
    def entry(self) -> dict[str, dict[str, str]]:
        """What container.lock records."""
        return dict(json.loads((self.root / "container.lock").read_text())["images"]["thin"])

    def image(self, name: str, kind: str = "charliecloud") -> Image:
        """As a site with this image finds it."""
        found = image_of(Runtime(kind=kind, image=name), self.root)
        assert found is not None
        return found

    def run(self, kind: str, name: str, code: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """The words that run Python code in it."""
        runtime = Runtime(kind=kind, image=str(self.root / name) if kind == "charliecloud" else name, options=options)
        given = {"PYTHONPATH": str(self.root), "CANARY": "a b;$(touch canary)"}
        words = [PYTHON, "-c", code, *arguments]
        return wrap(runtime, words, environment=given, binds=[self.root], workdir=self.root)


FOLDER, FILE = ".pirepro/images/thin", ".pirepro/images/thin.squashfs"


@pytest.fixture(scope="session")
def thin(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thin]:
    """Built once."""
    root = tmp_path_factory.mktemp("thin") / "checkout"
    for name in ("pi_repro", "tools", "slurm"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, root)
    rows = re.findall(
        r"^(?:idna|packaging|six)==(?:[^\n]*\\\n)*[^\n]*\n", (ROOT / "requirements.lock").read_text(), re.M
    )
    (root / "requirements.lock").write_text("".join(rows))
    make(root, "--base", str(base), "--name", "thin", "--forms", "squashfs,folder", "--tool", "buildah")
    yield Thin(root)
    subprocess.run(["buildah", "rmi", "localhost/pirepro:thin"], capture_output=True, check=False)


def test_two_builds_give_the_same_bytes(thin: Thin, base: Path) -> None:
    again = ("--base", str(base), "--name", "thin", "--tool", "buildah")
    before, file = thin.entry, thin.root / FILE
    # With everything there, nothing is built.
    assert "building" not in make(thin.root, *again)
    shutil.rmtree(thin.root / ".pirepro" / "images")
    make(thin.root, *again, "--fresh", "--forms", "squashfs,folder")
    assert thin.entry == before and file.exists()
    # The environment holds what is locked, and no installer.
    packages = [
        path.name for path in (thin.root / FOLDER).glob("opt/venv/lib/python3*/site-packages/*") if path.is_dir()
    ]
    assert {name.split("-")[0] for name in packages} == {"idna", "packaging", "six", "__pycache__"}


def test_it_runs_with_what_the_launcher_and_slurm_tell_it(cluster: Cluster, thin: Thin) -> None:
    code = (
        "import os, sys, six\n"
        "from pi_repro.provenance.image import check\n"
        "check(sys.argv[1], full=True)\n"
        "told = ('SLURM_PROCID', 'SLURM_NTASKS', 'CUDA_VISIBLE_DEVICES', 'CANARY')\n"
        "print(*(os.environ[name] for name in told), six.__file__, os.getcwd())\n"
    )
    image = thin.image(FOLDER)
    command = ["srun", "--ntasks=2", "--gpus-per-task=1", *thin.run("charliecloud", FOLDER, code, image.manifest)]
    script = f"export LD_LIBRARY_PATH=/nowhere\n{shlex.join(image.prologue(thin.root))} && {shlex.join(command)}"
    job = cluster.submit(script, "--ntasks=2", "--gpus-per-task=1")
    cluster.wait(job)
    site_packages = "/opt/venv/lib/python3.11/site-packages/six.py"
    assert sorted(cluster.output(job).splitlines()) == [
        f"{rank} 2 {rank} a b;$(touch canary) {site_packages} {thin.root}" for rank in (0, 1)
    ]


def test_an_altered_image_is_refused_before_anything_runs(cluster: Cluster, thin: Thin, tmp_path: Path) -> None:
    image, marker = thin.image(FOLDER), tmp_path / "ran"
    script = shlex.join(image.prologue(thin.root)) + f" || exit $?\ntouch {shlex.quote(str(marker))}"
    victim = thin.root / FOLDER / "opt/venv/lib/python3.11/site-packages/six.py"
    content = victim.read_bytes()
    try:
        victim.write_bytes(content.replace(b"1.17.0", b"1.17.1"))  # of the same size
        job = cluster.submit(script)
        cluster.wait(job, "FAILED")
    finally:
        victim.write_bytes(content)
    assert "six.py was changed" in cluster.output(job) and "nothing was started" in cluster.output(job)
    assert cluster.accounted(job)[0]["exit"].startswith("3:") and not marker.exists()
    job = cluster.submit(script)
    cluster.wait(job)
    assert marker.exists()


@pytest.mark.parametrize("name", [FOLDER, FILE])
def test_a_request_to_save_reaches_the_stage_and_leaves_it_its_files(thin: Thin, name: str) -> None:
    """As SLURM does it: every process of the job is signalled, ch-run too, which serves a file's content."""
    code = (
        "import signal, sys, time\n"
        "def asked(*_):\n"
        "    time.sleep(0.5); import sqlite3, xml.dom.minidom, six; print('saved', flush=True); sys.exit(130)\n"
        "signal.signal(signal.SIGUSR2, asked)\n"
        "print('ready', flush=True)\n"
        "for _ in range(300):\n    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        thin.run("charliecloud", name, code), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGUSR2)
    assert process.stdout.read() == "saved\n" and process.wait() == 130


def test_podman_runs_it_too(thin: Thin, base: Path) -> None:
    require("podman", "runc")
    reference = "localhost/pirepro:thin"
    image = thin.image(reference, "podman")
    assert image.digest == thin.entry["image"]
    subprocess.run(image.prologue(thin.root), check=True)
    wrong = Image(image.digest, image.manifest, "podman", "0" * 64, reference)
    assert subprocess.run(wrong.prologue(thin.root), capture_output=True, check=False).returncode == 3
    code = (
        "import os, sys, pathlib\n"
        "from pi_repro.provenance.image import check\n"
        "check(sys.argv[1])\n"
        "pathlib.Path('from podman').write_text(os.environ['CANARY'] + os.environ['SLURM_PROCID'])\n"
    )
    command = thin.run("podman", reference, code, image.manifest, options=PODMAN)
    subprocess.run(command, env={**os.environ, "SLURM_PROCID": "7"}, check=True)
    assert (thin.root / "from podman").read_text() == "a b;$(touch canary)7"
    assert (thin.root / "from podman").stat().st_uid == os.getuid()


@pytest.fixture(scope="session")
def recorded(base: Path) -> Path:
    """A container.lock that lists the whole image on this machine's base, which is there as a folder.

    Where the base is the one of the repository's container.lock, the image must be the recorded one, or
    `make image` refuses it.
    """
    record = ROOT / ".pirepro" / "images" / "tested.lock"
    committed = json.loads((ROOT / "container.lock").read_text())["images"][NAME]
    here = maker.base_of(str(base), "buildah")[1]
    if committed["base"] == here and committed["built"]["version"] == maker.version("buildah"):
        record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "container.lock", record)
    else:
        warnings.warn(
            f"THE IMAGE IS NOT COMPARED with container.lock: the base here is {here} and the recorded one "
            f"{committed['base']}, buildah is {maker.version('buildah')} and was {committed['built']['version']}",
            stacklevel=1,
        )
    options = ("--base", str(base), "--name", NAME, "--forms", "folder", "--tool", "buildah")
    make(ROOT, *options, "--record", str(record))
    return record


@pytest.mark.timeout(3000)  # a build from nothing is part of it
def test_stages_in_the_image_give_the_bits_of_the_host(
    clustered: ClusteredWorkspace,
    finished: Workspace,
    recorded: Path,
) -> None:
    shutil.copy(recorded, clustered.root / "container.lock")
    image = ROOT / ".pirepro" / "images" / NAME
    clustered.cluster.site(clustered.root, runtime={"kind": "charliecloud", "image": str(image)})
    digest = json.loads(recorded.read_text())["images"][NAME]["image"]
    folder = json.loads(recorded.read_text())["images"][NAME]["forms"]["folder"]
    (clustered.root / "container.lock").write_text(recorded.read_text().replace(folder, "0" * 64))
    refused = clustered.run("pirepro", "run", SPEC, "--slurm", "--site", SITE, status=3)
    assert "not listed in container.lock" in refused and "Traceback" not in refused
    shutil.copy(recorded, clustered.root / "container.lock")
    clustered.run("pirepro", "run", SPEC, "--slurm", "--site", SITE)
    assert clustered.digests() == finished.digests()
    computed = [path for path in (clustered.root / "provenance").rglob("*.json") if "fetch" not in path.name]
    assert computed and {json.loads(path.read_text())["image"] for path in computed} == {digest}
    commits = {json.loads(path.read_text())["git"]["commit"] for path in computed}
    assert commits == {clustered.run("git", "rev-parse", "HEAD").strip()}, "the image holds no git"
    victim = image / "opt/venv/lib/python3.11/site-packages/six.py"
    content = victim.read_bytes()
    clustered.forget_computed()
    try:
        victim.write_bytes(content.replace(b"1.17.0", b"1.17.1"))  # of the same size
        refused = clustered.run("pirepro", "run", SPEC, "--slurm", "--site", SITE, status=3)
    finally:
        victim.write_bytes(content)
    assert "six.py was changed" in refused and "Traceback" not in refused
