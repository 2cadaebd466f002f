"""The claims that are shipped cover the paper; a broken file is refused with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi_repro.errors import RequestError
from pi_repro.plan.graph import build
from pi_repro.spec import claims
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]
FILE = ROOT / "specs" / "claims.yaml"
TEXT = FILE.read_text(encoding="utf-8")


def test_every_source_of_the_paper_has_its_rows() -> None:
    found = claims.load(FILE)
    sources = {claim.source for claim in found.claims}
    assert sources == {"abstract", *(f"figure {n}" for n in range(1, 6))}
    by_id = {claim.id: claim for claim in found.claims}
    # Those that the order names one by one.
    assert by_id["higher-initial-accuracy"].test.at == "first"
    assert by_id["onset-depends-on-set"].rule.kind == "apart"
    assert by_id["growing-retrieval-gap"].test.measures == ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")
    assert by_id["top1-margins"].test.over == "retrieval"
    assert by_id["wins-23-of-29"].rule.threshold == 23
    assert {by_id[f"families-{m}"].test.measures for m in ("top1", "top5")} == {("top1",), ("top5",)}
    assert by_id["larger-exponents"].test.quantity == "exponent"
    assert by_id["imagenet-onset"].rule.window == (10, 20)
    assert by_id["before-beats-after"].test.against == "posthoc"


BROKEN = {
    "unknown quantity": ("quantity: wins", "quantity: winz", ["claims.", "test.quantity", "did you mean 'wins'"]),
    "unknown source": ("source: figure 2", "source: figure 9", ["source", "did you mean 'figure"]),
    "missing rule": ("      kind: count\n", "", ["'kind' is missing"]),
    "wrong kind": ("kind: count", "kind: apart", ["judged by a rule of kind 'count'"]),
    "window turned round": ("window: [10, 20]", "window: [20, 10]", ["ends before it begins"]),
    "no window": ("      window: [10, 20]\n", "", ["belongs to a rule of that kind"]),
    "named twice": ("id: families-top5", "id: families-top1", ["named twice: families-top1"]),
    "recall of classes": ("measures: [top5], over: suite", "measures: [i2t_r1], over: suite", ["over: retrieval"]),
    "top-1 of captions": ("measures: [i2t_r1], over: retrieval", "measures: [top1], over: retrieval", ["alone"]),
    "post-hoc unasked": ("over: suite, against: posthoc", "over: suite", ["posthoc"]),
    "no threshold": ("threshold: 23.0", "threshold: .nan", ["threshold", "finite"]),
    "relevant below": ("relevant: 0.003", "relevant: -1.0", ["at least the threshold"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_claims(name: str, tmp_path: Path) -> None:
    old, new, expected = BROKEN[name]
    assert TEXT.count(old) >= 1
    path = tmp_path / "claims.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        claims.load(path)
    message = str(caught.value)
    assert str(path) in message and ":" in message.splitlines()[0]
    assert all(part in message for part in expected), message


def _spec(tmp_path: Path, report: str) -> Path:
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(ROOT / "specs" / name)
    (tmp_path / "claims.yaml").write_text(TEXT, encoding="utf-8")
    text = (ROOT / "specs" / "demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "demo.yaml").write_text(text.replace("  baseline: random\n", f"  baseline: random\n{report}"))
    return tmp_path / "demo.yaml"


def test_a_spec_names_its_claims_and_only_its_report_changes(tmp_path: Path) -> None:
    asked = load(_spec(tmp_path, "  report: {claims: claims, treatment: pi, posthoc: posthoc}\n"))
    plain = {stage.name: stage for stage in build([load(ROOT / "specs" / "demo.yaml")]).stages}
    changed = [s.name for s in build([asked]).stages if s.settings != plain[s.name].settings]
    assert changed == ["report@demo"]
    settings = build([asked]).stage("report@demo").settings
    assert len(settings["claims"]["list"]["claims"]) == len(claims.load(FILE).claims)
    assert settings["claims"]["scale"] == {
        "suite": "demo-suite", "pairs": "demo-pairs", "triplets": "demo-triplets", "epochs": 12,
        "treatment": "pi", "posthoc": "posthoc", "model": "pi-demo-64",
    }  # fmt: skip
    assert "report" not in plain["report@demo"].settings


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("  report: {claims: claim, treatment: pi}\n", ["demo.yaml:", "science.report.claims", "no file of claims"]),
        ("  report: {treatment: po}\n", ["report.treatment 'po'"]),
        ("  report: {treatment: random}\n", ["other than the baseline"]),
        ("  report: {treatment: pi, posthoc: none}\n", ["report.posthoc 'none'"]),
    ],
)
def test_a_report_that_asks_for_what_is_not_there(tmp_path: Path, report: str, expected: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        load(_spec(tmp_path, report))
    assert all(part in str(caught.value) for part in expected), caught.value
