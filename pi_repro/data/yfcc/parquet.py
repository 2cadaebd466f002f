"""Rows of a parquet file of images and token ids, a few at a time.

Rule: memory does not grow with the file: columns are read through a small buffer, page after page, whatever the size
of the row groups. Types are checked before the first row; a value that is missing is None, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pi_repro.errors import StateError

from .settings import ColumnNames

_BATCH = 64
_BUFFER = 1 << 20


class Row(NamedTuple):
    """One row.

    Attributes:
        number: from 0, in the file.
        image: the image file's bytes.
        ids: token ids, int64, as stored.
        other: the plain values of the file's other columns, by name.
    """

    number: int
    image: bytes | None
    ids: np.ndarray | None
    other: dict[str, Any]


def batches(path: Path, columns: ColumnNames, where: str) -> Iterator[list[Row]]:
    """The rows of a file, in order.

    Args:
        path: the file.
        columns: its columns' names.
        where: what to call it in messages.

    Raises:
        StateError: no parquet file, damaged, or without such columns; names it.
    """
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, memory_map=False) as file:
            schema = file.schema_arrow
            _check(schema, columns, where)
            other = [each.name for each in schema if each.name not in (columns.image, columns.text) and _is_plain(each)]
            number = 0
            for batch in file.iter_batches(_BATCH, columns=[columns.image, columns.text, *other], use_threads=False):
                yield _rows(batch, columns, other, number)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise StateError("parquet file is damaged", where=where, given=" ".join(str(error).split())[:300]) from None


def _rows(batch: pa.RecordBatch, columns: ColumnNames, other: list[str], begin: int) -> list[Row]:
    images = batch.column(columns.image)
    if pa.types.is_struct(images.type):
        # The bytes alone: a path beside them need not be text. `field` does not say which structs are null.
        pairs = zip(images.field("bytes").to_pylist(), images.is_valid().to_pylist(), strict=True)
        images = [content if valid else None for content, valid in pairs]
    else:
        images = images.to_pylist()
    ids = _ids(batch.column(columns.text))
    values = [_values(batch.column(name)) for name in other]
    others = [dict(zip(other, row, strict=True)) for row in zip(*values, strict=True)] if other else [{}] * len(batch)
    return [Row(*row) for row in zip(range(begin, begin + len(batch)), images, ids, others, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """Plain values. One wrong byte in what somebody wrote is no reason to lose a file."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pylist()  # type: ignore[no-any-return]
    raw = column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary()).to_pylist()
    return [None if each is None else each.decode("utf-8", "replace") for each in raw]


def _ids(texts: pa.Array) -> list[np.ndarray | None]:
    """Each row's ids; None where there are none, or one of them is missing."""
    if pa.types.is_list(texts.type) and pa.types.is_integer(texts.type.value_type) and not texts.values.null_count:
        # All at once; the offsets of a slice begin where it begins.
        numbers = texts.values.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        ends, valid = texts.offsets.to_numpy(), texts.is_valid().to_numpy(zero_copy_only=False)
        return [numbers[ends[row] : ends[row + 1]] if valid[row] else None for row in range(len(texts))]
    return [_slowly(each) for each in texts]


def _slowly(value: pa.Scalar) -> np.ndarray | None:
    if not value.is_valid:
        return None
    found = value.values
    while not pa.types.is_integer(found.type):
        found = found.flatten()
    return None if found.null_count else found.to_numpy(zero_copy_only=False).astype(np.int64)


def _check(schema: pa.Schema, columns: ColumnNames, where: str) -> None:
    for name in (columns.image, columns.text, *([columns.photo_id] if columns.photo_id else [])):
        if schema.names.count(name) != 1:
            raise StateError(
                "parquet file has no such column", where=where, given=name, allowed=", ".join(schema.names)
            )
    image, text = schema.field(columns.image).type, schema.field(columns.text).type
    if pa.types.is_struct(image):
        image = image.field("bytes").type if image.get_field_index("bytes") >= 0 else image
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image) or pa.types.is_binary_view(image)):
        raise _unlike(where, columns.image, image, "binary, or a struct with binary `bytes`")
    inner = text
    while _is_list(inner):
        inner = inner.value_type
    if not _is_list(text) or not pa.types.is_integer(inner):
        raise _unlike(where, columns.text, text, "lists of integers: token ids")
    if columns.photo_id and not pa.types.is_integer(schema.field(columns.photo_id).type):
        raise _unlike(where, columns.photo_id, schema.field(columns.photo_id).type, "integers")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_plain(field: pa.Field) -> bool:
    kind = field.type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _unlike(where: str, column: str, kind: pa.DataType, allowed: str) -> StateError:
    return StateError(f"column {column} has another type", where=where, given=str(kind), allowed=allowed)
