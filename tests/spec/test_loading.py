"""Canonical form, fingerprints, arms as overrides, architectures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_repro.errors import RequestError
from pi_repro.files import canonical_json, digest_of
from pi_repro.spec import yamlfile
from pi_repro.spec.architecture import architecture
from pi_repro.spec.fingerprint import fingerprint, payload
from pi_repro.spec.loading import load, merged

SPECS = Path(__file__).parents[2] / "specs"


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert canonical_json({"a": (1, 2)}) == canonical_json({"a": [1, 2]})
    assert digest_of({"x": 1}) != digest_of({"x": 1.0})


@pytest.mark.parametrize(
    "value", [{1: 2}, {"a": {1, 2}}, object(), b"x", math.nan, math.inf, Path("x"), {"a": lambda: 1}]
)
def test_the_unknown_is_refused_rather_than_hashed(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


@given(
    st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
)
def test_the_order_of_fields_does_not_matter(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


def test_a_fetch_ignores_the_environment_and_nothing_else_does() -> None:
    for kind, same in (("fetch", True), ("pretrain", False)):
        one = fingerprint(payload(kind, {}, {}, "py3.11-a"))
        assert (one == fingerprint(payload(kind, {}, {}, "py3.12-b"))) is same


def test_numbers_and_names_mean_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 5e-4\nb: on\nc: 010\nd: 1_000\ne: true\nf: 2026-01-01\ng: ~\nh: 1.0\n")
    assert yamlfile.load(path).data == {
        "a": 5e-4,
        "b": "on",
        "c": 10,
        "d": "1_000",
        "e": True,
        "f": "2026-01-01",
        "g": None,
        "h": 1.0,
    }


def test_an_override_is_merged_field_by_field_but_a_plugin_is_replaced() -> None:
    base = {"optimizer": {"name": "adam", "lr": 1.0}, "adapter": {"name": "pattern", "options": {"pattern": ["x"]}}}
    assert merged(base, {"optimizer": {"lr": 2.0}})["optimizer"] == {"name": "adam", "lr": 2.0}
    assert merged(base, {"adapter": {"name": "full"}})["adapter"] == {"name": "full"}


def test_arms_differ_from_the_base_only_where_they_say_so() -> None:
    loaded = load(SPECS / "demo.yaml")
    pi, concept = loaded.arms["pi"]["initialize"], loaded.arms["concept"]["initialize"]
    assert pi.model_dump(exclude={"data"}) == concept.model_dump(exclude={"data"})
    assert (pi.data, concept.data) == ("demo-triplets", "demo-concepts")
    assert loaded.arms["pi"]["pretrain"] == loaded.arms["random"]["pretrain"]


def test_models_are_found_here_and_in_open_clip() -> None:
    assert architecture("pi-demo-64", SPECS / "models", "x")["vision_cfg"]["image_size"] == 64
    assert architecture("ViT-B-32", SPECS / "models", "x")["embed_dim"] == 512
    with pytest.raises(RequestError, match="ViT-B-32"):
        architecture("VitB32", SPECS / "models", "x")
