"""Sites: free text survives unharmed, what no quoting mends is refused with its place, folders are expanded."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pi_repro.errors import RequestError
from pi_repro.plan.graph import KINDS
from pi_repro.spec import site as sites
from pi_repro.spec.site import Site, load

ROOT = Path(__file__).parents[2]
BASE = "name: a\nruntime: {kind: none}\n"

#: What a shell would do something with.
NASTY = ["a b", 'it\'s "so"', "x; touch /tmp/canary", "$(touch /tmp/canary)", "`id`", "a|b&c>d", "-n", "*", "\\", "ü"]


def _file(folder: Path, text: str) -> Path:
    path = folder / "a.yaml"
    path.write_text(text)
    return path


def test_the_kinds_are_those_of_the_graph() -> None:
    assert sites.KINDS == tuple(KINDS) == tuple(sites.MINUTES)


def test_shipped_sites_are_valid() -> None:
    for path in (ROOT / "slurm" / "sites").glob("*.yaml"):
        load(path)


@pytest.mark.parametrize("text", NASTY)
def test_text_that_a_shell_would_act_on_survives(tmp_path: Path, text: str) -> None:
    value = json.dumps(text)
    site = load(
        _file(
            tmp_path,
            f"{BASE}partition: {value}\naccount: {value}\nconstraint: {value}\nmodules: [{value}]\n"
            f"environment: {{X: {value}}}\nscratch: {json.dumps('/scratch/' + text)}\n",
        )
    )
    assert [site.partition, site.account, site.constraint, *site.modules, site.environment["X"]] == [text] * 5
    assert site.scratch == f"/scratch/{text}"


@given(st.text(alphabet=st.characters(categories=["Cc", "Zl", "Zp"]), min_size=1), st.text(max_size=3))
def test_control_characters_are_refused_everywhere(bad: str, good: str) -> None:
    fields: list[dict[str, object]] = [
        {"partition": good + bad},
        {"environment": {"X": bad + good}},
        {"modules": (good + bad + good,)},
        {"scratch": "/x" + bad},
        {"runtime": {"kind": "podman", "image": "x" + bad}},
        {"runtime": {"kind": "podman", "image": "x", "options": (bad,)}},
        {"runtime": {"kind": "podman", "image": "x", "binds": ("/x" + bad,)}},
    ]
    for field in fields:
        with pytest.raises(ValidationError):
            Site.model_validate({"name": "a", "runtime": {"kind": "none"}, **field})


#: text of the file -> what the message must hold.
BROKEN = {
    "partition: gpu\naccount: 'x\n\n  y'\n": ["a.yaml:4, account", "line's end"],
    'qos: "x\\u0007"\n': ["a.yaml:3, qos", "control character"],
    "qos: x\u0007\n": ["a.yaml:3", "control character"],
    "partitoin: gpu\n": ["a.yaml:3", "did you mean 'partition'"],
    "scratch: here/there\n": ["a.yaml:3, scratch", "not absolute"],
    "scratch: ~nobody-of-this-name/x\n": ["a.yaml:3, scratch", "not absolute"],
    "store: $PIREPRO_TEST_UNSET/x\n": ["a.yaml:3, store", "'PIREPRO_TEST_UNSET' is not set"],
    "minutes: {pretrian: 3}\n": ["did you mean 'pretrain'"],
    "minutes: {draw: 1}\n": ["minutes.draw"],
    "here: [fetsh]\n": ["did you mean 'fetch'"],
    "environment: {'A B': x}\n": ["a.yaml:3, environment"],
    "gpus_per_node: 0\n": ["a.yaml:3, gpus_per_node"],
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_site_gets_a_message_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(_file(tmp_path, BASE + text))
    for part in BROKEN[text]:
        assert part in str(caught.value)


RUNTIMES = {
    "{kind: apptainer}": "needs `image`",
    "{kind: none, image: x}": "takes no image",
    "{kind: podman, image: x, program: y}": "only kind apptainer",
    "{kind: template}": "needs `command`",
    "{kind: docker, image: x, command: [y]}": "no other kind",
    "{kind: template, image: x, command: ['--mount={bind}']}": "{bind}",
    "{kind: template, command: ['{image}']}": "`image` is not given",
    "{kind: podman, image: x, binds: [a]}": "not absolute",
    "{kind: podman, image: x, binds: ['/a:b']}": "both absolute",
    "{kind: podman, image: x, binds: ['/a:/b:ro']}": "both absolute",
}


@pytest.mark.parametrize("text", RUNTIMES)
def test_a_runtime_hangs_together(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(_file(tmp_path, f"name: a\nruntime: {text}\n"))
    assert RUNTIMES[text] in str(caught.value) and "a.yaml:2" in str(caught.value)


def test_folders_are_expanded_and_commands_in_them_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PIREPRO_TEST", "/big disk")
    monkeypatch.delenv("USER", raising=False)
    site = load(
        _file(
            tmp_path,
            "name: a\nscratch: ~/x\nstore: '${PIREPRO_TEST}/$(id)'\ndata_root: /d/$USER\n"
            "runtime: {kind: podman, image: x, binds: [$PIREPRO_TEST:/b]}\n",
        )
    )
    assert (site.scratch, site.store, site.data_root) == ("/home/me/x", "/big disk/$(id)", f"/d/{getpass.getuser()}")
    assert site.runtime.binds == ("/big disk:/b",)


def test_a_limit_given_for_one_kind_leaves_the_others(tmp_path: Path) -> None:
    site = load(_file(tmp_path, f"{BASE}minutes: {{pretrain: 60}}\n"))
    assert site.minutes == {**sites.MINUTES, "pretrain": 60}


def test_a_site_is_named_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\.yaml:1, name"):
        load(_file(tmp_path, "name: b\nruntime: {kind: none}\n"))
