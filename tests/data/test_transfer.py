"""Every kind of source against a server of this machine, which fails as real ones and networks do.

Whatever happens, a file is whole and right under its name or not there; and what is there is not asked for again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi_repro.data.sources import Obtained, Origin, Patience, RemoteFile, Watch, origin_of
from pi_repro.data.sources.partial import arriving
from pi_repro.data.sources.stream import About, Stream
from pi_repro.errors import Interrupted, StateError
from pi_repro.spec.card import AT_FIRST_FETCH, Source

from .servers import Faults, FaultyProxy, FileServer, HubServer

CONTENT = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE: dict[str, float] = {
    "first_wait": 0.02,
    "longest_wait": 0.1,
    "tries": 4,
    "gain": 1,
    "block": 65536,
    "journal": 0.01,
    "parallel_from": 1 << 20,
}
KINDS = ("http", "wds-http", "hub", "wds-hub", "objects")


def context(folder: Path) -> Any:
    """What a stage would give; a process of its own can be given the same."""
    return SimpleNamespace(
        scratch=folder / "scratch" / "stage",
        out=folder / "out",
        log=logging.getLogger("pirepro"),
        progress=lambda *_: None,
        should_stop=lambda: False,
    )


@dataclass
class Rig:
    """A source whose file `name` has CONTENT, and the server that it comes from.

    Attributes:
        fault: the file's name as the server's faults call it.
        change: gives the file other content at the origin; for a hub as a new commit.
    """

    folder: Path
    source: Source
    server: FileServer
    name: str
    fault: str
    change: Callable[[bytes], None]

    def origin(self) -> Origin:
        return origin_of(self.source, context(self.folder))

    @property
    def target(self) -> Path:
        return self.folder / "got" / "file.tar"

    def obtain(self, watch: Watch | None = None) -> Obtained:
        origin = self.origin()
        return origin.obtain(origin.file(self.name), self.target, watch or Watch())

    def with_card(self, **fields: object) -> Rig:
        self.source = self.source.model_copy(update=fields)
        return self

    def is_right(self) -> bool:
        left = {path.name for path in self.target.parent.iterdir()}
        return self.target.read_bytes() == CONTENT and left == {self.target.name}


def source(kind: str, locator: str) -> Source:
    pins = {"revision": AT_FIRST_FETCH, "digest": AT_FIRST_FETCH, "bytes": None}
    return Source(name="one", kind=kind, locator=locator, licence="own", **pins)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "AWS_", "PIREPRO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIREPRO_PATIENCE", json.dumps(PATIENCE))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    kind = request.param
    origin = tmp_path / "origin"
    name = "0.tar" if kind in ("http", "objects") else "test/0.tar"
    (origin / name).parent.mkdir(parents=True)
    (origin / name).write_bytes(CONTENT)
    (origin / "test").mkdir(exist_ok=True)
    (origin / "test" / "nshards.txt").write_text("1")
    with ExitStack() as stack:
        if kind in ("http", "wds-http"):
            server = stack.enter_context(FileServer(origin))
            card = source("http", f"{server.url}/0.tar") if kind == "http" else source("wds", server.url)

            def rewrite(content: bytes) -> None:
                (origin / name).write_bytes(content)

            yield Rig(tmp_path, card, server, name, name, rewrite)
        elif kind in ("hub", "wds-hub"):
            hub = stack.enter_context(HubServer({"org/set": origin}))
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            card = source(kind.partition("-")[0], "org/set")
            if kind == "hub":
                card = card.model_copy(update={"revision": hub.main["datasets/org/set"]})

            def new_commit(content: bytes) -> None:
                (tmp_path / "new" / "test").mkdir(parents=True)
                (tmp_path / "new" / name).write_bytes(content)
                old = hub.main["datasets/org/set"]
                hub.revisions["datasets/org/set"].pop(old)
                hub.commit("org/set", tmp_path / "new")

            yield Rig(tmp_path, card, hub, name, name, new_commit)
        else:
            import boto3  # type: ignore[import-untyped]
            import s3fs  # type: ignore[import-untyped]

            proxy = stack.enter_context(FaultyProxy(request.getfixturevalue("moto")))
            for key, value in {"ENDPOINT_URL": proxy.url, "ACCESS_KEY_ID": "AKIASECRET", "REGION": "us-east-1"}.items():
                monkeypatch.setenv(f"AWS_{key}", value)
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
            monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # the driver's own, before ours
            s3fs.S3FileSystem.clear_instance_cache()
            bucket, client = f"b{time.monotonic_ns()}", boto3.client("s3")
            client.create_bucket(Bucket=bucket)

            def put(content: bytes) -> None:
                client.put_object(Bucket=bucket, Key="set/0.tar", Body=content)

            put(CONTENT)
            yield Rig(tmp_path, source("objects", f"s3://{bucket}/set/"), proxy, "0.tar", f"{bucket}/set/0.tar", put)


every = pytest.mark.parametrize("rig", KINDS, indirect=True)
web = pytest.mark.parametrize("rig", ["http"], indirect=True)


@every
def test_connections_cut_twenty_times_end_right_and_a_second_fetch_asks_for_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(rig.source.kind)
    cuts = [rng.randrange(1, 60_000) for _ in range(20)]
    if rig.source.kind == "objects":  # a driver gives a block or nothing, so a cut one brought nothing
        monkeypatch.setenv("PIREPRO_PATIENCE", json.dumps({**PATIENCE, "streams": 1}))
        cuts = [cut for pair in zip(cuts, [-1] * 20, strict=True) for cut in pair]
    rig.server.faults.cuts = cuts
    told: list[int] = []
    got = rig.obtain(Watch(advance=told.append))
    assert (got.sha256, got.bytes, got.linked) == (SHA256, len(CONTENT), False)
    assert rig.is_right() and not rig.server.faults.cuts and sum(told) == len(CONTENT)
    assert rig.server.sent < 1.6 * len(CONTENT)  # each cut was resumed, not begun anew
    rig.server.forget()
    assert rig.obtain() == got and not rig.server.asked and not rig.server.sent


# A folder of a web server has no digests before the first fetch.
@pytest.mark.parametrize("rig", [kind for kind in KINDS if kind != "wds-http"], indirect=True)
def test_wrong_bytes_are_refused_by_name_and_never_named(rig: Rig) -> None:
    if rig.name == "0.tar":
        single = rig.source.kind == "objects"
        rig.with_card(digest=f"sha256:{SHA256}", locator=rig.source.locator + ("0.tar" if single else ""))
    rig.server.faults.corrupt = {rig.fault}
    with pytest.raises(StateError, match="not what is expected, twice") as error:
        rig.obtain()
    assert SHA256 in str(error.value) and not list(rig.target.parent.iterdir())
    rig.server.faults.corrupt = set()
    assert rig.obtain().sha256 == SHA256 and rig.is_right()


@every
def test_a_file_that_is_damaged_later_is_fetched_again(rig: Rig) -> None:
    rig.obtain()
    damaged = bytearray(CONTENT)
    damaged[1_000_000] ^= 1
    rig.target.write_bytes(damaged)
    rig.obtain()
    assert rig.is_right()


@every
def test_what_changed_since_the_first_fetch_is_refused(rig: Rig) -> None:
    rig.obtain()
    rig.target.unlink()
    rig.change(CONTENT[:-1] + b"!")
    with pytest.raises(StateError) as error:
        rig.obtain()
    assert "changed" in str(error.value) or "no longer has the pinned revision" in str(error.value)
    assert not rig.target.exists() and "into the card" in str(error.value)


@every
def test_a_truncated_file_is_refused(rig: Rig) -> None:
    if rig.source.kind == "http":
        rig.with_card(bytes=len(CONTENT))
    elif not isinstance(rig.server, HubServer):
        rig.obtain()  # only the first fetch tells how long it is
        rig.target.unlink()
    rig.server.faults.truncate = {rig.fault: 2_000_000}
    if isinstance(rig.server, FaultyProxy):
        rig.change(CONTENT[:2_000_000])
    with pytest.raises(StateError, match="another size"):
        rig.obtain()
    assert not rig.target.exists()


@every
def test_later_is_waited_for_and_never_is_not(rig: Rig) -> None:
    rig.server.faults.refuse = [(429, "1"), (503, "0")]
    began = time.monotonic()
    assert rig.obtain().sha256 == SHA256
    # An object store's driver asks again by itself, and waits as it likes.
    assert rig.source.kind == "objects" or time.monotonic() - began > 0.9
    assert not rig.server.faults.refuse, "both refusals were met"
    rig.server.forget()
    origin = rig.origin()
    with pytest.raises(StateError):
        origin.obtain(RemoteFile("test/gone.tar"), rig.target.with_name("gone.tar"))
    assert len(rig.server.asked) <= 2 and not rig.target.with_name("gone.tar").exists()


@every
def test_a_server_that_never_gets_well_is_given_up_and_gone_on_with_later(rig: Rig) -> None:
    origin = rig.origin()
    file = origin.file(rig.name)
    rig.server.faults.cuts = [500_000, *[0] * 400] if rig.source.kind != "objects" else [0] * 400
    with pytest.raises(StateError, match="what has arrived is kept"):
        origin.obtain(file, rig.target)
    assert not rig.target.exists()
    rig.server.faults.cuts = []
    rig.server.forget()
    assert rig.obtain().sha256 == SHA256 and rig.is_right()
    assert rig.source.kind == "objects" or rig.server.sent < len(CONTENT) - 300_000


STABLE = """
import json, os, pathlib, resource, sys
import pi_repro.data.sources.http, pi_repro.data.sources.hub, s3fs
from tests.data.test_transfer import context
from pi_repro.data.sources import origin_of
from pi_repro.spec.card import Source
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        os.environ.update(asked["environment"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
        try:
            origin = origin_of(Source.model_validate(asked["source"]), context(pathlib.Path(asked["folder"])))
            said = origin.obtain(origin.file(asked["name"]), pathlib.Path(asked["target"])).sha256
        except BaseException as error:
            said = str(error)
        os.write(1, (json.dumps(said) + "\\n").encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.write(1, b"end\\n")
"""


@dataclass
class Children:
    """Processes that fetch and may be killed, forked from one that has loaded everything."""

    stable: subprocess.Popen[str]

    def start(self, rig: Rig, limit: int = -1) -> int:
        names = ("HF_ENDPOINT", "PIREPRO_PATIENCE")
        environment = {key: value for key, value in os.environ.items() if key in names or key.startswith("AWS_")}
        asked = {"environment": environment, "limit": limit, "name": rig.name, "source": rig.source.model_dump()}
        assert self.stable.stdin is not None
        self.stable.stdin.write(json.dumps({**asked, "folder": str(rig.folder), "target": str(rig.target)}) + "\n")
        self.stable.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.stable.stdout is not None
        return self.stable.stdout.readline().strip()

    def end(self) -> str:
        """What the process said; "" when it was killed before."""
        said = self.line()
        if said == "end":
            return ""
        assert self.line() == "end"
        return str(json.loads(said))


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    command = [sys.executable, "-c", STABLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stable:
        yield Children(stable)
        assert stable.stdin is not None
        stable.stdin.close()


@pytest.mark.parametrize("rig", ["http", "hub", "objects"], indirect=True)
def test_killed_at_random_it_goes_on_where_it_was(rig: Rig, children: Children) -> None:
    rng = random.Random(7)
    for kill in range(5):
        rig.server.forget()  # what is still being sent to the dead does not count
        wanted, end = rng.randrange(0, 350_000), time.monotonic() + 60
        rig.server.faults.hold = wanted + 100_000
        process = children.start(rig)
        notes = rig.target.with_name(f".{rig.target.name}.part.json")
        while time.monotonic() < end and (rig.server.sent < wanted or (kill == 4 and not notes.exists())):
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert children.end() == "" and not rig.target.exists()
    rig.server.forget()
    rig.server.faults.hold = None
    children.start(rig)
    assert children.end() == SHA256 and rig.is_right()
    assert rig.server.sent <= len(CONTENT) - 65536 + 10


@web
def test_a_full_disk_is_told_before_and_during_and_loses_nothing(rig: Rig, children: Children) -> None:
    children.start(rig, limit=1_000_000)
    assert "limit on it is reached" in children.end() and not rig.target.exists()
    if os.geteuid() != 0:
        return
    rig.target.parent.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(rig.target.parent)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        other = rig.target.parent / "other"
        other.write_bytes(bytes(2_000_000))
        with pytest.raises(StateError, match="not enough room"):
            rig.obtain()
        other.unlink()

        def fill(_count: int) -> None:
            with other.open("ab") as file, suppress(OSError):
                file.write(bytes(1_200_000))

        rig.server.faults.slow = 0.01
        with pytest.raises(StateError, match="disk is full"):
            rig.obtain(Watch(advance=fill))
        assert not rig.target.exists()
        other.unlink()
        assert rig.obtain().sha256 == SHA256 and rig.is_right()
    finally:
        subprocess.run(["umount", str(rig.target.parent)], check=True)


def test_what_was_written_and_not_yet_noted_is_not_asked_for_twice(tmp_path: Path) -> None:
    block, blocks, halt = 1 << 16, 40, threading.Event()
    with arriving(tmp_path / "a", block, lambda: False) as partial:
        partial.begin(block * blocks, "v")
        assert partial.room() == block * blocks
        partial.write(0, bytes(block * 6), halt)
        partial.save()
        partial.write(block * 6, bytes(block * 20), halt)  # the disk is full here: the journal stays as it was
        os.fsync(partial._handle)
    with arriving(tmp_path / "a", block, lambda: False) as partial:
        partial.begin(block * blocks, "v")
        assert partial.arrived == block * 6
        assert block * 13 <= partial.room() <= block * 14, "what a file system takes beside is its own"
        partial.begin(block * blocks, "another")
        assert partial.room() == block * blocks


def test_a_kill_just_after_a_file_got_its_name_leaves_nothing_for_ever(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"whole")
    journal = tmp_path / ".a.part.json"
    journal.write_text("{}")
    with arriving(target, 4, lambda: False):
        pass
    assert sorted(tmp_path.iterdir()) == [target]


@web
def test_versions_are_never_mixed(rig: Rig) -> None:
    other = CONTENT[::-1]
    rig.server.faults.change = {rig.fault: (5, other)}
    told: list[int] = []
    got = rig.obtain(Watch(advance=told.append))
    assert rig.target.read_bytes() == other and got.sha256 == hashlib.sha256(other).hexdigest()
    assert sum(told) == len(other), "what was given up counts no more"


def test_a_writer_that_waits_for_the_disk_writes_nothing_once_its_transfer_was_given_up(tmp_path: Path) -> None:
    supply: Any = SimpleNamespace(what="a test", stream=lambda *_: nullcontext(iter([b"old!", b"old!"])))
    with arriving(tmp_path / "a", 4, lambda: False) as partial:
        partial.begin(8, "old")
        stream = Stream(supply, About(8, "old", ranges=True), partial, True, Patience())
        stream.work.append((0, 8))
        worker = threading.Thread(target=stream._worker)
        with partial._lock:
            worker.start()
            time.sleep(0.2)  # it has its first bytes by now, and waits
            stream.halt.set()
        worker.join()
        assert partial.arrived == 0


@web
@pytest.mark.parametrize(
    "faults",
    [
        Faults(no_ranges=True, cuts=[400_000, 1_000]),
        Faults(no_versions=True, cuts=[400_000, 1_000]),
        Faults(no_length="chunked", cuts=[400_000, 1_000]),
    ],
    ids=["no ranges", "no versions", "chunked"],
)
def test_poorer_servers_are_begun_anew(rig: Rig, faults: Faults) -> None:
    rig.server.faults = faults
    assert rig.obtain().sha256 == SHA256 and rig.is_right()


@web
@pytest.mark.parametrize("no_total", [False, True])
def test_an_end_that_cannot_be_told_from_a_cut_is_refused(rig: Rig, no_total: bool) -> None:
    rig.server.faults = Faults(no_length="open", no_total=no_total)
    with pytest.raises(StateError, match="neither how long the file is nor where it ends"):
        rig.obtain()
    rig.with_card(digest=f"sha256:{SHA256}")
    rig.server.faults.cuts = [100_000]
    assert rig.obtain().sha256 == SHA256 and rig.is_right()


@web
def test_a_stop_keeps_what_came(rig: Rig) -> None:
    seen: list[int] = []
    rig.server.faults.slow = 0.01
    with pytest.raises(Interrupted):
        rig.obtain(Watch(advance=seen.append, should_stop=lambda: sum(seen) > 1_000_000))
    assert not rig.target.exists()
    rig.server.forget()
    rig.obtain()
    assert rig.is_right() and rig.server.sent < len(CONTENT) - 500_000


@web
def test_too_long_a_wait_is_no_wait(rig: Rig) -> None:
    rig.server.faults.refuse = [(503, "7200")]
    with pytest.raises(StateError, match="come back in 7200 s"):
        rig.obtain()


@web
def test_two_at_once_fetch_it_once(rig: Rig) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: rig.obtain(), range(2))
    assert first == second and rig.is_right() and rig.server.sent < len(CONTENT) + 10


def test_netrc_and_proxy_are_honoured_and_passwords_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "a.bin").write_bytes(CONTENT)
    with FileServer(tmp_path / "origin", user=("me", "hunter2")) as server, FileServer(tmp_path / "origin") as other:
        rig = Rig(tmp_path, source("http", f"{server.url}/a.bin"), server, "a.bin", "a.bin", lambda _: None)
        with pytest.raises(StateError, match="netrc"):
            rig.obtain()
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
        # A proxy is asked for the whole URL; nothing else here knows the host.
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        (tmp_path / "netrc").write_text("machine data.example login me password hunter2\n")
        server.faults.cuts = [1000]
        rig.source = source("http", "http://data.example/a.bin?signature=s3cret")
        rig.obtain()
        assert rig.is_right() and server.asked[-1].path.startswith("http://data.example/a.bin")
        # Whoever is redirected elsewhere does not get them.
        server.faults.redirect = {"a.bin": f"{other.url}/a.bin"}
        rig.target.unlink()
        rig.obtain()
        assert other.sent >= len(CONTENT) and not any(asked.authorization for asked in other.asked)
    everything = caplog.text + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "hunter2" not in everything and "s3cret" not in everything and "going on" in caplog.text


def test_a_local_copy_is_verified_and_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "mine" / "0.tar"
    copy.parent.mkdir()
    copy.write_bytes(CONTENT)
    monkeypatch.setenv("PIREPRO_FROM", json.dumps({"one": str(copy.parent)}))
    server = FileServer(tmp_path)  # never started
    rig = Rig(tmp_path, source("http", "http://data.example/0.tar"), server, "0.tar", "", lambda _: None)
    got = rig.obtain()
    assert got.linked and rig.target.samefile(copy) and got.sha256 == SHA256
    assert str(tmp_path) not in json.dumps(rig.origin().record)
    assert rig.obtain() == got
    copy.write_bytes(CONTENT[:-5])
    with pytest.raises(StateError, match="changed since"):
        rig.obtain()
    rig.with_card(digest=f"sha256:{SHA256}")
    with pytest.raises(StateError, match="truncated"):
        rig.obtain()
