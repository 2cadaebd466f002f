"""Archives whose bytes depend on names and contents alone: sorted entries, one date, one mode."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from pi_repro.files import files_under

#: The first date that the format knows.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
#: Compressed already, or numbers that do not compress.
_STORED: Final = {".png", ".safetensors", ".zip"}


def write_zip(folder: Path, target: Path) -> None:
    """Write all files of a folder, and entries for the folders between.

    zlib's version decides how text is compressed; with another one the content alone is the same.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for path in files_under(folder):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            entry.compress_type = zipfile.ZIP_STORED if path.suffix in _STORED else zipfile.ZIP_DEFLATED
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
        # Folders are entities of a crate, so readers look for entries of their own.
        for name in sorted({f"{name}/" for path in archive.namelist() for name in _parents(path)}):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, (0o40755 << 16) | 0x10
            archive.writestr(entry, b"")


def _parents(path: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(path).parents][:-1]
