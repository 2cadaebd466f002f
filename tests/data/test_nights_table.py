"""The table of NIGHTS and its archives: what is taken from them, and what is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from pi_repro.data.nights.archive import Archive, Limits, RangedFile, check_png, locate
from pi_repro.data.nights.disclosure import categories
from pi_repro.data.nights.table import count, kept, read_table
from pi_repro.errors import StateError

from .mini_nights import HEAD, MiniNights, member, noise, write_zip

MINI = MiniNights()
GOOD = "7,0,1,6,ref/000/006.png,distort/000/006_1.png,distort/000/006_0.png,test,True,An image of a tench"


def table(*lines: str, head: str = ",".join(HEAD)) -> bytes:
    return "\n".join((head, *lines, "")).encode()


def test_labels_paths_and_counts_are_those_of_the_table() -> None:
    rows = read_table(MINI.table, "data.csv")
    for row, truth in zip(rows, MINI.rows, strict=True):
        assert (row.id, row.votes, row.label) == tuple(int(truth[name]) for name in ("id", "votes", "right_vote"))
        assert (row.ref, row.left, row.right) == tuple(truth[f"{name}_path"] for name in ("ref", "left", "right"))
        assert (row.split, row.is_imagenet) == (truth["split"], truth["is_imagenet"] == "True")
        assert f"An image of a {row.category}" == truth["prompt"]
    assert {row.right.endswith("_0.png") for row in rows} == {True, False}, "the miniature swaps sides"
    shards = kept(rows, 6)
    assert sorted(row.id for row in shards) == [int(row["id"]) for row in MINI.kept]
    assert 0 < len(shards) < len(rows)
    found = count(shards)
    assert found["test"] == found["test_imagenet"] + found["test_no_imagenet"] > found["test_imagenet"] > 0
    assert sum(found[split] for split in ("train", "val", "test")) == len(shards)


@pytest.mark.parametrize("order", [1, -1])
def test_a_category_of_two_data_sets_is_told_as_such(order: int) -> None:
    lines = [GOOD, GOOD.replace("7,", "8,", 1).replace("True", "False").replace("test,", "train,")][::order]
    found = categories(read_table(table(*lines), "data.csv"))
    assert found == {"tench": {"is_imagenet": True, "imagenet": 1, "train": 1, "val": 0, "test": 1}}


def test_columns_are_found_by_name_and_numbers_as_pandas_writes_them() -> None:
    order = [3, 9, 0, 2, 1, 8, 7, 6, 5, 4]
    cells = ["7.0", "0.0", "1.0", *GOOD.split(",")[3:8], "1", '"An image of an ""apple, red"""']
    moved = table(",".join(cells[place] for place in order), head=",".join(HEAD[place] for place in order))
    (row,) = read_table(b"\xef\xbb\xbf" + moved, "data.csv")
    assert (row.key, row.label, row.is_imagenet, row.category) == ("000007", 1, True, '"apple, red"')
    assert (row.left, row.right) == ("distort/000/006_1.png", "distort/000/006_0.png")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("7,0,1,", "7,1,1,", "line 2: the votes are not complementary"),
        ("7,0,1,", "7,0.5,0.5,", "line 2, left_vote: not such a number"),
        ("7,", "seven,", "line 2, id: not such a number"),
        (",6,", ",-6,", "line 2, votes: not such a number"),
        (",test,", ",test_imagenet,", "line 2, split: no such split"),
        (",True,", ",yes,", "line 2, is_imagenet: not a truth value"),
        ("ref/000", "/ref/000", "line 2, ref_path: path is refused"),
        ("distort/000/006_1", "distort/../006_1", "line 2, left_path: path is refused"),
        ("006_1.png", "006_0.png", "two images of the triplet are one file"),
        (",An image", ",,An image", "another number of cells"),
        (GOOD, f"{GOOD}\n{GOOD}", "ids are there twice"),
        ("right_vote", "right_votes", "look for right_vote"),
        ("prompt", "votes", "has one twice"),
        ("tench", "tench\udcff", "the table is damaged"),
    ],
)
def test_rows_that_mean_nothing_are_refused_by_line(before: str, after: str, says: str) -> None:
    content = table(GOOD).decode().replace(before, after, 1).encode(errors="surrogateescape")
    with pytest.raises(StateError) as caught:
        read_table(content, "data.csv")
    assert says in str(caught.value)


def lying(path: Path, name: str, declared: int, field: int = 24) -> Path:
    """Make the directory of an archive declare another size of a member; field 20 is the packed one."""
    content = bytearray(path.read_bytes())
    place = content.rindex(name.encode()) - 46  # the record of the central directory
    assert content[place : place + 4] == b"PK\1\2"
    content[place + field : place + field + 4] = struct.pack("<I", declared)
    path.write_bytes(content)
    return path


