"""The stage fetch: a card's fetcher is found, run, and held to its promise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi_repro.errors import RequestError, StateError
from pi_repro.files import write_json
from pi_repro.spec import plugins
from pi_repro.spec.card import Card
from pi_repro.spec.experiment import Resources
from pi_repro.stages import fetch
from pi_repro.stages.context import StageContext

CARDS = Path(__file__).parents[2] / "specs" / "data"


def settings(**changes: Any) -> dict[str, Any]:
    card = yaml.safe_load((CARDS / "tiny-pairs.yaml").read_text())
    return {"recipe": 1, "card": {**card, **changes}}


@pytest.fixture
def context(tmp_path: Path) -> Callable[[dict[str, Any]], StageContext]:
    def make(given: dict[str, Any]) -> StageContext:
        resources = Resources.model_construct()
        return StageContext("fetch@tiny-pairs", given, {}, tmp_path / "scratch" / "x", tmp_path / "out", resources)

    return make


def toy(card: Card, context: StageContext) -> None:
    """A fetcher of another package."""
    write_json(context.out / "card.json", {"card": card.name})


def forgetful(card: Card, context: StageContext) -> None:
    """A fetcher that leaves its work undone."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that offers fetchers, one under a built-in name."""
    here = sys.modules[__name__].__name__
    found = EntryPoints(
        EntryPoint(name, f"{here}:{attribute}", "pi_repro.fetchers")
        for name, attribute in (("toy", "toy"), ("forgetful", "forgetful"), ("demo_pairs", "toy"), ("nights", "toy"))
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: found.select(group=group))
    plugins.offered.cache_clear()
    yield
    plugins.offered.cache_clear()


def test_a_fetcher_of_another_package(installed: None, context: Callable[[dict[str, Any]], StageContext]) -> None:
    stage = context(settings(fetcher="toy"))
    fetch.run(stage)
    assert (stage.out / "card.json").is_file()


def test_built_in_names_are_not_taken_over(installed: None) -> None:
    from pi_repro.data.demo import pairs
    from pi_repro.data.nights import fetch as nights

    assert fetch.fetcher("demo_pairs") is pairs.fetch
    assert fetch.fetcher("nights") is nights.fetch


@pytest.mark.parametrize("name", sorted(fetch.MODULES))
def test_built_in_fetchers_exist(name: str) -> None:
    assert callable(fetch.fetcher(name))


def test_a_spec_may_name_the_fetchers_that_are_built_and_no_others() -> None:
    assert set(fetch.MODULES) == set(plugins.BUILT_IN["fetchers"])


def test_an_unknown_fetcher_is_named_with_the_nearest(context: Callable[[dict[str, Any]], StageContext]) -> None:
    with pytest.raises(RequestError, match="no fetcher named 'demo_pair'") as caught:
        fetch.run(context(settings(fetcher="demo_pair")))
    assert "did you mean 'demo_pairs'?" in str(caught.value)
    assert "pi_repro.fetchers" in str(caught.value)


def test_a_wrong_card_is_named(context: Callable[[dict[str, Any]], StageContext]) -> None:
    with pytest.raises(RequestError, match=r"card\.count"):
        fetch.run(context(settings(count=0)))


def test_a_fetcher_that_leaves_no_card(installed: None, context: Callable[[dict[str, Any]], StageContext]) -> None:
    with pytest.raises(StateError, match=r"no card\.json"):
        fetch.run(context(settings(fetcher="forgetful")))
