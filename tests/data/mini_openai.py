"""OpenAI's list in miniature: sixty photographs, the metadata that knows them among others, a bucket that lost some."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
from pyarrow import parquet

from pi_repro.spec.card import Card

from .mini_yfcc import picture

LISTED, PART = 60, 20
#: Places in the list -> why there is no pair.
GONE = {4: "HTTP 404", 33: "HTTP 404", 47: "HTTP 403"}
BROKEN = {8: "image cannot be decoded"}
SILENT = {15: "no caption"}
UNKNOWN = {52: "no metadata"}
LOST = {**GONE, **BROKEN, **SILENT, **UNKNOWN}
COLUMNS = (
    *("photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description"),
    *("usertags", "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename"),
    *("licenseurl", "serverid", "farmid", "secret", "secretoriginal", "ext", "marker"),
)


def photo_id(place: int) -> int:
    """Neither in the order of the list nor in that of the metadata."""
    return 6_000_000_000 + (place * 37) % 1_000


def digest(place: int) -> str:
    return hashlib.md5(str(place).encode()).hexdigest()


def title(place: int) -> str:
    return "" if place in SILENT else f"Photo {place}: caf\u00e9 + bar, 100% \u65e5\u672c"


def description(place: int) -> str:
    address = "https://example.org/a?b=c"
    return (
        ""
        if place in SILENT or place % 3 == 0
        else f'Seen\nfrom <b>the</b> <a href="{address}">hill</a> {address} &amp; back'
    )


def text(place: int) -> str:
    """The caption that the stated rule gives."""
    if place % 3 == 0:
        return title(place)
    return f"{title(place)}. Seen from the hill & back"


def metadata_row(place: int) -> list[str]:
    """The 23 fields of a photograph, encoded as the real ones."""
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "photoid": str(photo_id(place)),
        "uid": f"{place}@N00",
        "unickname": quote_plus(f"Ren\u00e9 {place}"),
        "title": quote_plus(title(place)),
        "description": quote_plus(description(place)),
        "pageurl": f"http://photos.example/{place}",
        "downloadurl": f"http://files.example/{place}.jpg",
        "licensename": quote_plus("Attribution-NonCommercial License"),
        "licenseurl": "http://creativecommons.org/licenses/by-nc/2.0/",
        "marker": "0",
    }
    return list(row.values())


def write_list(path: Path) -> Path:
    lines = "".join(f"{1_000 + place * 5}\t{photo_id(place)}\t{digest(place)}\n" for place in range(LISTED))
    path.write_bytes(bz2.compress(lines.encode()))
    return path


def write_metadata(path: Path, form: str) -> Path:
    """Three hundred photographs in an order of their own; `form`: bz2, txt or sql."""
    places = sorted((place for place in range(300) if place not in UNKNOWN), key=lambda place: place * 91 % 300)
    rows = [metadata_row(place) for place in places]
    if form == "sql":
        with sqlite3.connect(path) as database:
            database.execute(f"CREATE TABLE yfcc100m_dataset ({', '.join(COLUMNS)})")
            marks = ", ".join("?" * len(COLUMNS))
            database.executemany(f"INSERT INTO yfcc100m_dataset VALUES ({marks})", rows)
        database.close()
        return path
    numbered = ([str(place), row[0], digest(place), *row[1:]] for place, row in zip(places, rows, strict=True))
    content = "".join("\t".join(row) + "\n" for row in numbered).encode()
    path.write_bytes(bz2.compress(content) if form == "bz2" else content)
    return path


def image(place: int) -> bytes:
    content = picture(place)
    return content[: len(content) // 3] if place in BROKEN else content


def write_bucket(folder: Path) -> Path:
    """In the layout of the Multimedia Commons, without what is gone."""
    for place in range(LISTED):
        if place not in GONE:
            name = digest(place)
            path = folder / name[:3] / name[3:6] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image(place))
    return folder


def crawl(urls: Path, folder: Path) -> Path:
    """What img2dataset 1.47 makes of the addresses: tar, table and statistics for each of its files, in no order."""
    folder.mkdir()
    place_of = {photo_id(place): place for place in range(LISTED)}
    for number, path in enumerate(sorted(urls.glob("*.parquet"))):
        rows = parquet.read_table(path).to_pylist()
        table: list[dict[str, Any]] = []
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for at in sorted(range(len(rows)), key=lambda at: at * 7 % 20):
                row, place = rows[at], place_of[rows[at]["photo_id"]]
                lost = place in GONE or not row["url"]
                about = {**row, "key": f"{number:05d}{at:04d}", "status": "failed_to_download" if lost else "success"}
                about["error_message"] = "HTTP Error 404: Not Found" if lost else None
                table.append(about)
                if lost:
                    continue
                assert row["url"] == f"http://files.example/{place}.jpg"
                for extension, content in (("jpg", image(place)), ("json", json.dumps(about, indent=4).encode())):
                    entry = tarfile.TarInfo(f"{about['key']}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        parquet.write_table(pa.Table.from_pylist(table), folder / f"{number:05d}.parquet")
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": len(rows)}))
    return folder


def card(listing: str, metadata: str, bucket: str, *, kind: str = "http", **settings: Any) -> Card:
    """The real card's form, its sources elsewhere."""
    source = {"revision": "recorded at first fetch", "digest": "recorded at first fetch", "bytes": None, "licence": "x"}
    return Card.model_validate(
        {
            "name": "mini-openai",
            "kind": "pairs",
            "title": "Mini",
            "description": "For tests.",
            "licence": "none",
            "fetcher": "yfcc15m_openai",
            "location": "site",
            "sources": [
                {"name": "list", "kind": "http", "locator": listing, **source},
                {"name": "metadata", "kind": "http", "locator": metadata, **source},
                {"name": "images", "kind": kind, "locator": bucket, **source},
            ],
            "settings": {
                "captions": "raw",
                "text": {"fields": ["title", "description"], "longest": 200},
                "images": "bucket",
                "photographs": LISTED,
                "part_size": PART,
                "missing_allowed": 0.2,
                **settings,
            },
            "count": LISTED,
            "disk_bytes": 1_000_000,
            "files": 10,
        }
    )
