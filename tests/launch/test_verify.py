"""verify and diff: what is refused, what is compared, what is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import PireproError, RequestError, StateError
from pi_repro.files import canonical_json, path_digest, read_json, write_json
from pi_repro.launch import collect, comparison, manifest, recorded, verify
from pi_repro.launch.driver import Watcher
from pi_repro.launch.places import Places
from pi_repro.launch.recorded import Recorded
from pi_repro.launch.store import Published, Store
from pi_repro.launch.verify import Wish
from pi_repro.plan import params
from pi_repro.plan.resolve import Resolved, resolve
from pi_repro.provenance import capture
from pi_repro.spec.fingerprint import LOCK
from pi_repro.terminal import verdict

ROOT = Path(__file__).parents[2]
SILENT = Watcher(lambda event, name, detail: None, lambda running, done, total: None)
PRETRAIN, DRAW = "pretrain@demo-tiny-random-s0", "draw@demo-tiny-s0"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A workspace of demo-tiny in which nothing was computed."""
    workspace = tmp_path / "ws"
    shutil.copytree(ROOT / "specs", workspace / "specs")
    for name in (LOCK, "dvc.yaml"):
        shutil.copyfile(ROOT / name, workspace / name)
    (workspace / params.ENABLED).write_text("experiments:\n  - specs/demo-tiny.yaml\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    own = workspace / ".pirepro"
    return Places(workspace, own / "scratch", own / "store", own / "downloads", None)


def _identity(name: str, places: Places) -> Resolved:
    return recorded.identities(params.plan(places.workspace).with_ancestors({name}), places)[name]


def _publish(name: str, places: Places, out: Path, **provenance: object) -> Published:
    item = _identity(name, places)
    assert item.fingerprint is not None and item.payload is not None
    record = {"environment": item.payload["environment"], "cpu": capture.cpu_model(), **provenance}
    return Store(places.store).publish(item.fingerprint, item.payload, out, record)


def _training(out: Path, updates: int = 20, **changed: dict[int, object]) -> Path:
    """The outputs of a training that count here: ledger, training.json, a full state after update 8."""
    lines = []
    for update in range(1, updates + 1):
        line = {"update": update, "loss": 3.0 - 0.1 * update, "tensors": f"00000001{update:08x}"}
        lines.append(canonical_json(line | {key: at[update] for key, at in changed.items() if update in at}) + "\n")
    state = out / "states" / "update-000008"
    state.mkdir(parents=True)
    (state / "state.json").write_text("{}")
    (out / "ledger.jsonl").write_text("".join(lines))
    rows = [{"update": 8, "folder": "states/update-000008", "digest": path_digest(state)}]
    write_json(out / "training.json", {"updates": updates, "states": rows, "trained": ["a", "b"]})
    return out


def _published(places: Places, tmp_path: Path) -> Published:
    """A pretraining and all that it comes from."""
    for number, name in enumerate(("fetch@tiny-pairs", DRAW)):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        (out / "a.txt").write_text(name)
        _publish(name, places, out)
    return _publish(PRETRAIN, places, _training(tmp_path / "training"))


REQUESTS = [
    (Wish("pretrain@demo-tiny-randon-s0"), "did you mean 'pretrain@demo-tiny-random-s0'"),
    (Wish(PRETRAIN, 7, 1), "0 or 8"),
    (Wish(PRETRAIN, 8, 13), "1 to 12 from step 8, of 20 in all"),
    (Wish(PRETRAIN, None, 21), "1 to 20 from step 0"),
    (Wish(DRAW, 0, 3), "initialize@demo-tiny-pi-s0, pretrain@demo-tiny-random-s0"),
]


@pytest.mark.parametrize("wish, allowed", REQUESTS)
def test_a_request_that_cannot_be_met_says_what_can(wish: Wish, allowed: str, places: Places, tmp_path: Path) -> None:
    _published(places, tmp_path)
    with pytest.raises(RequestError) as error:
        verify.verify(wish, places, SILENT)
    assert allowed in str(error.value)
    assert not places.scratch.exists()


def test_a_folder_that_holds_something_is_not_computed_in(places: Places, tmp_path: Path) -> None:
    _published(places, tmp_path)
    with pytest.raises(RequestError, match="not empty"):
        verify.verify(Wish(PRETRAIN, keep=tmp_path), places, SILENT)


@pytest.mark.parametrize("name", ["states/update-000008/state.json", "ledger.jsonl", "training.json"])
def test_a_damaged_record_is_named_before_anything_runs(name: str, places: Places, tmp_path: Path) -> None:
    file = _published(places, tmp_path).out / name
    file.write_text(file.read_text() + " ")
    with pytest.raises(StateError, match="damaged") as error:
        verify.verify(Wish(PRETRAIN, 8, 3), places, SILENT)
    assert str(file.parent if "state.json" in name else file) in str(error.value)
    assert not places.scratch.exists()


def test_what_is_recorded_and_not_here_is_to_be_pulled(places: Places, tmp_path: Path) -> None:
    """As in a fresh clone: git brought provenance/, nothing else."""
    _published(places, tmp_path)
    store = Store(places.store)
    for name in ("fetch@tiny-pairs", DRAW, PRETRAIN):
        found = store.get(str(_identity(name, places).fingerprint))
        assert found is not None
        write_json(places.workspace / "provenance" / f"{name}.json", found.provenance)
    shutil.rmtree(places.store)
    with pytest.raises(StateError) as error:
        verify.verify(Wish(PRETRAIN), places, SILENT)
    outs = "artifacts/demo-tiny/draw-s0 data/tiny-pairs artifacts/demo-tiny/random-s0/pretrain"
    assert error.value.todo == f"dvc pull {outs}"
    with pytest.raises(StateError, match="nothing is recorded"):
        verify.verify(Wish("pretrain@demo-tiny-pi-s0"), places, SILENT)


def test_a_rerun_that_differs_stays_and_both_are_named(places: Places, tmp_path: Path) -> None:
    """The weights of demo-tiny are really drawn; what is recorded is not what they are."""
    wrong = tmp_path / "wrong"
    (wrong / "weights").mkdir(parents=True)
    (wrong / "training.json").write_text("{}")
    (wrong / "weights" / "epoch-0000.safetensors").write_bytes(b"other bytes")
    entry = _publish(DRAW, places, wrong, python="2.7").folder
    before = path_digest(places.store)
    swept: list[bool] = []

    def tick(running: object, done: int, total: int) -> None:
        swept.append(any("verify-" in item.path.name for item in collect.garbage(places, ())))

    found = verify.verify(Wish(DRAW), places, Watcher(SILENT.event, tick))
    assert swept and not any(swept), "pirepro gc would take the folder away while it is computed in"
    assert (found.kind, found.good) == ("different", False)
    assert found.differing == ("training.json", "weights/epoch-0000.safetensors")
    text = "\n".join(verdict.lines(found))
    assert "python" in text and "2.7 -> 3." in text and str(found.now.out) in text and str(entry / "out") in text
    assert [path.name.split("-")[0] for path in places.scratch.iterdir()] == ["verify"]
    assert path_digest(places.store) == before


def test_a_record_of_another_environment_is_found_under_its_own_identity(places: Places, tmp_path: Path) -> None:
    """An upgraded lock gives every stage a new fingerprint; what was recorded can be looked at all the same."""
    now = _identity(DRAW, places)
    then = resolve(now.stage, {}, {}, "py3.9-0123456789abcdef", Store(places.store).digest)
    assert then.fingerprint is not None and then.fingerprint != now.fingerprint
    out = places.workspace / now.stage.out
    out.mkdir(parents=True)
    (out / "a.txt").write_text("drawn")
    record = {"environment": "py3.9-0123456789abcdef", "fingerprint": then.fingerprint, "outputs": path_digest(out)}
    write_json(places.workspace / "provenance" / f"{DRAW}.json", record)
    found = _identity(DRAW, places)
    assert (found.fingerprint, found.digest) == (then.fingerprint, record["outputs"])
    assert recorded.of_stage(found, places).provenance == record
    (out / "a.txt").write_text("changed")
    with pytest.raises(StateError, match="not the bytes"):
        recorded.of_stage(found, places)


def _record(folder: Path, provenance: dict[str, Any], **changed: dict[int, object]) -> Recorded:
    return Recorded("x", _training(folder, **changed), manifest.of_folder(folder), provenance)


def test_another_device_model_is_not_comparable_and_fast_mode_is_held_to_its_curve(tmp_path: Path) -> None:
    one, other = {"cpu": "A", "gpus": ["G"]}, {"cpu": "B", "gpus": ["G"]}
    then = _record(tmp_path / "then", one)
    near = {"loss": {12: 1.8 * 1.05}, "tensors": {12: "00000001x"}}
    same, there = _record(tmp_path / "same", one, **near), _record(tmp_path / "there", other, **near)
    found = comparison.compare(then, same, "x", device="cpu")
    assert found.kind == "different"
    assert found.divergence is not None and (found.divergence.update, found.divergence.tensors) == (12, ("b",))
    assert comparison.compare(then, there, "x", device="cuda").kind == "different"
    found = comparison.compare(then, there, "x", device="cpu")
    assert found.kind == "not comparable" and found.gap is not None
    assert found.gap.relative == pytest.approx(0.05) and found.gap.update == 12
    assert "other bits are expected" in "\n".join(verdict.lines(found))
    # Updates 11 and 12 make a tenth: 2.5 % on its mean; with 20 % on one of them it is more than 5 %.
    assert comparison.compare(then, same, "x", mode="fast").kind == "close"
    far = _record(tmp_path / "far", one, loss={12: 1.8 * 1.2})
    assert comparison.compare(then, far, "x", mode="fast").kind == "apart"


def test_a_stretch_is_compared_with_its_own_updates(tmp_path: Path) -> None:
    then, now = _record(tmp_path / "then", {}), _record(tmp_path / "now", {}, tensors={11: "yx"})
    lines = (now.out / "ledger.jsonl").read_text().splitlines(keepends=True)
    (now.out / "ledger.jsonl").write_text("".join(lines[8:11]))
    found = comparison.compare(then, now, "x", updates=(9, 11))
    assert found.divergence is not None
    assert (found.divergence.update, found.divergence.tensors) == (11, ("a", "b"))
    (now.out / "ledger.jsonl").write_text("".join(lines[8:10]))
    assert comparison.compare(then, now, "x", updates=(9, 10)).kind == "identical"
    shortened = comparison.compare(then, now, "x", updates=(9, 11)).divergence
    assert shortened is not None and shortened.update == 11


def test_folders_and_stages_are_named_and_their_provenance_is_found(places: Places, tmp_path: Path) -> None:
    published = _published(places, tmp_path)
    by_name = recorded.named(PRETRAIN, places)
    by_folder = recorded.named(str(published.folder), places)
    assert by_name.provenance == by_folder.provenance == read_json(published.folder / "provenance.json")
    pulled = places.workspace / "artifacts" / "pulled"
    shutil.copytree(published.out, pulled)
    write_json(places.workspace / "provenance" / "any.json", {**published.provenance, "cpu": "Z"})
    found = comparison.compare(by_name, recorded.named(str(pulled), places), "x")
    assert found.kind == "identical" and [row.field for row in found.environment] == ["cpu"]
    with pytest.raises(PireproError, match="neither a stage nor a folder"):
        recorded.named("nowhere", places)
    assert json.loads((pulled / "training.json").read_text())["states"]
