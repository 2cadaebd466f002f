"""What does not fit its data is refused when a plan is made, exactly where a stage would refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi_repro.errors import RequestError
from pi_repro.plan import fitting
from pi_repro.spec.loading import Loaded, load
from pi_repro.spec.training import Pretrain, Schedule

ROOT = Path(__file__).parents[2]
SHIPPED = [path for path in sorted((ROOT / "specs").glob("*.yaml")) if path.stem not in ("claims", "enabled")]


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "specs", tmp_path / "specs"))


def _edited(specs: Path, name: str, old: str, new: str) -> Loaded:
    path = specs / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return load(path)


def _extending(specs: Path, base: str, science: str) -> Loaded:
    path = specs / "varied.yaml"
    path.write_text(f"extends: {base}\nname: varied\nscience:\n{science}")
    return load(path)


def _refusal(loaded: Loaded) -> str:
    with pytest.raises(RequestError) as caught:
        fitting.check(loaded)
    assert caught.value.exit_status == 2
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_fit(path: Path) -> None:
    fitting.check(load(path))


def test_a_state_past_the_last_update_is_refused_with_its_line(specs: Path) -> None:
    told = _refusal(_edited(specs, "demo.yaml", "publish_states: [300]", "publish_states: [300, 100000]"))
    line = next(n for n, text in enumerate((specs / "demo.yaml").read_text().splitlines(), 1) if "100000" in text)
    assert f"demo.yaml:{line}, science.pretrain.publish_states: publish_states names an update past the last" in told
    assert "given:   100000" in told and "allowed: 1 to 588 (12 epochs of 6,345 samples" in told and "to do:" in told
    assert "pretrain of random" in told


def test_a_warm_up_as_long_as_its_training_is_refused_for_the_arm_that_has_it(specs: Path) -> None:
    science = "  arms:\n    pi:\n      override:\n        initialize: {{schedule: {{warmup_updates: {}}}}}\n"
    fitting.check(_extending(specs, "demo.yaml", science.format(187)))
    told = _refusal(_extending(specs, "demo.yaml", science.format(188)))
    assert "varied.yaml:7, science.arms.pi.override.initialize.schedule.warmup_updates: the warm-up lasts" in told
    assert "(initialize of pi)" in told and "given:   188" in told and "fewer than its 188 updates" in told


def test_data_that_fills_no_update_is_refused_for_either_kind_of_batch(specs: Path) -> None:
    told = _refusal(_extending(specs, "demo.yaml", "  pretrain: {batch: 131072, micro_batch: 65536}\n"))
    assert "science.pretrain.batch: the data does not fill one update" in told
    assert "given:   131072 x 1 samples an update" in told and "allowed: at most 6345" in told
    told = _refusal(_extending(specs, "demo.yaml", "  pretrain: {accumulation: 50}\n"))
    assert "given:   128 x 50 samples an update" in told
    fitting.check(_extending(specs, "demo.yaml", "  pretrain: {accumulation: 12, publish_states: []}\n"))
    auxiliary = load(specs / "demo-tiny-controls.yaml").experiment.science.auxiliary
    assert auxiliary is not None
    passes, size = auxiliary.batch // auxiliary.micro_batch, 256
    science = f"  auxiliary: {{batch: {passes * size}, micro_batch: {size}}}\n"
    told = _refusal(_extending(specs, "demo-tiny-controls.yaml", science))
    assert "varied.yaml:4, science.auxiliary.batch: the data does not fill" in told and "at most 188" in told


def test_one_message_holds_all_that_does_not_fit_and_arms_that_share_it_are_named_together(specs: Path) -> None:
    science = "  pretrain: {publish_states: [100000]}\n  initialize: {schedule: {warmup_updates: 500}}\n"
    told = _refusal(_extending(specs, "demo.yaml", science))
    assert told.count("names an update past the last") == 1 and "(pretrain of random, pretrain of pi" in told
    assert "given:   500" in told


def test_counts_that_are_promised_get_room_and_those_of_a_plugin_are_not_judged(specs: Path) -> None:
    def asks(state: int) -> Loaded:
        return _extending(specs, "pi_vs_random.yaml", f"  pretrain: {{publish_states: [{state}]}}\n")

    fitting.check(asks(117_569))  # one past what the card's count gives: a source may hold a little more
    assert "allowed: 1 to 117568" in _refusal(asks(200_000))
    far = asks(10**9)
    cards = {name: card.model_copy(update={"fetcher": "toy"}) for name, card in far.cards.items()}
    fitting.check(replace(far, cards=cards))


@pytest.mark.parametrize("extra", [0, 7])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("count", [127, 128, 383, 384, 6345])
@pytest.mark.parametrize("horizon", ["updates", "micro_batches"])
def test_the_limits_are_those_of_the_stages(count: int, accumulation: int, extra: int, horizon: str) -> None:
    from pi_repro.data.order import Order
    from pi_repro.training.course import Course
    from pi_repro.training.schedule import LearningRate

    demo = load(ROOT / "specs" / "demo.yaml")
    cards = {**demo.cards, "demo-pairs": demo.cards["demo-pairs"].model_copy(update={"count": count})}

    def refused(**changes: Any) -> bool:
        plain = {"accumulation": accumulation, "extra_updates": extra, "publish_states": ()}
        schedule = Schedule(kind="cosine", warmup_updates=0, horizon=horizon)  # type: ignore[arg-type]
        settings = demo.experiment.science.pretrain.model_copy(update={**plain, "schedule": schedule, **changes})
        arms: Mapping[str, Mapping[str, Pretrain]] = {"random": {"pretrain": settings}}
        try:
            fitting.check(replace(demo, cards=cards, arms=arms))
        except RequestError:
            return True
        return False

    pretrain = demo.experiment.science.pretrain
    try:
        course = Course(
            Order([count], 0, 1), pretrain.epochs, pretrain.batch, pretrain.micro_batch, accumulation, extra
        )
    except RequestError:
        assert refused()
        return
    assert not refused() and not refused(publish_states=(course.total,))
    assert refused(publish_states=(course.total + 1,))
    for warmup in (course.total - 1, course.total):
        schedule = Schedule(kind="cosine", warmup_updates=warmup, horizon=horizon)  # type: ignore[arg-type]
        try:
            LearningRate(schedule, 1.0, course.total, accumulation)
        except RequestError:
            assert warmup == course.total and refused(schedule=schedule)
        else:
            assert warmup < course.total and not refused(schedule=schedule)


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["run", "--dry-run"]])
def test_every_command_that_plans_says_so(specs: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from pi_repro.cli import app

    for name in ("dvc.yaml", "pixi.lock", "uv.lock"):
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, specs.parent / name)
    (specs / "enabled.yaml").write_text("experiments: []\n")
    _edited(specs, "demo-tiny.yaml", "publish_states: [4]", "publish_states: [9]")
    monkeypatch.chdir(specs.parent)
    done = CliRunner().invoke(app, [command[0], "specs/demo-tiny.yaml", *command[1:]])
    assert isinstance(done.exception, RequestError) and "past the last" in str(done.exception)
    assert not (specs.parent / ".pirepro").exists()
