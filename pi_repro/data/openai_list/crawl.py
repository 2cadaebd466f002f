"""What img2dataset brought: its folder of tars (.jpg, .json) with a table of every address and what became of it.

Rule: tar and table number k answer for range k of the list, because the crawler was given the ranges in order; which
photograph a file is, is read from its own json member. A tar with others is refused. What the crawler did not
get is told with its own words, so that link rot is counted by kind.
"""

from __future__ import annotations

import json
import os
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pi_repro.data.sources.origin import Watch
from pi_repro.errors import StateError

from .images import LARGEST, Missing
from .joining import Range
from .listing import Photo

#: Options of the crawler: files as they are (the shards' own rule makes images smaller), and whose photograph each is.
_OPTIONS = {
    "input_format": "parquet",
    "url_col": "url",
    "output_format": "webdataset",
    "save_additional_columns": '["photo_id"]',
    "resize_mode": "no",
    "disable_all_reencoding": "True",
    "extract_exif": "False",
    "retries": "2",
}
_JSON_LIMIT = 1 << 20


def command(urls: Path, part_size: int) -> str:
    """What to type to have the photographs crawled."""
    options = {"url_list": str(urls), "output_folder": "OUT", **_OPTIONS, "number_sample_per_shard": str(part_size)}
    return "img2dataset " + " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())


@dataclass(frozen=True)
class Crawled:
    """The photographs of one range, as `Images` gives them.

    Attributes:
        tar: the crawler's tar.
        places: photo id -> where its file begins in the tar, and its size in bytes.
        reasons: photo id -> why there is none.
    """

    tar: Path
    places: Mapping[int, tuple[int, int]] = field(repr=False)
    reasons: Mapping[int, str] = field(repr=False)

    def image(self, photo: Photo, _watch: Watch) -> bytes:
        if photo.photo_id not in self.places:
            raise Missing(self.reasons.get(photo.photo_id, "not in the crawler's tar"))
        begin, size = self.places[photo.photo_id]
        with self.tar.open("rb") as file:
            content = os.pread(file.fileno(), size, begin)
        if len(content) != size:
            raise StateError("a crawler's tar ends too early", where=str(self.tar))
        return content


def of_range(folder: Path, part: Range, wanted: frozenset[int]) -> Crawled:
    """What the crawler brought of a range.

    Args:
        folder: the crawler's output folder.
        part: the range.
        wanted: its photographs' identifiers.

    Raises:
        StateError: the crawler has not finished the range, its tar is damaged, or it holds other photographs.
    """
    tar, table = folder / f"{part.name}.tar", folder / f"{part.name}.parquet"
    # The crawler writes the statistics last.
    if not (folder / f"{part.name}_stats.json").is_file() or not tar.is_file() or not table.is_file():
        raise StateError(
            "the crawler has not finished this range",
            where=str(tar),
            allowed=f"{part.name}.tar, {part.name}.parquet and {part.name}_stats.json",
            todo="run img2dataset again: it goes on where it stopped; then fetch again",
        )
    places = _places(tar)
    strangers = places.keys() - wanted
    if strangers:
        raise StateError(
            "a crawler's tar holds photographs of another range; it was given another list, or other options",
            where=str(tar),
            given=f"{len(strangers)} such, the first {min(strangers)}",
            todo="crawl again with the command that the fetch prints",
        )
    return Crawled(tar, places, _reasons(table))


def _places(path: Path) -> dict[int, tuple[int, int]]:
    """Photo id -> place of its image in a tar, by the json member of the same key."""
    images: dict[str, tuple[int, int]] = {}
    ids: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                if not member.isreg():
                    continue
                if extension == "json" and member.size <= _JSON_LIMIT:
                    content = tar.extractfile(member)
                    ids[key] = int(json.loads(content.read())["photo_id"]) if content else 0
                elif extension not in ("json", "txt") and member.size <= LARGEST:
                    images[key] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise StateError("a crawler's tar is damaged", where=str(path), given=str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise StateError(
            "a crawler's tar does not say which photograph a file is",
            where=str(path),
            allowed="a json member with photo_id",
            todo="crawl again with the command that the fetch prints",
        ) from None
    return {ids[key]: place for key, place in images.items() if key in ids}


def _reasons(path: Path) -> dict[int, str]:
    """Photo id -> what the crawler says of an address that gave nothing."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["photo_id", "status", "error_message"])
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise StateError("a crawler's table is damaged", where=str(path), given=str(error)) from None
    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    return {photo: f"{status}: {message}" for photo, status, message in rows if status != "success"}
