"""The words that run a stage's Python inside a container, for every runtime that a site may name.

Rule: pure, and lists of words only, so that no value is ever read by a shell. Variables are set inside, by
/usr/bin/env, the same way for every runtime; the checkout and the folders of the site are seen inside at the
paths that they have outside. What SLURM tells each task gets in: apptainer, charliecloud and pyxis hand the
host's environment on, podman and docker are told the names.

Any other runtime is a command template. For pyxis, which adds options to srun (its image is a squashfs file):

    runtime:
      kind: template
      image: .pirepro/images/published.squashfs
      command: ["--container-image={image}", "--container-mounts={binds}", "--container-workdir={workdir}"]

Charliecloud mounts only where the image has a folder, unless told `--write-fake` (0.33 and newer), so the
first folder of each path is bound whole (/work for /work/me/pi_repro). A folder image is given what it lacks,
an empty folder at its root; a squashfs file can't be, so the Dockerfile makes those that clusters use. It passes
the GPUs' devices, but not the driver's libraries: `ch-fromhost --nvidia FOLDER` adds those once to a folder image.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pi_repro.errors import RequestError
from pi_repro.spec.site import Runtime

#: Python in the image (Dockerfile).
PYTHON: Final = "/opt/venv/bin/python"
SQUASHFS: Final = (".squashfs", ".sqfs", ".sqsh")
#: What SLURM tells a task that podman and docker are told to pass on, where it is set.
PASSED: Final = (
    *("CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
    *("SLURM_CPUS_PER_TASK", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_LOCALID"),
    *("SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"),
    *("SLURM_STEP_NODELIST", "SLURM_TASKS_PER_NODE"),
)
#: Folders of the image that a bound one would hide.
_OWN: Final = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "usr", "var"}
)
#: Started by this, with their number and names, a folder image has the mount points that it lacked.
_MOUNTABLE: Final = (
    "/bin/bash",
    "-c",
    'n=$1; mkdir -p -- "${@:2:n}" || { echo "this image can be given no mount point: use a folder of your own '
    '(make image FORMS=folder), or a checkout below /home, /scratch, /work, /data, ..." >&2; exit 3; }; '
    'shift $((n + 1)); exec "$@"',
    "bash",
)
#: Started by this, a parent survives the signals that tell its child to save.
_DEAF: Final = ("/bin/bash", "-c", 'trap "" TERM USR2; exec "$@"', "bash")


class User(NamedTuple):
    """Who runs: name and numbers."""

    name: str
    uid: int
    gid: int


def whoami() -> User:
    """The user of this process."""
    uid = os.getuid()
    try:
        return User(pwd.getpwuid(uid).pw_name, uid, os.getgid())
    except KeyError:  # a user of a directory that this host doesn't ask
        return User(str(uid), uid, os.getgid())


def python_of(runtime: Runtime) -> str:
    """The Python that runs stages: of the image, or of this process where there is none."""
    return runtime.python or (sys.executable if runtime.kind == "none" else PYTHON)


def wrap(
    runtime: Runtime,
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    binds: Sequence[Path],
    workdir: Path,
    gpus: bool = False,
    user: User | None = None,
) -> list[str]:
    """The command that runs `words` inside.

    Args:
        runtime: the site's.
        words: the command; the first is `python_of(runtime)`.
        environment: variables of the command, set inside.
        binds: folders seen inside at their own paths, beside the runtime's own.
        workdir: current folder inside, one of `binds` or below it (kind none: the caller's stays).
        gpus: whether it gets the node's GPUs.
        user: who runs; this process's user by default.

    Returns:
        words for srun; those of kind template may begin with options of srun.

    Raises:
        RequestError: for a path that the runtime can't bind.
    """
    if runtime.kind == "none":
        return _env((), environment, words)
    user = user or whoami()
    mounts = _mounts(runtime, binds)
    where, image = str(workdir), runtime.image or ""
    # The home folder may not be there inside, and matplotlib keeps a list of fonts.
    environment = {"MPLCONFIGDIR": f"{where}/.pirepro/matplotlib", **environment}
    # The host's Python is not the image's.
    inner = _env(("-u", "PYTHONHOME", "-u", "PYTHONPATH"), environment, words)
    if runtime.kind == "template":
        joined = ",".join(f"{host}:{inside}" for host, inside in mounts)
        values = {"{image}": image, "{workdir}": where, "{binds}": joined}
        return [*(_filled(word, values) for word in (*runtime.command, *runtime.options)), *inner]
    if runtime.kind == "apptainer":
        # Without --cleanenv: a task learns its rank from SLURM's variables.
        start = [runtime.program or "apptainer", "exec", "--no-home", *(["--nv"] if gpus else [])]
        for host, inside in mounts:
            start += ["--bind", f"{host}:{inside}"]
        return [*start, "--pwd", where, *runtime.options, image, *inner]
    if runtime.kind == "charliecloud":
        return _charliecloud(runtime, image, mounts, where, user, environment, words)
    start = [runtime.kind, "run", "--rm", "--pull=never", "--network=host", "--ipc=host", "--pid=host"]
    start += [f"--user={user.uid}:{user.gid}", "--security-opt=label=disable"]
    if runtime.kind == "podman":
        # Rootless, the user's own files stay the user's inside.
        start += ([] if user.uid == 0 else ["--userns=keep-id"]) + (["--device=nvidia.com/gpu=all"] if gpus else [])
    elif gpus:
        start.append("--gpus=all")
    start += [f"--env={name}" for name in PASSED]
    start += [f"--volume={host}:{inside}" for host, inside in mounts]
    return [*start, f"--workdir={where}", *runtime.options, image, *inner]


def _charliecloud(
    runtime: Runtime,
    image: str,
    mounts: Sequence[tuple[str, str]],
    where: str,
    user: User,
    environment: Mapping[str, str],
    words: Sequence[str],
) -> list[str]:
    # The host's libraries are not the image's.
    start = ["/usr/bin/env", f"USER={user.name}", "ch-run", "--unset-env=LD_*"]
    start += [f"--bind={host}:{inside}" for host, inside in mounts]
    start += [f"--cd={where}", *runtime.options, image, "--"]
    home = ("-u", "PYTHONHOME", "-u", "PYTHONPATH")
    if not image.endswith(SQUASHFS):
        points = [f"{image}{inside}" for _, inside in mounts if inside.count("/") == 1]
        return [*_MOUNTABLE, str(len(points)), *points, *start, *_env(home, environment, words)]
    # ch-run itself serves a squashfs file to its child, and SLURM signals both: it must outlive the request
    # to save, and the child must hear it.
    return [*_DEAF, *start, *_env(("--default-signal=TERM,USR2", *home), environment, words)]


def _env(options: Sequence[str], environment: Mapping[str, str], words: Sequence[str]) -> list[str]:
    return ["/usr/bin/env", *options, *(f"{name}={value}" for name, value in sorted(environment.items())), *words]


def _filled(word: str, values: Mapping[str, str]) -> str:
    """A template's word; a value that holds braces itself stays as it is."""
    parts, rest = "", word
    while rest:
        found = [(rest.find(mark), mark) for mark in values if mark in rest]
        if not found:
            break
        at, mark = min(found)
        parts, rest = parts + rest[:at] + values[mark], rest[at + len(mark) :]
    return parts + rest


def _mounts(runtime: Runtime, binds: Sequence[Path]) -> list[tuple[str, str]]:
    """(outside, inside) of every folder, each once, in the order given."""
    found: dict[tuple[str, str], None] = {}
    whole = runtime.kind == "charliecloud" and not {"-W", "--write-fake"} & set(runtime.options)
    for path in (str(bind) for bind in binds):
        if ":" in path:
            raise RequestError("a folder whose name holds ':' can't be bound", given=path, todo="rename or move it")
        top = _top(path) if whole else path
        found[(top, top)] = None
    for bind in runtime.binds:
        host, colon, inside = bind.partition(":")
        top = _top(host) if whole and not colon else host
        found[(top, inside or top)] = None
    for pair in found:
        # Lists of binds are joined by commas.
        if runtime.kind in ("apptainer", "template") and "," in "".join(pair):
            raise RequestError("a folder whose name holds ',' can't be bound", given=pair[0], todo="rename or move it")
    return list(found)


def _top(path: str) -> str:
    """The first folder of a path, which the image has a mount point for."""
    first = path.split("/")[1]
    if first in _OWN or not first:
        raise RequestError(
            "charliecloud can't bind this folder: the image has its own there",
            given=path,
            allowed="a folder below /home, /scratch, /work, /data, ... (Dockerfile), or charliecloud 0.33 or newer",
            todo="move it, or add --write-fake to the site's runtime.options",
        )
    return f"/{first}"
