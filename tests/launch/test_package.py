"""The crate of an experiment: valid, the same bytes twice, anonymous where it is said to be, never half."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from pi_repro.errors import RequestError, StateError
from pi_repro.launch import anonymity, archive, crate, package, source
from pi_repro.launch.anonymity import Secrets
from pi_repro.launch.crate import Crate, File, Run
from pi_repro.launch.places import Places
from pi_repro.launch.places import find as find_places
from pi_repro.spec.loading import load

from .crate_validator import issues

ROOT = Path(__file__).parents[2]
CITATION = {
    "license": "Apache-2.0",
    "authors": [{"family-names": "Example", "given-names": "Ada"}],
    "preferred-citation": {
        "title": "A title",
        "authors": [{"family-names": "Other", "given-names": "Bo"}],
        "year": 2025,
        "identifiers": [{"type": "other", "value": "arXiv:2505.14204"}],
    },
}


def _git(root: Path, *arguments: str) -> str:
    person = ["-c", "user.name=Ada Example", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", str(root), *person, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "pi_repro").mkdir(parents=True)
    (root / "pi_repro" / "a.py").write_text("A = 1\n")
    (root / "private.txt").write_text("not needed\n")
    _git(root, "init", "-q")
    _git(root, "remote", "add", "origin", "git@host.example:ada/pi_repro.git")
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "begin")
    return root


def _record(name: str, commit: str | None = "c" * 40) -> dict[str, object]:
    return {
        "command": f"pirepro stage {name}",
        "fingerprint": "f" * 64,
        "begun": "2026-01-01T23:59:58Z",
        "wall_s": 3.0,
        "python": "3.11.7",
        "cpu": "A processor",
        "image": "sha256:" + "1" * 64,
        "slurm": {"SLURM_JOB_ID": "1"},
        "git": {"commit": commit, "dirty": False},
    }


def _made(folder: Path, citation: dict[str, object]) -> Path:
    """A small crate of two stages."""
    texts = {
        "params.json": "{}",
        "requirements.lock": "numpy==2\n",
        "specs/x.yaml": "name: x\n",
        "code/pi_repro-cccccccccccc.zip": "code",
        "artifacts/x/draw-s0/training.json": "{}",
        "results/x/pi-s0/a b@é.json": "{}",
        "provenance/draw@x-s0.json": "{}",
        "provenance/evaluate@x-pi-s0.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    runs = (
        Run("draw@x-s0", "artifacts/x/draw-s0", (), "0" * 64, _record("draw@x-s0")),
        Run("evaluate@x-pi-s0", "results/x/pi-s0", ("artifacts/x/draw-s0",), "1" * 64, _record("evaluate@x-pi-s0")),
    )
    files = tuple(File(name, "2" * 64, len(text), "A file") for name, text in sorted(texts.items()))
    code = {"c" * 40: "code/pi_repro-cccccccccccc.zip"}
    crate.write(Crate("x", "About x", "specs/x.yaml", files, runs, code, citation), folder)
    return folder


def test_the_metadata_is_valid_and_tells_the_runs(tmp_path: Path) -> None:
    folder = _made(tmp_path / "crate", CITATION)
    assert issues(folder, tmp_path) == []
    graph = {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}
    run = graph["#evaluate-at-x-pi-s0"]
    assert run["@type"] == "CreateAction" and "agent" not in run
    assert {"@id": "artifacts/x/draw-s0/"} in run["object"] and run["result"] == {"@id": "results/x/pi-s0/"}
    assert (run["startTime"], run["endTime"]) == ("2026-01-01T23:59:58+00:00", "2026-01-02T00:00:01+00:00")
    assert "c" * 40 in graph[run["instrument"]["@id"]]["version"]
    assert graph["./"]["datePublished"] == run["endTime"]
    assert graph["./"]["isBasedOn"] == {"@id": "https://arxiv.org/abs/2505.14204"}
    assert graph["params.json"]["sha256"] == "2" * 64 and graph["params.json"]["encodingFormat"] == "application/json"
    assert graph["code/pi_repro-cccccccccccc.zip"]["version"] == "c" * 40


def test_the_metadata_names_no_author_when_they_are_withheld(tmp_path: Path) -> None:
    citation = {key: value for key, value in CITATION.items() if key != "authors"}
    text = (_made(tmp_path, citation) / "ro-crate-metadata.json").read_text()
    assert "Example" not in text and "Other" not in text and crate.WITHHELD["name"] in text


def test_an_archive_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    names = ["b/two.txt", "a.txt", "b/picture.png"]
    for folder, order, age in (("one", names, 0), ("other", names[::-1], 86_400)):
        for name in order:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name * 100)
            path.chmod(0o600 if age else 0o644)
            os.utime(path, (1_700_000_000 + age,) * 2)
        archive.write_zip(tmp_path / folder, tmp_path / f"{folder}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as found:
        assert found.testzip() is None and sorted(found.namelist()) == ["a.txt", "b/", "b/picture.png", "b/two.txt"]


def test_code_is_the_commit_s_and_holds_no_id(checkout: Path, tmp_path: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")
    (checkout / "pi_repro" / "a.py").write_text("A = 2\n")
    (tmp_path / "crate").mkdir()
    found = source.pack(checkout, {"commit-1": commit, "commit-2": "0" * 40}, tmp_path / "crate", None)
    assert found == {"commit-1": "code/pi_repro-commit-1.zip"}
    content = (tmp_path / "crate" / found["commit-1"]).read_bytes()
    assert commit.encode() not in content and b"private" not in content
    with zipfile.ZipFile(tmp_path / "crate" / found["commit-1"]) as code:
        assert code.read("pi_repro/a.py") == b"A = 1\n"
    (checkout / "pi_repro" / "a.py").write_text("A = 3  # ada@example.org\n")
    _git(checkout, "commit", "-q", "-a", "-m", "signed")
    secrets = anonymity.gather(checkout, {})
    with pytest.raises(StateError, match=r"pi_repro/a\.py:1"):
        source.pack(checkout, {"commit-1": _git(checkout, "rev-parse", "HEAD")}, tmp_path / "crate", secrets)


def test_what_a_checkout_tells_of_people_is_known(checkout: Path) -> None:
    found = anonymity.gather(checkout, CITATION)
    texts = {text for _, text in found.words}
    assert {"Ada Example", "ada@example.org", "Example, Ada", "ada/pi_repro", str(checkout)} <= texts
    assert "root" not in texts, "half of all machines have a user of that name"
    assert found.commits == {_git(checkout, "rev-parse", "HEAD")}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ok\nwritten by ADA EXAMPLE.", "an author"),
        ("see /data/ada/run-3/log", "the workspace"),
        ('{"path": "/home/bo/x"}', "a home folder"),
        ("at commit 0123456789ab", "a commit"),
        ("at commit 0123456789abcdef0123456789abcdef01234567", "a commit"),
        ("https://example.org/home/page and Adaptive examples", None),
        ("digest 0123456789abcdef0123456789abcdef01234567890123456789abcdef012345", None),
        ("checksums 01234567 89abcdef", None),
    ],
)
def test_names_are_found_as_whole_words(text: str, what: str | None) -> None:
    words = (("an author", "Ada Example"), ("the workspace", "/data/ada"))
    found = anonymity.search(text, Secrets(words, frozenset({"0123456789abcdef0123456789abcdef01234567"})))
    assert (found[1] if found else None) == what


def test_a_file_that_names_somebody_is_refused_with_its_line(tmp_path: Path) -> None:
    secrets = Secrets((("an author", "Ada Example"),))
    (tmp_path / "report.md").write_text("# Report\n\nthanks to Ada Example\n")
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(256)))
    with pytest.raises(StateError, match=r"report\.md:3(.|\n)*Ada Example"):
        anonymity.check(tmp_path, secrets)
    (tmp_path / "report.md").rename(tmp_path / "Ada Example.md")
    with pytest.raises(StateError, match="the name of"):
        anonymity.check(tmp_path, secrets)


def test_withheld_commits_still_tell_who_shares_one() -> None:
    rows = [_record("a", "1" * 40), _record("b", "2" * 40), _record("c", "1" * 40), _record("d", None)]
    found = anonymity.provenance(rows)
    assert [row["git"]["commit"] for row in found] == ["commit-1", "commit-2", "commit-1", None]
    assert {row["image"] for row in found} == {"image-1"} and not any(row["slurm"] for row in found)
    assert rows[0]["slurm"], "the records given stay as they are"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A workspace in which nothing was run."""
    root = tmp_path / "ws"
    shutil.copytree(ROOT / "specs", root / "specs")
    for name in ("dvc.yaml", "requirements.lock", "CITATION.cff"):
        shutil.copyfile(ROOT / name, root / name)
    return find_places(root)


def test_an_incomplete_experiment_is_refused_by_its_stages(places: Places, tmp_path: Path) -> None:
    loaded = load(places.workspace / "specs" / "demo-tiny.yaml")
    with pytest.raises(StateError, match=r"not published(.|\n)*fetch@tiny-pairs(.|\n)*pirepro run specs/demo-tiny"):
        package.package(loaded, tmp_path / "x.zip", places)
    assert [path.name for path in tmp_path.iterdir()] == ["ws"]


def test_nothing_is_overwritten(places: Places, tmp_path: Path) -> None:
    loaded = load(places.workspace / "specs" / "demo-tiny.yaml")
    (tmp_path / "x.zip").write_text("mine")
    with pytest.raises(RequestError, match="something lies"):
        package.package(loaded, tmp_path / "x.zip", places)
    assert (tmp_path / "x.zip").read_text() == "mine"
