"""Build the container image from the Dockerfile, flatten it, and record both in container.lock.

    make image                                     on the published base
    make image BASE=base.tar NAME=local-debian     on another: name@sha256:..., or what `docker save` wrote
    python -m tools.image --help                   all options, from the checkout

Rule: nothing is fetched but the base and the wheels that requirements.lock names, checked by hash; each file
appears under its name when it is whole; run again, it takes up what is there. Buildah and podman give the same
bytes twice: an image of theirs that differs from the recorded one, though made from the same inputs by the same
tool, is refused. Docker keeps the times of a build: its image has another id each time, and is recorded anew.
Exit status: 2 for a wrong request, 3 where this machine can't or the image is not the recorded one.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.files import sha256_file, write_atomic
from tools import flatten

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("buildah", "podman", "docker")
DOCKERFILE, BAKE, LOCK = Path("Dockerfile"), Path("tools/bake.py"), Path("requirements.lock")
# From the checkout, where every command runs: what is recorded names no folder of this machine.
WHEELS, IMAGES = Path(".pirepro/wheels"), Path(".pirepro/images")
PYTHON = "3.11"  # the image's, whatever runs this
#: Up to the C library of Debian 12.
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)), "manylinux2014_x86_64")
SPACE_GB = 25  # wheels 3, the build at its peak 16, then folder 6 and squashfs 3 beside layers of 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; returns the exit status."""
    options = _options(arguments)
    if options.base and Path(options.base).is_file():
        options.base = str(Path(options.base).resolve())
    options.record = options.record.resolve()
    os.chdir(ROOT)
    try:
        tool, name, forms = _request(options)
        IMAGES.mkdir(parents=True, exist_ok=True)
        with (IMAGES / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say("another build is running here: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            _make(tool, name, forms, options)
        return 0
    except PireproError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make image", description="Build, flatten and record the container image.")
    parser.add_argument("--base", help="name@sha256:DIGEST, or an archive by `docker save`; default: the Dockerfile's")
    parser.add_argument("--name", help="entry in container.lock; default: published, for the Dockerfile's base")
    parser.add_argument("--tool", choices=TOOLS, help="default: the first of them that works here")
    parser.add_argument("--forms", default="", help=f"comma-separated, of {', '.join(flatten.FORMS)}; default: all")
    parser.add_argument("--record", type=Path, default=ROOT / "container.lock", help="file that lists images")
    parser.add_argument("--fresh", action="store_true", help="build though the recorded image is there")
    parser.add_argument("--replace", action="store_true", help="record the image though it differs")
    return parser.parse_args(arguments)


def _request(options: argparse.Namespace) -> tuple[str, str, tuple[str, ...]]:
    """(tool, name, forms) to use; nothing is started before they are right."""
    if options.base and not options.name:
        raise RequestError("another base needs a name", todo="add NAME=..., the entry's name in container.lock")
    name = options.name or "published"
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise RequestError("not a name of an image", given=name, allowed="lower case, digits, '.', '-' and '_'")
    forms = flatten.chosen(options.forms)
    tool = options.tool or next((tool for tool in TOOLS if version(tool)), None)
    if tool is None or not version(tool):
        raise StateError(
            "nothing here builds images",
            given=tool or "none of them works",
            allowed="buildah, podman, or docker with buildx",
            todo="apt-get install buildah, or build on another machine and copy the flattened file",
        )
    base_of(options.base, tool)
    return tool, name, forms


def _make(tool: str, name: str, forms: Sequence[str], options: argparse.Namespace) -> None:
    reference, pinned = base_of(options.base, tool)
    entry: dict[str, Any] = {
        "base": pinned,
        "lock": sha256_file(LOCK),
        "dockerfile": sha256_file(DOCKERFILE),
        "bake": sha256_file(BAKE),
    }
    words = build_words(tool, reference if options.base else None, entry["lock"], name)
    entry["built"] = {"tool": tool, "version": version(tool), "arguments": words[1:]}
    record = json.loads(options.record.read_text()) if options.record.exists() else {"images": {}}
    before = record["images"].get(name, {})
    same = all(before.get(key) == value for key, value in entry.items())
    if same and not options.fresh and flatten.holds(tool, before["image"]):
        _say(f"{tool} has the recorded image {before['image']}")
        entry["image"] = before["image"]
    else:
        entry["image"] = _build(tool, words, options.base, name)
    if same and before["image"] != entry["image"] and tool != "docker" and not options.replace:
        raise StateError(
            "the image differs from the recorded one, though everything that went into it is the same",
            where=f"{options.record.name}, image {name}",
            given=entry["image"],
            allowed=before["image"],
            todo="find what varies between two builds, or accept this one with --replace",
        )
    known = before.get("forms", {}) if before.get("image") == entry["image"] else {}
    made = flatten.flatten(tool, entry["image"], IMAGES / name, forms, known, _say)
    entry |= {"manifest": made.manifest, "forms": known | made.forms}
    entry["flattened"] = (before.get("flattened", {}) if known else {}) | made.by
    record["images"][name] = entry
    write_atomic(options.record, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    _say(f"{name}: {entry['image']}, recorded in {options.record.name}")
    for form, path in made.paths.items():
        _say(f"  {form}: {path}")


def version(tool: str) -> str | None:
    """Of a builder that works here; None where it does not."""
    command = ["docker", "buildx", "version"] if tool == "docker" else [tool, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return None
    found = re.search(r"\bv?(\d+(?:\.\d+)+)", done.stdout)
    return found.group(1) if found and done.returncode == 0 else None


def base_of(given: str | None, tool: str) -> tuple[str, str]:
    """(word for FROM, what container.lock names) of a base; None is the Dockerfile's own.

    Raises:
        RequestError: where it is not pinned by its digest.
    """
    if given is None:
        found = re.search(r"^ARG BASE=(\S+@sha256:[0-9a-f]{64})$", DOCKERFILE.read_text(), re.MULTILINE)
        if not found:
            raise StateError("the Dockerfile's base is not pinned by a digest", where=f"{DOCKERFILE}, ARG BASE")
        return found.group(1), found.group(1)
    if re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", given):
        return given, given
    if not Path(given).is_file():
        raise RequestError(
            "a base is pinned by its digest", given=given, allowed="name@sha256:DIGEST, or an archive by `docker save`"
        )
    if tool == "docker":
        raise RequestError(
            "BuildKit does not see images that docker loaded", given=given, todo="use TOOL=buildah or TOOL=podman"
        )
    try:
        with tarfile.open(given) as archive:
            row = json.loads(_member(archive, "manifest.json"))[0]
            digest = hashlib.sha256(_member(archive, row["Config"])).hexdigest()
        reference = str(row["RepoTags"][0])
    except (tarfile.TarError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise RequestError(
            "not an archive of an image with a name",
            given=f"{given}: {error}",
            allowed="what `docker save NAME:TAG` or slurm/testcluster/base.sh writes",
        ) from None
    if digest != Path(row["Config"]).name.removesuffix(".json"):
        raise RequestError("the archive's configuration is not the one that its name tells", given=given)
    return reference, f"sha256:{digest}"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def build_words(tool: str, base: str | None, lock: str, name: str) -> list[str]:
    """The command that builds; buildah and podman write the image's id to .pirepro/images/NAME.id."""
    shared = [f"--build-context=wheels={WHEELS}", *([f"--build-arg=BASE={base}"] if base else [])]
    shared += [f"--build-arg=LOCK={lock}", f"--tag={_tag(name)}", "."]
    if tool == "docker":
        still = ["--build-arg=SOURCE_DATE_EPOCH=0", "--output=type=docker", "--provenance=false"]
        return ["docker", "buildx", "build", "--no-cache", "--network=none", *still, *shared]
    # chroot needs no privilege, and what a kernel offers does not enter the image.
    still = ["--isolation=chroot", "--timestamp=0", f"--iidfile={_iidfile(name)}"]
    return [tool, "build", "--no-cache", *still, *shared]


def _tag(name: str) -> str:
    return f"localhost/pirepro:{name}"


def _iidfile(name: str) -> Path:
    return IMAGES / f"{name}.id"


def pip_words(python: str, lock: Path, folder: Path) -> list[str]:
    """The command that fetches wheels for the image's Python, hashes checked."""
    words = [python, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    words += ["--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    words += [f"--platform={platform}" for platform in PLATFORMS]
    return [*words, f"--dest={folder}", f"--requirement={lock}"]


def missing(lock: Path, folder: Path) -> list[str]:
    """Locked packages that have no wheel of theirs in a folder, by the wheels' content."""
    there = {sha256_file(path) for path in folder.glob("*.whl")}
    rows = re.findall(r"^([A-Za-z0-9._-]+)==((?:[^\n]*\\\n)*[^\n]*)", lock.read_text(), re.MULTILINE)
    return [name for name, row in rows if not there & set(re.findall(r"sha256:([0-9a-f]{64})", row))]


def _build(tool: str, words: Sequence[str], base: str | None, name: str) -> str:
    """Returns the image's id."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < SPACE_GB:
        raise StateError("too little disk for a build", given=f"{free:.0f} GB free", allowed=f"{SPACE_GB} GB")
    _fetch()
    if base and Path(base).is_file():
        _say(f"loading {base} into {tool}")
        load = (
            ["load", "--quiet", "--input", base] if tool == "podman" else ["pull", "--quiet", f"docker-archive:{base}"]
        )
        _run([tool, *load], quiet=True)
    _say(f"building with {tool} {version(tool)} (some minutes)")
    _iidfile(name).unlink(missing_ok=True)
    _run(words)
    if tool == "docker":
        # What buildx writes to a file is a digest by which some engines don't find the image.
        return flatten.output(["docker", "image", "inspect", "--format", "{{.Id}}", _tag(name)])
    return _iidfile(name).read_text().strip()


def _fetch() -> None:
    WHEELS.mkdir(parents=True, exist_ok=True)
    lacking = missing(LOCK, WHEELS)
    if not lacking:
        return
    _say(f"fetching {len(lacking)} wheels (all are 3 GB)")
    python = sys.executable
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        venv.create(".pirepro/pip", with_pip=True)
        python = ".pirepro/pip/bin/python"
    # Kept until all are there, so that a download which was cut off goes on.
    cache = Path(".pirepro/pip-cache").resolve()
    _run([*pip_words(python, LOCK, WHEELS), f"--cache-dir={cache}"])
    shutil.rmtree(cache, ignore_errors=True)
    if lacking := missing(LOCK, WHEELS):
        raise StateError("pip did not fetch every wheel", given=", ".join(lacking), todo="run it again")


def _run(words: Sequence[str], quiet: bool = False) -> None:
    done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL if quiet else None)
    if done.returncode != 0:
        raise StateError(
            f"{words[0]} {words[1]} failed with status {done.returncode}",
            todo="the lines above say why; run it again and it takes up what is there",
        )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
