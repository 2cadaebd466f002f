"""The stage graph: names, order, dependencies, what a changed field reaches, agreement with dvc.yaml."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from pi_repro.errors import RequestError
from pi_repro.files import read_json
from pi_repro.plan import params
from pi_repro.plan.explain import changes
from pi_repro.plan.graph import KINDS, Plan, build
from pi_repro.plan.resolve import resolve_all
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    return tmp_path / "specs"


def _plan(specs: Path, old: str = "", new: str = "") -> Plan:
    path = specs / "demo.yaml"
    text = (ROOT / "specs" / "demo.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return build([load(path)])


def _identities(plan: Plan) -> dict[str, str | None]:
    """Fingerprints as if every stage gave an output that depends on its fingerprint alone."""
    return {
        name: item.fingerprint for name, item in resolve_all(plan, "py3.11-x", lambda fingerprint: fingerprint).items()
    }


def _changed(specs: Path, old: str, new: str) -> set[str]:
    before, after = _identities(_plan(specs)), _identities(_plan(specs, old, new))
    return {name for name in after if before.get(name) != after[name]}


def test_keys_are_what_dvc_takes(specs: Path) -> None:
    plan = _plan(specs)
    assert all(re.fullmatch(r"[a-z0-9-]+", stage.key) for stage in plan.stages)
    assert len({stage.name for stage in plan.stages}) == len(plan.stages)


def test_every_stage_comes_after_its_parents(specs: Path) -> None:
    plan, seen = _plan(specs), set()
    for stage in plan.stages:
        for role, names in plan.parents[stage.name].items():
            assert names, f"nobody makes {stage.deps[role]}"
            assert set(names) <= seen
        seen.add(stage.name)


def test_arms_of_a_seed_share_one_draw(specs: Path) -> None:
    plan = _plan(specs)
    starts = {
        plan.stage(name).deps["start"]
        for name in ("pretrain@demo-random-s1", "initialize@demo-pi-s1", "initialize@demo-concept-s1")
    }
    assert starts == {"artifacts/demo/draw-s1"}
    assert plan.stage("finetune@demo-posthoc-s1").deps["start"] == "artifacts/demo/random-s1/pretrain"


@pytest.mark.parametrize(
    "old, new",
    [
        ("checkpoint_every: 100", "checkpoint_every: 7"),
        ("workers: 0", "workers: 3"),
        ("prefetch: 2", "prefetch: 9"),
        ("parallel: 2", "parallel: 1"),
        ("device_watts: 15.0", "device_watts: 99.0"),
        ("grid_g_per_kwh: 400.0", "grid_g_per_kwh: 1.0"),
    ],
)
def test_a_resource_reruns_nothing(specs: Path, old: str, new: str) -> None:
    assert _changed(specs, old, new) == set()


@pytest.mark.parametrize(
    "old, new, kinds, arms",
    [
        ("lr: 2.5e-4", "lr: 2e-4", {"initialize", "pretrain", "evaluate", "report"}, {"pi", "concept"}),
        (
            "lr: 2e-3",
            "lr: 3e-3",
            {"pretrain", "finetune", "evaluate", "report"},
            {"random", "pi", "concept", "posthoc"},
        ),
        ("lr: 3e-4", "lr: 4e-4", {"finetune", "evaluate", "report"}, {"posthoc"}),
        ("recall_k: [1, 5, 10]", "recall_k: [1, 5]", {"evaluate", "report"}, {"random", "pi", "concept", "posthoc"}),
        (
            "logit_scale_max: 100.0",
            "logit_scale_max: 50.0",
            set(KINDS) - {"fetch"},
            {"random", "pi", "concept", "posthoc"},
        ),
        ('notice: "A dem', 'notice: "a dem', {"report"}, set()),
    ],
)
def test_a_science_field_reruns_exactly_what_depends_on_it(
    specs: Path, old: str, new: str, kinds: set[str], arms: set[str]
) -> None:
    changed = _changed(specs, old, new)
    assert {name.split("@")[0] for name in changed} == kinds
    found = {match.group(1) for name in changed if (match := re.search(r"@demo-(\w+)-s\d$", name))}
    assert found == arms


def test_a_seed_more_reruns_only_the_report(specs: Path) -> None:
    before, after = _identities(_plan(specs)), _identities(_plan(specs, "seeds: [0, 1]", "seeds: [0, 1, 7]"))
    assert {name for name in before if before[name] != after[name]} == {"report@demo"}


def test_experiments_that_ask_for_the_same_share_an_identity(specs: Path) -> None:
    other = specs / "other.yaml"
    other.write_text((specs / "demo.yaml").read_text().replace("name: demo\n", "name: other\n", 1))
    plan = build([load(specs / "demo.yaml"), load(other)])
    found = _identities(plan)
    assert found["pretrain@demo-pi-s0"] == found["pretrain@other-pi-s0"]


def test_two_meanings_of_one_name_are_refused(specs: Path) -> None:
    folder = specs.parent / "elsewhere"
    shutil.copytree(specs, folder)
    card = folder / "data" / "demo-pairs.yaml"
    card.write_text(card.read_text().replace("description:", "citation: other\ndescription:", 1))
    with pytest.raises(RequestError, match="fetch@demo-pairs"):
        build([load(specs / "demo.yaml"), load(folder / "demo.yaml")])


def test_params_json_is_what_the_specs_say() -> None:
    assert params.is_current(ROOT, params.plan(ROOT)), "pirepro plan --write"


def test_only_the_demo_is_enabled_as_shipped() -> None:
    assert [path.name for path in params.enabled(ROOT)] == ["demo.yaml"]


def test_dvc_yaml_declares_what_the_plan_needs() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == KINDS
    content = read_json(ROOT / "params.json")
    for kind, group in stages.items():
        declared = group["do"]
        assert group["foreach"] == f"${{{kind}}}"
        assert declared["cmd"] == f"pirepro stage {kind}@${{key}}"
        assert declared["params"] == [{"params.json": [f"{kind}.${{key}}"]}]
        roles = {match for dep in declared.get("deps", []) for match in re.findall(r"item\.deps\.([\w-]+)", dep)}
        assert ("requirements.lock" in declared.get("deps", [])) is (kind != "fetch")
        for entry in content[kind].values():
            assert set(entry["deps"]) == roles


def test_enabling_and_disabling_come_back_to_the_same_bytes(specs: Path) -> None:
    workspace = specs.parent
    params.write(workspace, params.plan(workspace))
    before = (workspace / "params.json").read_bytes(), (specs / "enabled.yaml").read_bytes()
    assert params.enable(workspace, specs / "pi_vs_random.yaml")
    assert not params.enable(workspace, specs / "pi_vs_random.yaml")
    assert "pi-vs-random-pi-s42" in read_json(workspace / "params.json")["pretrain"]
    assert params.disable(workspace, specs / "pi_vs_random.yaml")
    assert ((workspace / "params.json").read_bytes(), (specs / "enabled.yaml").read_bytes()) == before


def test_changes_name_the_leaf() -> None:
    found = changes({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": 2, "c": [1, 2]}, "e": 1})
    assert [(change.field, change.old, change.new) for change in found] == [
        ("a.b", 1, 2),
        ("d", 1, "(absent)"),
        ("e", "(absent)", 1),
    ]
