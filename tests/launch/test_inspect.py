"""The state of a stage whose record git brought and whose files it did not: a fresh clone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pi_repro.launch import inspect, record, workspace
from pi_repro.launch.places import Places
from pi_repro.plan import params
from pi_repro.plan.graph import Plan, build
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]
DRAW = "draw@demo-tiny-s0"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Places]:
    shutil.copyfile(ROOT / "requirements.lock", tmp_path / "requirements.lock")
    own = tmp_path / ".pirepro"
    places = Places(tmp_path, own / "scratch", own / "store", own / "downloads", tmp_path / "root")
    plan = build([load(ROOT / "specs" / "demo-tiny.yaml")])
    stage = plan.stage(DRAW)
    settings = {f"{stage.kind}.{stage.key}": params.item(stage)}
    monkeypatch.setattr(record, "recorded", lambda _: {DRAW: {"params": {params.PARAMS: settings}}})
    return plan, places


def _record(plan: Plan, places: Places, fingerprint: str | None) -> None:
    path = workspace.provenance_path(places, plan.stage(DRAW))
    path.parent.mkdir()
    item = inspect.identified(plan, DRAW, places)
    assert item.payload is not None
    content = {
        "fingerprint": fingerprint or item.fingerprint,
        "outputs": "0" * 64,
        "inputs": item.payload["inputs"],
        "environment": item.payload["environment"] if fingerprint is None else "another",
    }
    path.write_text(json.dumps(content))


def test_what_was_recorded_as_it_is_and_is_not_here_is_missing_and_not_stale(clone: tuple[Plan, Places]) -> None:
    plan, places = clone
    _record(plan, places, None)
    found = {state.stage.name: state for state in inspect.states(plan, places)}[DRAW]
    assert (found.kind, found.note) == ("missing", inspect.AWAY)
    told = inspect.explain(plan, DRAW, places)
    assert told.state == found and told.recorded and not told.settings and not told.inputs
    (places.workspace / plan.stage(DRAW).out).mkdir(parents=True)
    assert inspect.explain(plan, DRAW, places).state.kind == "in workspace"


def test_what_was_recorded_in_another_environment_is_stale(clone: tuple[Plan, Places]) -> None:
    plan, places = clone
    _record(plan, places, "f" * 64)
    told = inspect.explain(plan, DRAW, places)
    assert told.state.kind == "stale" and [change.field for change in told.inputs] == ["environment"]
