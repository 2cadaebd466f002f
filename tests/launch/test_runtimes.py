"""Command lines of the runtimes, word by word as their manuals give them; what can run here runs in tests/cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import RequestError
from pi_repro.launch.runtimes import PASSED, User, python_of, wrap
from pi_repro.spec.site import Runtime

USER = User("ada", 1003, 100)
WORK, SCRATCH = Path("/work/ada/pi_repro"), Path("/scratch/ada")
CANARY = "a b;$(touch canary)'\"{image}"


def wrapped(kind: str, gpus: bool = False, **more: Any) -> list[str]:
    runtime = Runtime(kind=kind, **more)
    words = [python_of(runtime), "-m", "pi_repro.launch.worker", "/scratch/ada/f/job.json"]
    given = {"PYTHONPATH": str(WORK), "CANARY": CANARY}
    return wrap(runtime, words, environment=given, binds=[WORK, SCRATCH, WORK], workdir=WORK, gpus=gpus, user=USER)


#: What every container runs, whatever its runtime.
INSIDE = [
    *("/usr/bin/env", "-u", "PYTHONHOME", "-u", "PYTHONPATH"),
    *(f"CANARY={CANARY}", f"MPLCONFIGDIR={WORK}/.pirepro/matplotlib", f"PYTHONPATH={WORK}"),
    *("/opt/venv/bin/python", "-m", "pi_repro.launch.worker", "/scratch/ada/f/job.json"),
]


def test_none() -> None:
    assert wrapped("none", python="/usr/bin/python3.11") == [
        *("/usr/bin/env", f"CANARY={CANARY}", f"PYTHONPATH={WORK}"),
        *("/usr/bin/python3.11", "-m", "pi_repro.launch.worker", "/scratch/ada/f/job.json"),
    ]


def test_apptainer() -> None:
    # apptainer exec [exec options...] <container> <command>
    more = {"image": "/images/pi.sif", "binds": ("/data:/in",), "options": ("--writable-tmpfs",)}
    assert wrapped("apptainer", gpus=True, **more) == [
        *("apptainer", "exec", "--no-home", "--nv"),
        *("--bind", f"{WORK}:{WORK}", "--bind", f"{SCRATCH}:{SCRATCH}", "--bind", "/data:/in"),
        *("--pwd", str(WORK), "--writable-tmpfs", "/images/pi.sif", *INSIDE),
    ]
    assert "--nv" not in wrapped("apptainer", **more)
    # Singularity takes the same options.
    assert wrapped("apptainer", program="singularity", **more)[:3] == ["singularity", "exec", "--no-home"]


def test_podman() -> None:
    # podman run [options] image [command [arg ...]]
    expected = [
        *("podman", "run", "--rm", "--pull=never", "--network=host", "--ipc=host", "--pid=host"),
        *("--user=1003:100", "--security-opt=label=disable", "--userns=keep-id", "--device=nvidia.com/gpu=all"),
        *(f"--env={name}" for name in PASSED),
        *(f"--volume={WORK}:{WORK}", f"--volume={SCRATCH}:{SCRATCH}", f"--workdir={WORK}"),
        *("--ulimit=nofile=1024:1024", "localhost/pirepro:x", *INSIDE),
    ]
    more = {"image": "localhost/pirepro:x", "options": ("--ulimit=nofile=1024:1024",)}
    assert wrapped("podman", gpus=True, **more) == expected
    assert set(expected) - set(wrapped("podman", **more)) == {"--device=nvidia.com/gpu=all"}
    # Root's podman has no user's namespace to keep.
    root = wrap(
        Runtime(kind="podman", image="x"), ["p"], environment={}, binds=[], workdir=WORK, user=User("root", 0, 0)
    )
    assert "--user=0:0" in root and "--userns=keep-id" not in root


def test_docker() -> None:
    # docker run [OPTIONS] IMAGE [COMMAND] [ARG...]
    assert wrapped("docker", gpus=True, image="sha256:" + "a" * 64) == [
        *("docker", "run", "--rm", "--pull=never", "--network=host", "--ipc=host", "--pid=host"),
        *("--user=1003:100", "--security-opt=label=disable", "--gpus=all"),
        *(f"--env={name}" for name in PASSED),
        *(f"--volume={WORK}:{WORK}", f"--volume={SCRATCH}:{SCRATCH}", f"--workdir={WORK}"),
        *("sha256:" + "a" * 64, *INSIDE),
    ]


def test_charliecloud() -> None:
    # ch-run [OPTION...] IMAGE -- COMMAND [ARG...]
    start = ["/usr/bin/env", "USER=ada", "ch-run", "--unset-env=LD_*"]
    top = [*start, "--bind=/work:/work", "--bind=/scratch:/scratch", "--bind=/data:/mnt", f"--cd={WORK}"]
    folder = wrapped("charliecloud", gpus=True, image="/images/pi", binds=("/data:/mnt/in",))
    # A folder is given the mount points at its root that it lacks.
    made, words = folder[:4], folder[4:]
    assert made[:2] == ["/bin/bash", "-c"]
    points = ["2", "/images/pi/work", "/images/pi/scratch"]
    top[6] = "--bind=/data:/mnt/in"
    assert words == [*points, *top, "/images/pi", "--", *INSIDE]
    full = wrapped("charliecloud", image="/images/pi", options=("--write-fake",))[5:]
    assert full[4:8] == [f"--bind={WORK}:{WORK}", f"--bind={SCRATCH}:{SCRATCH}", f"--cd={WORK}", "--write-fake"]
    top[6] = "--bind=/data:/mnt"
    # With a file, ch-run stays as a parent: it is made deaf to what tells its child to save.
    deaf = ["/bin/bash", "-c", 'trap "" TERM USR2; exec "$@"', "bash"]
    assert wrapped("charliecloud", image="/images/pi.squashfs", binds=("/data:/mnt",)) == [
        *(*deaf, *top, "/images/pi.squashfs", "--", "/usr/bin/env", "--default-signal=TERM,USR2", *INSIDE[1:]),
    ]


def test_a_folder_image_is_given_its_mount_points_or_says_why_not(tmp_path: Path) -> None:
    image = tmp_path / "image $(touch canary)"
    (image / "work").mkdir(parents=True)
    words = wrapped("charliecloud", image=str(image))
    words[words.index("/usr/bin/env") :] = ["echo", "a  b", "$HOME"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "a  b $HOME\n" and {path.name for path in image.iterdir()} == {"work", "scratch"}
    (image / "work").rmdir()
    (image / "work").write_text("no folder")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and not done.stdout and "make image FORMS=folder" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {image.name}


def test_template_for_pyxis() -> None:
    # srun --container-image=PATH --container-mounts=SRC:DST[,SRC:DST...] --container-workdir=PATH COMMAND
    command = ("--container-image={image}", "--container-mounts={binds}", "--container-workdir={workdir}")
    assert wrapped("template", image="/i/{workdir}.sqsh", command=command, binds=("/d:/in",)) == [
        "--container-image=/i/{workdir}.sqsh",
        f"--container-mounts={WORK}:{WORK},{SCRATCH}:{SCRATCH},/d:/in",
        f"--container-workdir={WORK}",
        *INSIDE,
    ]


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("podman", "/work/a:b"), ("apptainer", "/work/a,b"), ("charliecloud", "/opt/data"), ("charliecloud", "/")],
)
def test_folders_that_can_not_be_bound(kind: str, folder: str) -> None:
    with pytest.raises(RequestError, match="can't"):
        wrap(Runtime(kind=kind, image="/i"), ["p"], environment={}, binds=[Path(folder)], workdir=WORK)
