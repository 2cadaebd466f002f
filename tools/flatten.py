"""An image as one file or folder, which container runtimes of clusters start from.

Rule: every file of the image is checked against the image's own list before a form gets its name, and what is
there already is kept when it is whole. No program in it changes its user. A squashfs file holds no time, owner
or name of this machine: the same image and the same mksquashfs give the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_repro.errors import RequestError, StateError
from pi_repro.files import sha256_file
from pi_repro.provenance import image as inside

#: Form -> the program that makes it.
FORMS = {"squashfs": "mksquashfs", "sif": "apptainer", "folder": "tar"}


@dataclass(frozen=True)
class Flattened:
    """What lies there now.

    Attributes:
        manifest: sha256 of the image's list of files.
        forms: form -> sha256; a folder's is that of its list.
        by: form -> program and version, of those made now.
        paths: form -> where it lies.
    """

    manifest: str
    forms: dict[str, str]
    by: dict[str, str]
    paths: dict[str, Path]


def chosen(given: str) -> tuple[str, ...]:
    """The forms asked for; none asked for: every file that programs here make, or a folder.

    Raises:
        RequestError: for an unknown form.
        StateError: for one whose program is not here.
    """
    asked = tuple(form for form in given.replace(" ", "").split(",") if form)
    for form in asked:
        if form not in FORMS:
            raise RequestError("not a form of an image", given=form, allowed=", ".join(FORMS))
        if not shutil.which(FORMS[form]):
            raise StateError(f"form {form} is made by {FORMS[form]}, which is not here", todo=f"install {FORMS[form]}")
    return asked or tuple(form for form in ("squashfs", "sif") if shutil.which(FORMS[form])) or ("folder",)


def holds(tool: str, image: str) -> bool:
    """Whether a tool has an image, named by its id."""
    inspect = ["inspect", "--type=image"] if tool == "buildah" else ["image", "inspect"]
    return subprocess.run([tool, *inspect, image], capture_output=True, check=False).returncode == 0


def flatten(
    tool: str,
    image: str,
    stem: Path,
    forms: Sequence[str],
    known: Mapping[str, str],
    say: Callable[[str], None],
) -> Flattened:
    """Make the forms that are not there.

    Args:
        tool: that has the image.
        image: its id, sha256:...
        stem: of the forms' paths; the folder has no suffix.
        forms: to make.
        known: form -> recorded sha256, of this very image.
        say: tells what goes on.

    Raises:
        StateError: when a program fails, or what comes out is not the image.
    """
    paths = {form: stem if form == "folder" else stem.with_name(f"{stem.name}.{form}") for form in forms}
    todo = [form for form, path in paths.items() if form not in known or _sha256(path) != known[form]]
    if not todo:
        return Flattened(known["folder"], {form: known[form] for form in ("folder", *forms)}, {}, paths)
    folder = stem
    if "folder" not in forms or "folder" in todo:
        folder = stem.with_name(f".part.{stem.name}")
        say("copying the image's files")
        _export(tool, image, folder)
    manifest = sha256_file(folder / inside.MANIFEST)
    inside.check(manifest, full=True, root=folder)
    made = {"folder": manifest}
    for form in forms:
        if form in todo and form != "folder":
            say(f"making {paths[form]}")
            part = stem.with_name(f".part.{paths[form].name}")
            part.unlink(missing_ok=True)
            _run(words(form, folder, part))
            os.replace(part, paths[form])
        if form != "folder":
            made[form] = sha256_file(paths[form])
    if folder != stem:
        _remove(stem if "folder" in todo else folder)
        if "folder" in todo:
            os.rename(folder, stem)
    return Flattened(manifest, made, {form: _version(FORMS[form]) for form in todo}, paths)


def words(form: str, folder: Path, target: Path) -> list[str]:
    """The command that makes a file from a folder."""
    if form == "sif":
        return ["apptainer", "build", "--force", str(target), str(folder)]
    still = ["-all-root", "-no-xattrs", "-all-time", "0", "-mkfs-time", "0"]
    pack = ["-comp", "zstd", "-Xcompression-level", "3"]
    return ["mksquashfs", str(folder), str(target), "-noappend", "-quiet", "-no-progress", *still, *pack]


def _export(tool: str, image: str, folder: Path) -> None:
    """The files of an image in a new folder, owned by who asks."""
    _remove(folder)
    folder.mkdir(parents=True)
    create = ["from", "--pull-never", image] if tool == "buildah" else ["create", "--pull=never", image, "true"]
    container = output([tool, *create])
    try:
        if tool != "buildah":
            pack = [tool, "export", container]
        elif os.getuid() == 0:
            pack = ["tar", "--create", f"--directory={output([tool, 'mount', container])}", "."]
        else:
            # Without root an image is mounted only inside the user's own namespace.
            tar = 'exec tar --create --directory="$IMAGE" .'
            pack = [tool, "unshare", "--mount", f"IMAGE={container}", "sh", "-c", tar]
        unpack = ["tar", "--extract", f"--directory={folder}", "--no-same-owner", "--same-permissions"]
        # Devices and what a running host provides are no files of an image.
        unpack += ["--anchored", *(f"--exclude={top}/*" for top in ("./dev", "dev", "./proc", "proc", "./sys", "sys"))]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as source:
            done = subprocess.run(unpack, stdin=source.stdout, check=False)
        if source.returncode != 0 or done.returncode != 0:
            raise StateError(
                f"{tool} could not hand out the image's files", given=image, todo="the lines above say why"
            )
        # A stream of podman's or docker's may lack the top folder, which then has this shell's umask.
        folder.chmod(0o755)
        # In an image these belong to root; in a folder that others can read, to who made it.
        _run(["find", str(folder), "-perm", "/6000", "-exec", "chmod", "ug-s", "{}", "+"])
    finally:
        subprocess.run([tool, "rm", container], capture_output=True, check=False)


def _sha256(path: Path) -> str | None:
    """Of a form that is there; a folder's is that of its list, once no file of it was changed."""
    if path.is_file():
        return sha256_file(path)
    if not (path / inside.MANIFEST).is_file():
        return None
    manifest = sha256_file(path / inside.MANIFEST)
    try:
        inside.check(manifest, full=True, root=path)
    except StateError:
        return None
    return manifest


def _remove(folder: Path) -> None:
    """A folder of an image, whose own folders may be read-only."""
    if folder.exists():
        shutil.rmtree(folder, onerror=_open_up)


def _open_up(function: Callable[[str], object], path: str, _: object) -> None:
    os.chmod(Path(path).parent, 0o700)
    if os.path.isdir(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path, onerror=_open_up)
    else:
        function(path)


def _version(program: str) -> str:
    option = "-version" if program == "mksquashfs" else "--version"
    first = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    found = re.search(r"\d+(?:\.\d+)+", first)
    return f"{program} {found.group() if found else 'of unknown version'}"


def output(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        StateError: when it fails.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise StateError(f"{command[0]} {command[1]} failed", given=command[-1], todo="the lines above say why")
    return done.stdout.strip()


def _run(command: Sequence[str]) -> None:
    # mksquashfs refuses its options on time beside this variable.
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise StateError(f"{command[0]} failed", todo="the lines above say why; run it again and it goes on from here")
