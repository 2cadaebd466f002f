"""The hub as a source: commits, gates and tokens, listings in pages, and copies that its own client made."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi_repro.data.sources import Origin, RemoteFile, origin_of
from pi_repro.errors import RequestError, StateError
from pi_repro.spec.card import Source

from .servers import HubServer
from .test_transfer import _environment, context, source  # noqa: F401 - the fixture is for these tests too

FILES = {f"data/part-{number}.parquet": bytes([number]) * (5000 + number) for number in range(5)}
FILES |= {"README.md": b"# small\n", "empty.txt": b""}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name, content in FILES.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    datasets = {"org/set": tmp_path / "set", "org/gated": tmp_path / "set"}
    with HubServer(datasets, gated=("org/gated",), token="hf_accepted", page=3) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield server


def commit(hub: HubServer) -> str:
    return hub.main["datasets/org/set"]


def origin(tmp_path: Path, card: Source) -> Origin:
    return origin_of(card, context(tmp_path))


def test_all_files_of_a_pinned_commit_arrive_though_main_moved_on(hub: HubServer, tmp_path: Path) -> None:
    card = source("hub", "org/set")
    first = commit(hub)
    assert origin(tmp_path, card).record["revision"] == first  # main, once
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "README.md").write_text("other")
    hub.commit("org/set", tmp_path / "new")
    it = origin(tmp_path, card)
    files = it.files()
    assert [file.name for file in files] == sorted(FILES) and it.record["revision"] == first
    assert all((file.sha256 is not None) == (file.bytes is not None and file.bytes >= hub.lfs) for file in files)
    for file in files:
        it.obtain(file, tmp_path / "got" / file.name)
        assert (tmp_path / "got" / file.name).read_bytes() == FILES[file.name]
    assert it.read("data/part-3.parquet", 4999, 100) == bytes([3]) * 4
    hub.forget()
    again = origin(tmp_path, card)
    assert [again.obtain(file, tmp_path / "got" / file.name).bytes for file in again.files()]
    assert not hub.asked and not hub.cdn.asked


def test_a_gate_is_explained_and_the_token_stays_with_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    card = source("hub", "org/gated").model_copy(update={"how_to": "ask the authors"})
    it = origin(tmp_path, card)
    file, target = it.file("data/part-1.parquet"), tmp_path / "got"
    for token in (None, "hf_not_accepted"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        hub.forget()
        with pytest.raises(StateError, match="gated") as error:
            it.obtain(file, target)
        said = str(error.value)
        assert f"{hub.url}/datasets/org/gated" in said and "HF_TOKEN" in said and "ask the authors" in said
        assert len(hub.asked) == 1 and not target.exists()
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    it.obtain(file, target)
    assert target.read_bytes() == FILES["data/part-1.parquet"]
    assert hub.asked[-1].authorization == "Bearer hf_accepted"
    assert hub.cdn.asked and not any(asked.authorization for asked in hub.cdn.asked)
    written = caplog.text + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert not any(secret in written for secret in ("hf_accepted", "hf_not_accepted", "secret-signature"))


def test_a_password_in_the_endpoint_is_not_told(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = origin(tmp_path, source("hub", "org/gated").model_copy(update={"revision": hub.main["datasets/org/gated"]}))
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("://", "://me:hunter2@"))
    with pytest.raises(StateError, match="gated") as error:
        it.obtain(it.file("data/part-1.parquet"), tmp_path / "got")
    assert f"{hub.url}/datasets/org/gated" in str(error.value) and "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("locator", "revision", "problem"),
    [
        ("org/none", None, "no such dataset"),
        ("org/set", "0" * 40, "no longer has the pinned revision"),
    ],
)
def test_what_is_not_there_is_told_at_once(
    hub: HubServer, tmp_path: Path, locator: str, revision: str | None, problem: str
) -> None:
    card = source("hub", locator)
    with pytest.raises(StateError, match=problem):
        origin(tmp_path, card.model_copy(update={"revision": revision} if revision else {})).files()
    assert len(hub.asked) == 1


def test_a_mirror_with_another_commit_and_hostile_names_are_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = source("hub", "org/set").model_copy(update={"revision": commit(hub)})
    it = origin(tmp_path, card)
    file = it.file("README.md")
    real = HubServer._resolve

    def resolve(self: HubServer, request: Any, repo: str, _commit: str, *rest: Any) -> None:
        real(self, request, repo, "f" * 40, *rest)

    monkeypatch.setattr(HubServer, "_resolve", resolve)
    with pytest.raises(StateError, match="another revision") as error:
        it.obtain(file, tmp_path / "got")
    assert "f" * 40 in str(error.value) and not (tmp_path / "got").exists()
    entry = HubServer._entry
    monkeypatch.setattr(HubServer, "_entry", lambda self, name, path: {**entry(self, name, path), "path": "../evil"})
    with pytest.raises(StateError, match="name is refused"):
        origin(tmp_path / "other", card).files()
    with pytest.raises(RequestError):
        origin(tmp_path, source("hub", "no-owner"))


def test_small_files_are_held_against_gits_digest(hub: HubServer, tmp_path: Path) -> None:
    it = origin(tmp_path, source("hub", "org/set"))
    hub.faults.corrupt = {"README.md"}
    with pytest.raises(StateError, match="not what is expected, twice"):
        it.obtain(it.file("README.md"), tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_the_hubs_own_client_reads_this_server_and_its_copies_are_verified(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    name = "data/part-2.parquet"
    how: dict[str, Any] = {"repo_id": "org/set", "repo_type": "dataset", "endpoint": hub.url, "revision": commit(hub)}
    cached = Path(hf_hub_download(filename=name, cache_dir=tmp_path / "cache", **how))
    flat = Path(hf_hub_download(filename=name, local_dir=tmp_path / "flat", **how))
    assert cached.read_bytes() == flat.read_bytes() == FILES[name]
    card = source("hub", "org/set").model_copy(update={"revision": commit(hub)})
    hub.forget()
    for number, (root, path) in enumerate([(cached.parents[1], cached), (flat.parents[1], flat)]):
        monkeypatch.setenv("PIREPRO_FROM", json.dumps({"one": str(root)}))
        it = origin(tmp_path / str(number), card)
        assert [file.name for file in it.files()] == [name]
        target = tmp_path / f"got-{number}"
        assert it.obtain(it.file(name), target).linked and target.samefile(path)
        with pytest.raises(StateError, match="of another revision"):
            other = origin(tmp_path / str(number), card.model_copy(update={"revision": "a" * 40}))
            other.obtain(RemoteFile(name), target)
        real = path.resolve()
        real.write_bytes(FILES[name][:-9])  # a copy that was cut off, which nobody fetched before
        with pytest.raises(StateError, match="truncated"):
            fresh = origin(tmp_path / f"fresh-{number}", card)
            fresh.obtain(RemoteFile(name), tmp_path / "none")
    assert not hub.asked and not (tmp_path / "none").exists()
