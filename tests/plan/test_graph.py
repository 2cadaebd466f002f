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
            set(KINDS) - {"fetch", "joint", "probe"},
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


PROBES = """
  probes:
    batch: 64
    precision: fp32
    stages: [pretrain, finetune]
    distance: true
    features: {set: demo/concepts-noto, images: 64, similarity: cosine}
"""
RSA = "    rsa: {matrix: rsa/m.csv, images: rsa/m.txt, set: demo/mnist, similarity: cosine}"
LINEAR = "    linear: {sets: [demo/retrieval-noto], images: null, train: 0.5, penalties: [1.0]}"


def test_probes_change_nothing_but_themselves_and_the_report(specs: Path) -> None:
    before = _identities(_plan(specs))
    plan = _plan(specs, "\nresources:", PROBES + "\nresources:")
    after = _identities(plan)
    assert {name for name in before if before[name] != after[name]} == {"report@demo"}
    probes = {name for name in after if name.startswith("probe@")}
    assert set(after) - set(before) == probes and len(probes) == 8
    assert "probes" not in _plan(specs).stage("report@demo").settings
    assert probes < set(plan.parents["report@demo"]["results"])
    parents = plan.parents["probe@demo-pi-s1"]
    assert parents["trained"] == ("initialize@demo-pi-s1", "pretrain@demo-pi-s1")
    assert parents["twin"] == ("probe@demo-random-s1",) and parents["draw"] == ("draw@demo-s1",)
    posthoc = plan.stage("probe@demo-posthoc-s0")
    assert posthoc.deps["start"] == "artifacts/demo/random-s0/pretrain" and "twin" not in posthoc.deps
    changed = _identities(_plan(specs, "\nresources:", PROBES.replace("images: 64", "images: 65") + "\nresources:"))
    assert {name for name in after if after[name] != changed[name]} == probes | {"report@demo"}


def test_a_report_knows_its_controls(specs: Path) -> None:
    (report,) = [s for s in build([load(specs / "demo-controls.yaml")]).stages if s.kind == "report"]
    controls = {name for name, arm in report.settings["arms"].items() if not arm.get("votes", True)}
    assert controls == {"shuffled", "pixels", "blind"}
    (report,) = [s for s in build([load(specs / "demo.yaml")]).stages if s.kind == "report"]
    assert not any("votes" in arm for arm in report.settings["arms"].values()), "a fingerprint of before"


def test_a_given_matrix_is_known_by_its_bytes(specs: Path) -> None:
    text = f"{PROBES}{RSA}\n"
    with pytest.raises(RequestError, match="no such file beside the spec"):
        _plan(specs, "\nresources:", text + "\nresources:")
    (specs / "rsa").mkdir()
    found = []
    for content in ("0,1\n1,0\n", "0,2\n2,0\n"):
        (specs / "rsa/m.csv").write_text(content)
        (specs / "rsa/m.txt").write_text("a\nb\n")
        found.append(_identities(_plan(specs, "\nresources:", text + "\nresources:")))
    differing = {name.split("@")[0] for name in found[0] if found[0][name] != found[1][name]}
    assert differing == {"probe", "report"}


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("demo/concepts-noto", "demo/concepts-notto", "did you mean 'demo/concepts-noto'"),
        ("    distance: true", f"{LINEAR}\n    distance: true", "a linear probe learns classes"),
        ("    distance: true", f"{RSA}\n    distance: true".replace("rsa/m.csv", "../m.npy"), "probes.rsa.matrix"),
        ("    distance: true", f"{RSA}\n    distance: true".replace("m.csv", "m.pkl"), "probes.rsa.matrix"),
        ("stages: [pretrain, finetune]", "stages: []", "science.probes.stages"),
        ("images: 64", "images: 3", "science.probes.features.images"),
    ],
)
def test_a_wrong_probe_is_refused_by_line(specs: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(RequestError) as error:
        _plan(specs, "\nresources:", PROBES.replace(old, new, 1) + "\nresources:")
    assert problem in str(error.value) and "demo.yaml:" in str(error.value)


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


def test_a_refused_enable_changes_no_file(specs: Path) -> None:
    workspace = specs.parent
    params.write(workspace, params.plan(workspace))
    files = workspace / "params.json", specs / "enabled.yaml"
    before = [file.read_bytes() for file in files]
    demo = (specs / "demo.yaml").read_text()
    # Right by itself, but it gives other stages the names of demo's.
    (specs / "twin.yaml").write_text(demo.replace("epochs: 12", "epochs: 13"))
    with pytest.raises(RequestError, match="two experiments use this name"):
        params.enable(workspace, specs / "twin.yaml")
    assert [file.read_bytes() for file in files] == before


def test_broken_specs_can_be_disabled_one_after_the_other(specs: Path) -> None:
    workspace = specs.parent
    (specs / "enabled.yaml").write_text("experiments:\n  - specs/gone.yaml\n  - specs/lost.yaml\n")
    with pytest.raises(RequestError, match="no such file"):
        params.disable(workspace, specs / "gone.yaml")
    assert params.disable(workspace, specs / "lost.yaml")
    assert params.enabled(workspace) == []


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}\n=======\n", '{"fetch": ', "\xff"])
def test_a_damaged_params_json_is_written_anew(specs: Path, text: str) -> None:
    workspace = specs.parent
    plan = params.plan(workspace)
    params.write(workspace, plan)
    before = (workspace / "params.json").read_bytes()
    (workspace / "params.json").write_bytes(text.encode("latin-1"))
    assert not params.is_current(workspace, plan)
    assert params.write(workspace, plan)
    assert (workspace / "params.json").read_bytes() == before


def test_disabling_what_is_no_file_and_not_enabled_is_refused(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from pi_repro.cli import app

    shutil.copyfile(ROOT / "dvc.yaml", specs.parent / "dvc.yaml")
    monkeypatch.chdir(specs.parent)
    done = CliRunner().invoke(app, ["disable", "specs/dem.yaml"])
    assert isinstance(done.exception, RequestError)
    assert "specs/dem.yaml" in str(done.exception) and "did you mean 'specs/demo.yaml'" in str(done.exception)
    assert "was disabled already" in CliRunner().invoke(app, ["disable", "specs/demo-tiny.yaml"]).output
    (specs / "demo.yaml").unlink()
    assert "demo.yaml: disabled" in CliRunner().invoke(app, ["disable", "specs/demo.yaml"]).output


def test_changes_name_the_leaf() -> None:
    found = changes({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": 2, "c": [1, 2]}, "e": 1})
    assert [(change.field, change.old, change.new) for change in found] == [
        ("a.b", 1, 2),
        ("d", 1, "(absent)"),
        ("e", "(absent)", 1),
    ]
