"""The image is the recorded one: looked up before a job, checked by the host, checked inside; and how it is made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import RequestError, StateError
from pi_repro.launch import runtimes
from pi_repro.launch.container import Image, image_of
from pi_repro.launch.job import Job
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import attempts, submission
from pi_repro.launch.slurm.runner import SlurmRunner
from pi_repro.launch.slurm.submission import Ask
from pi_repro.provenance import capture
from pi_repro.provenance import image as inside
from pi_repro.provenance.image import check
from pi_repro.spec.experiment import Resources
from pi_repro.spec.site import Runtime, Site
from tools import bake, flatten
from tools import image as maker

ROOT = Path(__file__).parents[2]
LIBRARY = "opt/venv/lib/a (1).py"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder image, its list written by the script that the Dockerfile runs."""
    image = tmp_path / "images" / "an image"
    for name, text in (
        (LIBRARY, "x = 1\n"),
        ("usr/bin/python3.11", "elf"),
        ("usr/lib/python3.11/os.py", ""),
        ("etc/python3.11/sitecustomize.py", ""),
        ("usr/lib/libm.so", "1.0"),
        ("usr/local/f", ""),
    ):
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        (image / name).write_text(text)
    for link, target in (
        ("opt/venv/bin/python", "/usr/bin/python3.11"),
        ("opt/venv/lib64", "lib"),
        ("usr/lib/python3.11/sitecustomize.py", "/etc/python3.11/sitecustomize.py"),
        ("lib", "usr/lib"),
    ):
        (image / link).parent.mkdir(exist_ok=True)
        (image / link).symlink_to(target)
    closed = ["opt/venv", "usr/lib/python3.11", "usr/lib/python311.zip"]
    bake.write(image / "opt/pirepro/manifest.json", image, "0" * 64, closed)
    return image


@pytest.fixture
def workspace(tmp_path: Path, folder: Path) -> Path:
    """A checkout whose container.lock lists the folder, a file and an id."""
    here = tmp_path / "ws"
    (here / "slurm").mkdir(parents=True)
    shutil.copy(ROOT / "slurm/prologue.sh", here / "slurm")
    (here / "requirements.lock").write_text("torch==1\n")
    (here / "i.squashfs").write_bytes(b"squash" * 1000)
    manifest = sha(folder / "opt/pirepro/manifest.json")
    entry = {"image": "sha256:" + "a" * 64, "manifest": manifest, "lock": sha(here / "requirements.lock")}
    entry |= {"forms": {"folder": manifest, "squashfs": sha(here / "i.squashfs")}}
    (here / "container.lock").write_text(json.dumps({"images": {"local": entry}}))
    return here


def runtime(image: Path | str, kind: str = "charliecloud") -> Runtime:
    return Runtime(kind=kind, image=str(image))


