"""Run by the Dockerfile inside the image: compile what was installed, then list every file and link that computes.

Rule: standard library only, and the same bytes each time. Compiled files carry a hash of their source instead
of its time, and the list holds what stages run on: the environment, Python itself and the libraries below it.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from py_compile import PycInvalidationMode

ENVIRONMENT = "opt/venv"
#: What is listed; the rest of /etc, /home and the like are for runtimes to change.
TREES = (ENVIRONMENT, "bin", "etc/python3*", "lib", "lib64", "sbin", "usr/bin", "usr/lib", "usr/lib64", "usr/local")
#: The host's prologue reads paths line by line, without a JSON parser.
PLAIN = re.compile(r"[ !#-\[\]-~]+")


def main(lock: Path, expected: str, manifest: Path) -> int:
    """Compile, list, and write the manifest.

    Args:
        lock: requirements.lock, as it was installed from.
        expected: its sha256, as the image's label tells it.
        manifest: file to write.
    """
    found = digest(lock)
    if found != expected:
        print(f"the build argument LOCK is {expected!r}, and requirements.lock has sha256 {found}", file=sys.stderr)
        return 1
    stdlib = sysconfig.get_path("stdlib")
    for folder in (f"/{ENVIRONMENT}", stdlib):
        # False only says that some file is of another Python's grammar: torch brings one for 3.12.
        compileall.compile_dir(folder, quiet=2, force=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    # Python imports from a file of this name before it looks into its own folder.
    packed = f"{Path(stdlib).parent}/python{sysconfig.get_config_var('py_version_nodot')}.zip"
    write(manifest, Path("/"), found, [ENVIRONMENT, stdlib.lstrip("/"), packed.lstrip("/")])
    return 0


def write(manifest: Path, root: Path, lock: str, closed: list[str]) -> None:
    """Write the list: JSON, with one file a line.

    Args:
        manifest: file to write.
        root: of the image.
        lock: sha256 of requirements.lock.
        closed: trees, or files, that hold nothing besides what is listed.
    """
    trees = sorted(path.relative_to(root).as_posix() for pattern in TREES for path in root.glob(pattern))
    head = {"lock": lock, "python": platform.python_version(), "trees": trees, "closed": closed}
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(lambda path: row(path, root), entries(root, trees)))
    manifest.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{key}": {json.dumps(value)},\n' for key, value in head.items()]
    manifest.write_text("{" + "".join(lines) + '"files": [\n' + ",\n".join(rows) + "\n]}\n", encoding="ascii")


def entries(root: Path, trees: Iterable[str]) -> list[Path]:
    """Every plain file and every link of the trees, in order of paths; a tree may be a link itself."""
    found = []
    for tree in (root / name for name in trees):
        found += [tree] if tree.is_symlink() else []
        for folder, folders, names in os.walk(tree) if not tree.is_symlink() else ():
            found += [
                path for name in (*folders, *names) if (path := Path(folder, name)).is_symlink() or path.is_file()
            ]
    return sorted(found)


def row(path: Path, root: Path) -> str:
    """A file's line: path from the root, size in bytes, sha256; a link's: path, -1, where it leads."""
    name = path.relative_to(root).as_posix()
    size, what = (-1, os.readlink(path)) if path.is_symlink() else (path.stat().st_size, digest(path))
    if not PLAIN.fullmatch(name) or not PLAIN.fullmatch(what):
        raise ValueError(f"a file's name can't be listed: {name!r}, {what!r}")
    return f'["{name}", {size}, "{what}"]'


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
