"""The two files of a dataset's index, written column by column.

Rule: the bytes are those of safetensors' own `save`, but no more than one piece of one column is in memory, so an
index of any length is written in the same memory. index.json comes last: a folder with one is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi_repro.data.shards import INDEX, ROWS
from pi_repro.files import sync_folder, write_json

#: numpy's name of a type -> safetensors' name, in the order in which its files hold them: largest first.
_TYPES = {"int64": "I64", "int32": "I32", "uint8": "U8"}


def write_columns(
    path: Path, dtypes: Mapping[str, np.dtype[Any]], count: int, pieces: Callable[[str], Iterable[np.ndarray]]
) -> str:
    """Write columns of equal length as a safetensors file.

    Args:
        path: the file; it is absent or as it was until it is whole.
        dtypes: the columns and their types: int64, int32 or uint8.
        count: rows of each.
        pieces: gives a column's values, in order.

    Returns:
        sha256 of the file.
    """
    order = sorted(dtypes, key=lambda name: (list(_TYPES).index(str(dtypes[name])), name))
    entries, end = {}, 0
    for name in order:
        begin, end = end, end + count * dtypes[name].itemsize
        entries[name] = {"dtype": _TYPES[str(dtypes[name])], "shape": [count], "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:

            def put(content: bytes) -> int:
                digest.update(content)
                return file.write(content)

            put(len(header).to_bytes(8, "little") + header)
            for name in order:
                written = sum(put(piece.astype(dtypes[name], copy=False).tobytes()) for piece in pieces(name))
                if written != count * dtypes[name].itemsize:
                    raise ValueError(f"column {name} has another length than {count}")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return digest.hexdigest()


def write_index(
    folder: Path,
    about: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    members: Sequence[str],
    dtypes: Mapping[str, np.dtype[Any]],
    pieces: Callable[[str], Iterable[np.ndarray]],
) -> None:
    """Write index.safetensors, then index.json.

    Args:
        folder: the dataset's folder.
        about: name, kind, layout and, where it is not the name, home.
        shards: name, sha256, bytes and count of each tar.
        members: the columns that are members; the integer columns are among `dtypes`.
        dtypes: all columns of the rows and their types.
        pieces: gives a column's values, in order.
    """
    count = sum(shard["count"] for shard in shards)
    places = {f"{member}.{what}" for member in members for what in ("offset", "size")}
    extra = sorted(set(dtypes) - places - {"shard"})
    digest = write_columns(folder / ROWS, dtypes, count, pieces)
    columns = {"count": count, "members": sorted(members), "columns": sorted(members) + extra}
    index = {**about, **columns, "shards": [dict(shard) for shard in shards], "index_sha256": digest}
    write_json(folder / INDEX, index)