def prologue(image: Image, workspace: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        image.prologue(workspace),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_the_recorded_image_is_found_by_what_it_holds(workspace: Path, folder: Path) -> None:
    manifest = sha(folder / "opt/pirepro/manifest.json")
    digest = "sha256:" + "a" * 64
    assert image_of(Runtime(kind="none"), workspace) is None
    assert image_of(runtime(folder), workspace) == Image(digest, manifest, "folder", manifest, str(folder), "local")
    file = workspace / "i.squashfs"
    # A path of the site may begin at the workspace; the second look reads the note instead of the file.
    for _ in range(2):
        assert image_of(runtime("i.squashfs"), workspace) == Image(
            digest, manifest, "squashfs", sha(file), str(file), "local"
        )
    assert image_of(runtime(digest, "podman"), workspace) == Image(
        digest, manifest, "podman", "a" * 64, digest, "local"
    )


def test_other_images_are_refused(workspace: Path, folder: Path) -> None:
    file = workspace / "i.squashfs"
    image_of(runtime(file), workspace)
    file.write_bytes(b"Squash" * 1000)
    with pytest.raises(StateError, match="not listed"):
        image_of(runtime(file), workspace)
    with pytest.raises(StateError, match="not listed"):
        image_of(runtime("sha256:" + "b" * 64, "podman"), workspace)
    with pytest.raises(StateError, match="no image of pi_repro here"):
        image_of(runtime(workspace / "absent.sif"), workspace)
    (workspace / "requirements.lock").write_text("torch==2\n")
    with pytest.raises(StateError, match="built from another"):
        image_of(runtime(folder), workspace)
    (workspace / "container.lock").write_text('{"images": {"local": {"image": "sha256:0"}}}')
    with pytest.raises(StateError, match="damaged"):
        image_of(runtime(folder), workspace)
    (workspace / "container.lock").unlink()
    with pytest.raises(StateError, match="nothing yet"):
        image_of(runtime(folder), workspace)


def _relink(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _swap(path: Path) -> None:
    """A file's place is taken by a link to the same bytes, which would be read from there from now on."""
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


#: What is done to an image -> what is told of it.
HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "change": (lambda image: (image / LIBRARY).write_text("x = 2\n"), "a (1).py was changed"),
    "remove": (lambda image: (image / LIBRARY).unlink(), "a (1).py"),
    "add": (lambda image: (image / "opt/venv/lib/sitecustomize.py").write_text(""), "lib/sitecustomize.py"),
    "add link": (lambda image: _relink(image / "opt/venv/sitecustomize.py", "/tmp/x"), "venv/sitecustomize.py"),
    "add folder": (lambda image: _relink(image / "opt/venv/lib/six", "/tmp"), "lib/six"),
    "add to Python": (lambda image: (image / "usr/lib/python3.11/six.py").write_text(""), "python3.11/six.py"),
    "add before Python": (lambda image: (image / "usr/lib/python311.zip").write_text(""), "python311.zip"),
    "interpreter": (lambda image: _relink(image / "opt/venv/bin/python", "/tmp/python"), "venv/bin/python was changed"),
    "link to file": (lambda image: _swap(image / "usr/lib/python3.11/os.py"), "os.py was changed"),
    "tree": (lambda image: _relink(image / "lib", "/tmp/lib"), "lib was changed"),
    "start": (
        lambda image: (image / "etc/python3.11/sitecustomize.py").write_text("x"),
        "sitecustomize.py was changed",
    ),
    "unlink": (lambda image: (image / "usr/lib/python3.11/sitecustomize.py").unlink(), "sitecustomize.py"),
    "base": (lambda image: (image / "usr/lib/libm.so").write_text("1.1"), "libm.so was changed"),
    "tree is gone": (lambda image: shutil.rmtree(image / "usr/local"), "usr/local/f"),
    "list": (lambda image: (image / "opt/pirepro/manifest.json").write_text('{"files": []}'), "list of files"),
    "absent": (lambda image: shutil.rmtree(image), "there is no"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_folder_that_was_altered_is_refused_outside_and_inside(workspace: Path, folder: Path, harm: str) -> None:
    image = image_of(runtime(folder), workspace)
    assert image is not None
    # Twice: the second look reads no file.
    assert [prologue(image, workspace).returncode for _ in range(2)] == [0, 0]
    check(image.manifest, full=True, root=folder)
    do, told = HARMS[harm]
    do(folder)
    for more in ({}, {"PIREPRO_FULL_CHECK": "1"}):
        done = prologue(image, workspace, **more)
        assert done.returncode == 3 and told in done.stderr
        assert "not the one that container.lock records" in done.stderr and "an image" in done.stderr
    with pytest.raises(StateError):
        check(image.manifest, full=True, root=folder)


def test_a_file_that_was_altered_is_refused(workspace: Path) -> None:
    image = image_of(runtime("i.squashfs"), workspace)
    assert image is not None
    assert prologue(image, workspace).returncode == 0
    (workspace / "i.squashfs").write_bytes(b"Squash" * 1000)
    done = prologue(image, workspace)
    assert done.returncode == 3 and "sha256 is " in done.stderr
    missing = prologue(Image("", "", "sif", "0" * 64, str(workspace / "no.sif")), workspace)
    assert missing.returncode == 3 and "no such file" in missing.stderr


def test_a_note_of_another_image_is_not_believed(workspace: Path) -> None:
    image = image_of(runtime("i.squashfs"), workspace)
    assert image is not None
    wrong = Image(image.digest, image.manifest, image.form, "0" * 64, image.path)
    assert prologue(image, workspace).returncode == 0
    assert prologue(wrong, workspace).returncode == 3
    # Content that changed below all times is found by a full check.
    note = next((workspace / ".pirepro/images/checked").iterdir())
    note.write_text(note.read_text().replace(image.form_sha256, "0" * 64))
    assert prologue(wrong, workspace).returncode == 0
    assert prologue(wrong, workspace, PIREPRO_FULL_CHECK="1").returncode == 3


def test_the_inner_check_needs_nothing_that_is_installed() -> None:
    code = (
        "import sys; from pi_repro.provenance.image import check\n"
        "names = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "sys.exit(str(names - {'pi_repro', '__main__'}) if names - {'pi_repro', '__main__'} else 0)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_prologue_can_not_read_fails_the_build(folder: Path) -> None:
    (folder / 'opt/venv/a"b').write_text("")
    with pytest.raises(ValueError, match="can't be listed"):
        bake.write(folder / "list.json", folder, "0" * 64, [])


def test_builders_are_given_what_makes_the_same_bytes_twice() -> None:
    shared = [
        *("--build-context=wheels=.pirepro/wheels", "--build-arg=BASE=b", f"--build-arg=LOCK={'0' * 64}"),
        *("--tag=localhost/pirepro:x", "."),
    ]
    for tool in ("buildah", "podman"):
        assert maker.build_words(tool, "b", "0" * 64, "x") == [
            *(tool, "build", "--no-cache", "--isolation=chroot", "--timestamp=0"),
            *("--iidfile=.pirepro/images/x.id", *shared),
        ]
    # No engine that unpacks what it built can rewrite times, and the id that buildx writes is not the engine's.
    assert maker.build_words("docker", "b", "0" * 64, "x") == [
        *("docker", "buildx", "build", "--no-cache", "--network=none", "--build-arg=SOURCE_DATE_EPOCH=0"),
        *("--output=type=docker", "--provenance=false", *shared),
    ]
    assert flatten.words("sif", Path("d"), Path("i.sif")) == ["apptainer", "build", "--force", "i.sif", "d"]


def test_the_recorded_images_were_built_from_what_is_here() -> None:
    """Else `make image` takes its image for another one, and compares nothing."""
    files = {"lock": "requirements.lock", "dockerfile": "Dockerfile", "bake": "tools/bake.py"}
    for entry in json.loads((ROOT / "container.lock").read_text())["images"].values():
        assert {key: entry[key] for key in files} == {key: sha(ROOT / name) for key, name in files.items()}


def test_wheels_are_those_of_the_lock(tmp_path: Path) -> None:
    wheel = tmp_path / "six-1-py3-none-any.whl"
    wheel.write_bytes(b"six")
    lock = tmp_path / "requirements.lock"
    rows = [f"six==1 \\\n    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{sha(wheel)}"]
    rows += [f"idna==2 \\\n    --hash=sha256:{'2' * 64}"]
    lock.write_text("\n".join(rows) + "\n")
    assert maker.missing(lock, tmp_path) == ["idna"]
    words = maker.pip_words("python3", lock, tmp_path)
    assert {"--require-hashes", "--only-binary=:all:", "--no-deps", "--python-version=3.11"} <= set(words)


def test_a_base_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    reference, pinned = maker.base_of(None, "buildah")
    assert reference == pinned and "@sha256:" in pinned
    with pytest.raises(RequestError, match="pinned by its digest"):
        maker.base_of("python:3.11-slim", "buildah")


def _archive(path: Path, tags: list[str] | None, config: bytes = b"{}", name: str | None = None) -> str:
    name = name or f"{hashlib.sha256(config).hexdigest()}.json"
    with tarfile.open(path, "w") as archive:
        rows = json.dumps([{"Config": name, "RepoTags": tags, "Layers": []}]).encode()
        for member, content in (("manifest.json", rows), (name, config)):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def test_a_base_in_an_archive_is_named_by_what_it_holds(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    for name in (f"{digest}.json", f"blobs/sha256/{digest}"):
        assert maker.base_of(_archive(tmp_path / "a", ["b:c"], name=name), "podman") == ("b:c", f"sha256:{digest}")
    (tmp_path / "text").write_text("no archive")
    with tarfile.open(tmp_path / "empty", "w"):
        pass
    wrong = [str(tmp_path / "text"), str(tmp_path / "empty"), _archive(tmp_path / "untagged", None)]
    for given in wrong:
        with pytest.raises(RequestError, match="not an archive of an image"):
            maker.base_of(given, "buildah")
    with pytest.raises(RequestError, match="not the one that its name tells"):
        maker.base_of(_archive(tmp_path / "other", ["b:c"], name=f"{'0' * 64}.json"), "buildah")
    with pytest.raises(RequestError, match="TOOL=buildah"):
        maker.base_of(_archive(tmp_path / "a", ["b:c"]), "docker")


def test_docker_s_image_is_asked_for_and_recorded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of docker's builds has another id; buildah's must not."""
    monkeypatch.chdir(tmp_path)
    for name in ("Dockerfile", "requirements.lock", "tools/bake.py"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, name)
    built = iter(range(9))
    ran: list[str] = []

    def output(command: Sequence[str]) -> str:
        assert command == ["docker", "image", "inspect", "--format", "{{.Id}}", "localhost/pirepro:x"]
        return f"sha256:{next(built)}"

    def run(words: Sequence[str], quiet: bool = False) -> None:
        ran.append(words[0])
        if words[0] == "buildah":
            Path(".pirepro/images").mkdir(parents=True, exist_ok=True)
            Path(".pirepro/images/x.id").write_text(f"sha256:{next(built)}\n")

    monkeypatch.setattr(maker, "_run", run)
    monkeypatch.setattr(maker, "_fetch", lambda: None)
    monkeypatch.setattr(maker, "SPACE_GB", 0)
    monkeypatch.setattr(maker, "ROOT", tmp_path)
    monkeypatch.setattr(maker, "version", lambda tool: "1")
    monkeypatch.setattr(flatten, "output", output)
    monkeypatch.setattr(flatten, "holds", lambda tool, image: False)
    made = flatten.Flattened("m", {"folder": "m"}, {}, {})
    monkeypatch.setattr(flatten, "flatten", lambda *_: made)
    record = tmp_path / "container.lock"
    options = maker._options(["--name", "x", "--record", str(record)])
    for tool, ids in (("docker", ("sha256:0", "sha256:1")), ("buildah", ("sha256:2",))):
        for digest in ids:
            maker._make(tool, "x", ("folder",), options)
            assert json.loads(record.read_text())["images"]["x"]["image"] == digest
    with pytest.raises(StateError, match="differs from the recorded one"):
        maker._make("buildah", "x", ("folder",), options)
    assert ran == ["docker", "docker", "buildah", "buildah"]


def test_a_form_is_kept_only_when_it_is_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = sha(folder / "opt/pirepro/manifest.json")
    exported: list[str] = []

    def export(tool: str, image: str, target: Path) -> None:
        exported.append(image)
        shutil.copytree(folder, target, symlinks=True)

    monkeypatch.setattr(flatten, "_export", export)
    for _ in range(2):
        flatten.flatten("buildah", "sha256:0", tmp_path / "made", ("folder",), {"folder": manifest}, print)
    assert len(exported) == 1
    (tmp_path / "made" / LIBRARY).write_text("x = 2\n")  # of the same size
    flatten.flatten("buildah", "sha256:0", tmp_path / "made", ("folder",), {"folder": manifest}, print)
    assert len(exported) == 2 and (tmp_path / "made" / LIBRARY).read_text() == "x = 1\n"


def test_a_flattened_image_can_be_read_and_changes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "usr/bin").mkdir(parents=True)
    (source / "usr/bin/su").write_text("")
    (source / "usr/bin/su").chmod(0o4755)
    tools = tmp_path / "tools"
    tools.mkdir()
    # What `podman export` writes: no entry for the top folder.
    (tools / "podman").write_text(f"#!/bin/sh\n[ $1 != export ] || exec tar --create --directory={source} usr\n")
    (tools / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    before = os.umask(0o077)
    try:
        flatten._export("podman", "sha256:0", tmp_path / "folder")
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "folder/usr/bin/su").stat().st_mode & 0o7777 == 0o755


def test_a_job_checks_its_image_outside_and_inside(
    workspace: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []

    def submit(log: Path, site: Site, ask: Ask, text: str) -> str:
        texts.append(text)
        return "7"

    monkeypatch.setattr(submission, "submit", submit)
    monkeypatch.setattr(capture, "git_state", lambda _: {})
    at = Site.model_validate({"name": "a", "here": (), "runtime": {"kind": "charliecloud", "image": str(folder)}})
    image = image_of(at.runtime, workspace)
    assert image is not None
    places = Places(workspace, workspace / "scratch", workspace / "store", workspace / "downloads", None)
    resources = {"gpus": 0, "parallel": 1, "workers": 0, "prefetch": 1, "checkpoint_every": 1}
    allowed = Resources.model_validate({**resources, "device_watts": 1.0, "grid_g_per_kwh": 0.0, "rates": {}})
    job = Job("draw@x", "draw", "ab" * 32, {"settings": {"mode": "exact"}}, {}, allowed, places)
    monkeypatch.setattr(runtimes, "_top", lambda path: path)  # the test's folder is none of a cluster's
    attempt = attempts.make(job.scratch, 1, "asked", "")
    assert attempt is not None
    SlurmRunner(at, places, image).submit(job, attempt)
    (text,) = texts
    assert shlex.join(image.prologue(workspace)) in text
    assert f"{inside.EXPECTED}={image.manifest}" in text and f"PIREPRO_IMAGE_DIGEST={image.digest}" in text


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--base", "python:3.11"], 2, "needs a name"),
        (["--base", "python:3.11", "--name", "A b"], 2, "not a name"),
        (["--forms", "zip"], 2, "not a form"),
    ],
)
def test_wrong_requests_start_nothing(
    arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a build was started")

    monkeypatch.setattr(maker, "_build", never)
    monkeypatch.chdir(ROOT)
    assert maker.main(arguments) == status
    assert text in capsys.readouterr().err
