"""Reading, writing and hashing of files: writes are atomic and durable, digests are sha256, JSON is canonical."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pi_repro.errors import StateError

_CHUNK = 1 << 20


def _plain(value: Any, where: str) -> Any:
    """The JSON form of a value; a value of unknown type would fork a fingerprint silently, so it raises."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} has no canonical form")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} has no canonical form")


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: naming the place of a value that JSON does not know.
    """
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that is either absent (or as it was) or whole, also after a power cut.

    Args:
        path: where; missing folders are made.
        content: all of it.
        mode: the file's permissions, whatever those of an earlier one were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, one field a line, so that people and `git diff` can read it."""
    text = json.dumps(_plain(value, "$"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StateError: when it is missing or damaged, by name.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StateError("file is missing", where=str(path)) from None
    except NotADirectoryError:
        file = next(each for each in path.parents if each.exists())
        todo = "name the stage's folder, not a file in it"
        raise StateError("expected a folder, found a file", where=str(file), given=file.name, todo=todo) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise StateError("file is damaged: no valid JSON", where=str(path), given=str(error)) from None


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_under(folder: Path) -> list[Path]:
    """All regular files below a folder, sorted by their relative POSIX path.

    Raises:
        StateError: on a link or special file, which an artifact never holds.
    """
    found = []
    for root, folders, names in os.walk(folder):
        for name in folders + names:
            entry = Path(root, name)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise StateError("an artifact holds only plain files", where=str(entry))
        found += [Path(root, name) for name in names]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def tree_digest(entries: Iterable[tuple[str, str]]) -> str:
    """Digest of a folder from its (relative path, sha256) rows, in any order."""
    return digest_of(sorted([path, digest] for path, digest in entries))


def path_digest(path: Path) -> str:
    """Content digest of a file or of a folder, read in full."""
    if path.is_dir():
        return tree_digest((f.relative_to(path).as_posix(), sha256_file(f)) for f in files_under(path))
    if path.is_file():
        return tree_digest([("", sha256_file(path))])
    raise StateError("input is missing", where=str(path))
