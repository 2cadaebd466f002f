"""Sources: what is downloaded is what the card pins, or nothing is."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi_repro.data.sources import Limits, Pin, downloads, downloads_folder, npm, obtain, pypi, read_members
from pi_repro.data.sources.client import run_client
from pi_repro.errors import Interrupted, RequestError, StateError
from pi_repro.spec.card import AT_FIRST_FETCH, Source

from .npm_registry import Registry, integrity, serve, tgz

WHEEL = {"toy/table.csv": b"1,2\n", "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with serve() as running:
        monkeypatch.setenv("npm_config_registry", running.url)
        monkeypatch.setattr(downloads, "BACK_OFF", (0.01, 0.01))
        yield running


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part-" in path.name]


def test_a_package_arrives_whole_and_is_kept(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("@scope/toy", "1.2.3", {"icons.json": b"{}"})
    first = obtain(source, tmp_path)
    assert read_members(first.path, lambda name: name == "icons.json") == {"icons.json": b"{}"}
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.bytes == source.bytes
    assert obtain(source, tmp_path) == first
    assert registry.downloads == ["@scope/toy@1.2.3"]
    assert leftovers(tmp_path) == []


def test_the_record_of_a_download_has_no_path(registry: Registry, tmp_path: Path) -> None:
    record = obtain(registry.add("toy", "1.2.3", {}), tmp_path).record()
    assert str(tmp_path) not in repr(record)
    assert record["licence"] == "MIT"


@pytest.mark.parametrize("illness", ["corrupt", "swapped", "truncated"])
def test_a_bad_download_is_fetched_again(registry: Registry, tmp_path: Path, illness: str) -> None:
    source = registry.add("toy", "1.2.3", {"data": b"x" * 50_000})
    registry.ill["toy"] = [illness]
    assert obtain(source, tmp_path).path.read_bytes() == registry.packages["toy@1.2.3"]
    assert len(registry.downloads) == 2
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("illness", ["corrupt", "swapped"])
def test_a_bad_package_is_refused_by_name_after_two(registry: Registry, tmp_path: Path, illness: str) -> None:
    source = registry.add("toy", "1.2.3", {"data": b"x" * 50_000})
    registry.ill["toy"] = [illness] * 9
    with pytest.raises(StateError, match=r"twice; it was not opened") as caught:
        obtain(source, tmp_path)
    message = str(caught.value)
    assert "npm package toy 1.2.3" in message
    assert Pin.parse(source.digest).hexdigest in message  # type: ignore[union-attr]
    assert "to do:" in message
    if illness == "swapped":
        assert "sha512 " in str(caught.value.given)
    # npm itself asks once more where the registry contradicts itself
    assert len(registry.downloads) == {"corrupt": 4, "swapped": 2}[illness]
    assert [path for path in tmp_path.iterdir() if path.suffix == ".tgz"] == []


def test_a_connection_that_always_breaks_is_given_up(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("toy", "1.2.3", {"data": os.urandom(200_000)})
    registry.ill["toy"] = ["truncated"] * 9
    with pytest.raises(StateError, match=r"toy 1\.2\.3"):
        obtain(source, tmp_path)
    assert 2 <= len(registry.downloads) <= 3
    assert leftovers(tmp_path) == []


def test_what_the_registry_does_not_have_is_not_asked_for_twice(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = registry.add("toy", "1.2.3", {})
    for locator, revision in (("other", "1.2.3"), ("toy", "9.9.9")):
        missing = source.model_copy(update={"locator": locator, "revision": revision})
        with caplog.at_level(logging.INFO), pytest.raises(StateError, match="does not offer") as caught:
            obtain(missing, tmp_path)
        assert f"{locator} {revision}" in str(caught.value)
    assert len([record for record in caplog.records if "downloading" in record.message]) == 2


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setattr(downloads, "BACK_OFF", (0.01, 0.01))
    content = tgz({"data": b"1"})
    source = Source(
        name="toy", kind="npm", locator="toy", revision="1.2.3", digest=integrity(content), bytes=1, licence="MIT"
    )
    with pytest.raises(StateError, match="cannot be downloaded") as caught:
        obtain(source, tmp_path)
    assert "npm pack toy@1.2.3" in (caught.value.todo or "")
    # what it says to do helps: a file copied by hand is taken, without a registry
    target = (caught.value.todo or "").rpartition(" as ")[2]
    Path(target).write_bytes(content)
    assert obtain(source, tmp_path).path == Path(target)


def test_a_damaged_cache_is_not_used(registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = registry.add("toy", "1.2.3", {"data": b"x" * 1000})
    path = obtain(source, tmp_path).path
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        assert obtain(source, tmp_path).path.read_bytes() == whole
    assert "damaged" in caplog.text


def test_leftovers_of_a_killed_process_are_removed(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("toy", "1.2.3", {})
    target = obtain(source, tmp_path).path
    target.unlink()
    rest = tmp_path / f".{target.name}.part-abc"
    rest.mkdir()
    (rest / "half.tgz").write_bytes(b"1")
    obtain(source, tmp_path)
    assert leftovers(tmp_path) == []


def test_two_processes_download_once(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("toy", "1.2.3", {"data": b"x" * 1000})
    registry.ill["toy"] = ["slow"]
    code = (
        "import sys; from pathlib import Path; from pi_repro.data.sources import obtain;"
        "from pi_repro.spec.card import Source;"
        "print(obtain(Source.model_validate_json(sys.argv[1]), Path(sys.argv[2])).sha256)"
    )
    command = [sys.executable, "-c", code, source.model_dump_json(), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert len(answers) == 1 and len(answers.pop().strip()) == 64
    assert registry.downloads == ["toy@1.2.3"]


def test_a_request_to_stop_ends_a_download(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("toy", "1.2.3", {})
    registry.ill["toy"] = ["slow"]
    asked = iter([False, False, False])
    with pytest.raises(Interrupted):
        obtain(source, tmp_path, should_stop=lambda: next(asked, True))
    assert leftovers(tmp_path) == []
    assert obtain(source, tmp_path).path.is_file()


def test_an_unknown_digest_is_recorded_and_then_holds(registry: Registry, tmp_path: Path) -> None:
    source = registry.add("toy", "1.2.3", {"data": b"x" * 1000}, digest=AT_FIRST_FETCH)
    first = obtain(source, tmp_path)
    assert obtain(source, tmp_path) == first
    assert len(registry.downloads) == 1
    first.path.write_bytes(b"other")
    assert obtain(source, tmp_path) == first
    assert len(registry.downloads) == 2
    first.path.with_name(first.path.name + ".sha256").write_bytes(b"")  # as a power cut leaves it
    assert obtain(source, tmp_path) == first
    assert len(registry.downloads) == 3


def test_nothing_is_written_to_the_home_folder(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.lower() in ("npm_config_cache", "npm_config_userconfig")]:
        monkeypatch.delenv(name)
    obtain(registry.add("toy", "1.2.3", {}), tmp_path / "downloads")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"locator": "../toy"},
        {"locator": "toy@1.0.0"},
        {"locator": "--registry=x"},
        {"revision": "^1.2.3"},
        {"revision": "latest"},
        {"kind": "http"},
        {"digest": "sha256-" + "A" * 88},
    ],
)
def test_malformed_sources_are_refused(tmp_path: Path, change: dict[str, str]) -> None:
    fields = {"name": "toy", "kind": "npm", "locator": "toy", "revision": "1.2.3", "digest": AT_FIRST_FETCH}
    source = Source(**{**fields, **change}, bytes=1, licence="MIT")  # type: ignore[arg-type]
    with pytest.raises(RequestError):
        obtain(source, tmp_path)


@pytest.mark.parametrize("revision", [">=1", "1.*", "1.0 ; x"])
def test_pypi_wants_an_exact_version(revision: str) -> None:
    with pytest.raises(RequestError):
        pypi.archive_name("toy", revision)


def wheel(folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in WHEEL.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.0.dist-info/RECORD", "")
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(downloads, "BACK_OFF", (0.01,))
    return folder


def test_a_wheel_is_downloaded_checked_and_read(index: Path, tmp_path: Path) -> None:
    digest = "sha256:" + hashlib.sha256(wheel(index)).hexdigest()
    source = Source(name="toy", kind="pypi", locator="toy", revision="1.0", digest=digest, bytes=1, licence="MIT")
    download = obtain(source, tmp_path / "cache")
    assert read_members(download.path, lambda name: name == "toy/table.csv") == {"toy/table.csv": b"1,2\n"}
    absent = source.model_copy(update={"revision": "2.0"})
    with pytest.raises(StateError, match="does not offer"):
        obtain(absent, tmp_path / "cache")
    wrong = source.model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(StateError, match="not what the card pins"):
        obtain(wrong, tmp_path / "cache")


def test_pip_is_found_without_pip() -> None:
    done = subprocess.run([*pypi.command(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pip ")


def test_npm_is_the_one_of_this_environment() -> None:
    assert all(Path(part).is_file() for part in npm.command())


def test_a_stuck_client_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi_repro.data.sources.client.PATIENCE", 0.3)
    with pytest.raises(Exception, match="no end after"):
        run_client([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, os.environ, lambda: False)


def test_the_cache_lies_beside_the_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        scratch = tmp_path / "scratch" / "fingerprint"

    monkeypatch.delenv("PIREPRO_DOWNLOADS", raising=False)
    assert downloads_folder(Here()) == tmp_path / "scratch" / "downloads"  # type: ignore[arg-type]
    monkeypatch.setenv("PIREPRO_DOWNLOADS", str(tmp_path / "elsewhere"))
    assert downloads_folder(Here()) == tmp_path / "elsewhere"  # type: ignore[arg-type]


# hostile and damaged archives


def tar_with(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


def member(name: str, size: int = 1, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


HOSTILE = {
    "climbs out": [member("package/../../etc/passwd")],
    "absolute": [member("/etc/passwd")],
    "backslash": [member("package\\..\\x")],
    "control letter": [member("package/a\nb")],
    "drive": [member("C:/x")],
    "outside its folder": [member("x")],
    "symbolic link": [member("package/a", 0, tarfile.SYMTYPE, "/etc/passwd")],
    "hard link": [member("package/a"), member("package/b", 0, tarfile.LNKTYPE, "package/a")],
    "device": [member("package/a", 0, tarfile.CHRTYPE)],
    "sparse file": [member("package/a", 0, tarfile.GNUTYPE_SPARSE)],
    "fifo": [member("package/a", 0, tarfile.FIFOTYPE)],
    "same name twice": [member("package/a"), member("package/a")],
    "same name spelled twice": [member("package/a"), member("package/./a")],
    "large member": [member("package/a", 2000)],
    "large sum": [member(f"package/{number}", 900) for number in range(40)],
    "many members": [member(f"package/{number}", 0) for number in range(60)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_tarball_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    path = tmp_path / "hostile.tgz"
    path.write_bytes(tar_with(*members))
    with pytest.raises(StateError, match=r"hostile\.tgz"):
        read_members(path, lambda _: True, Limits(member=1000, total=50_000, members=50))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\b", "link"])
def test_a_hostile_wheel_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (0o120777 if name == "link" else 0o100644) << 16
        archive.writestr(info, "x")
    with pytest.raises(StateError, match=r"hostile\.whl"):
        read_members(path, lambda _: False)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 100_000)
    with pytest.raises(StateError, match="too large"):
        read_members(path, lambda _: True, Limits(member=50_000))


@pytest.mark.parametrize("cut", [10, 100, -1, -8])
def test_a_cut_tarball_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.tgz"
    path.write_bytes(tgz({"a": os.urandom(5000)})[:cut])
    with pytest.raises(StateError, match=r"cut\.tgz"):
        read_members(path, lambda _: True)


def test_pins_know_both_spellings() -> None:
    content = b"text"
    assert Pin.parse(integrity(content)) == Pin("sha512", hashlib.sha512(content).hexdigest())
    assert Pin.parse("sha256:" + "ab" * 32) == Pin("sha256", "ab" * 32)
    assert Pin.parse(AT_FIRST_FETCH) is None
