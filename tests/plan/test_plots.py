"""`dvc plots show`: every file that dvc.yaml draws is an output of the demo, with the columns that are drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi_repro.training.ledger import CURVES

ROOT = Path(__file__).parents[2]
PLOTS: dict[str, dict[str, Any]] = {
    name: plot
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    for name, plot in entry.items()
}


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_what_is_drawn_is_an_output_of_the_demo(name: str) -> None:
    params = json.loads((ROOT / "params.json").read_text(encoding="utf-8"))
    outs = {stage["out"] for stages in params.values() for stage in stages.values()}
    plot = PLOTS[name]
    for file, fields in plot["y"].items():
        assert any(file.startswith(f"{out}/") for out in outs), file
        if file.startswith("reports/"):
            with (ROOT / file).open(newline="", encoding="utf-8") as lines:
                columns = tuple(next(csv.reader(lines)))
        else:
            columns = CURVES
        assert {plot["x"], *([fields] if isinstance(fields, str) else fields)} <= set(columns)
    template = json.loads((ROOT / ".dvc" / "plots" / f"{plot['template']}.json").read_text(encoding="utf-8"))
    assert template["data"] == {"values": "<DVC_METRIC_DATA>"}


def test_all_trainings_of_the_demo_have_their_loss_drawn() -> None:
    params = json.loads((ROOT / "params.json").read_text(encoding="utf-8"))
    for kind, name in (("initialize", "loss_of_stage_1"), ("pretrain", "loss_of_pretraining")):
        files = {f"{stage['out']}/curves.csv" for key, stage in params[kind].items() if key.startswith("demo-")}
        assert set(PLOTS[name]["y"]) == files