def encrypted(path: Path, name: str) -> Path:
    content = bytearray(path.read_bytes())
    content[content.rindex(name.encode()) - 46 + 8] |= 1
    path.write_bytes(content)
    return path


HOSTILE = {
    "absolute": ("/etc/cron.d/x", b"x", {}, "would leave the archive"),
    "upwards": ("nights/../../x.png", b"x", {}, "would leave the archive"),
    "backslash": ("nights\\..\\x.png", b"x", {}, "would leave the archive"),
    "link": ("nights/ref/000/a.png", b"/etc/passwd", {"mode": 0o120777}, "a link or a device"),
    "device": ("nights/ref/000/a.png", b"", {"mode": 0o020666}, "a link or a device"),
    "twice": ("nights/data.csv", b"x", {}, "two members have one name"),
    "method": ("nights/a.png", b"x", {"compression": zipfile.ZIP_LZMA}, "packed in a way that is not read"),
    "bomb": ("nights/a.png", bytes(20 << 20), {}, "it unpacks to too much"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, content, options, says = HOSTILE[kind]
    path = MiniNights(triplets=3).write_zip(tmp_path / "a.zip", [(member(name, **options), content)])
    with pytest.raises(StateError, match=says) as caught:
        Archive(path, "nights.zip")
    assert ascii(name)[1:-1] in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == [path]


def test_sizes_hold_for_what_comes_out(tmp_path: Path) -> None:
    image = noise(16, (1,))
    with pytest.raises(StateError, match="an encrypted member") as caught:
        Archive(encrypted(write_zip(tmp_path / "e.zip", {"secret.png": image}), "secret.png"), "e.zip")
    assert "secret.png" in str(caught.value)
    for declared in (len(image) - 1, len(image) + 1):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path = write_zip(tmp_path / "l.zip", {}, [(member("liar.png", compression=method), image)])
            with Archive(lying(path, "liar.png", declared), "l.zip") as archive, pytest.raises(StateError) as caught:
                archive.read("liar.png")
            assert "l.zip, liar.png" in str(caught.value)
    with pytest.raises(StateError, match="members overlap"):
        Archive(lying(write_zip(tmp_path / "o.zip", {"over.png": image}), "over.png", 1 << 20, field=20), "o.zip")
    big = write_zip(tmp_path / "b.zip", {"big.png": image})
    with pytest.raises(StateError, match="a member is too large"):
        Archive(big, "b.zip", Limits(member=100))
    with pytest.raises(StateError, match="too many members"):
        Archive(big, "b.zip", Limits(members=0))
    damaged = bytearray(big.read_bytes())
    damaged[60] ^= 255
    big.write_bytes(damaged)
    with Archive(big, "b.zip") as archive, pytest.raises(StateError, match=r"a member of the archive is damaged"):
        archive.read("big.png")
    with pytest.raises(StateError, match="archive is damaged"):
        Archive(io.BytesIO(bytes(damaged[:-30])), "b.zip")


def test_only_png_files_of_bounded_size_are_images() -> None:
    image = noise(16, (2,))
    assert check_png(image, "x") is None
    assert "OSError" in str(check_png(image[:-200], "x"))
    with pytest.raises(StateError, match=r"x: a member is no PNG file"):
        check_png(b"\xff\xd8\xff\xe0" + image, "x")
    with pytest.raises(StateError, match="too many pixels"):
        check_png(image, "x", Limits(pixels=255))
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + image[24:29]
    with pytest.raises(StateError, match="too many pixels"):
        check_png(image[:12] + head + struct.pack(">I", zlib.crc32(head)) + image[33:], "x")


def test_a_member_is_the_path_that_its_name_ends_with(tmp_path: Path) -> None:
    paths = list(MINI.images)
    with Archive(MINI.write_zip(tmp_path / "n.zip"), "n.zip") as archive:
        assert locate(archive, [*paths, "ref/000/999.png"]) == {path: f"nights/{path}" for path in paths}
    MINI.write_chunks(tmp_path)
    with Archive(tmp_path / "ref" / "001.zip", "ref/001.zip") as archive:
        assert locate(archive, paths, "ref") == {f"ref/{name}": name for name in archive.names}
    both = write_zip(tmp_path / "two.zip", {"a/ref/0/1.png": b"", "b/ref/0/1.png": b""})
    with Archive(both, "two.zip") as archive, pytest.raises(StateError, match="two members could be one image"):
        locate(archive, ["ref/0/1.png"])


def test_the_table_is_read_out_of_an_archive_elsewhere_by_a_few_ranges(tmp_path: Path) -> None:
    content = MiniNights(triplets=400).write_zip(tmp_path / "n.zip").read_bytes()
    asked: list[int] = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        return content[start : start + length]

    with Archive(io.BufferedReader(RangedFile(read, len(content)), 1 << 14), "n.zip") as archive:
        assert archive.read("nights/data.csv") == MiniNights(triplets=400).table
    assert sum(asked) < len(content) / 4 and len(asked) < 12
