"""What makes each arm that arm: labels, shares, frozen towers, extra updates, low rank, the triplet term."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pi_repro.data import labels
from pi_repro.data.draws import share_of, swapped
from pi_repro.data.loader import PairSource, TripletSource
from pi_repro.data.order import Order, Repeated
from pi_repro.data.shards import Shards
from pi_repro.errors import RequestError
from pi_repro.files import path_digest, read_json
from pi_repro.spec.plugins import ConceptLabels
from pi_repro.spec.training import Align, Augmentation, Plugin, Schedule
from pi_repro.stages import align, draw, pretrain
from pi_repro.training import adapters, lineage, objectives, votes, weights
from pi_repro.training import model as models
from pi_repro.training.course import Course
from pi_repro.training.processes import alone
from pi_repro.training.schedule import LearningRate

from . import samples
from .samples import MODEL

RESIZE = Augmentation(kind="resize")


def run(stage: str, settings: dict[str, Any], folder: Path, **inputs: Path) -> Path:
    section = "align" if stage in ("initialize", "finetune") else stage
    context = samples.context(stage, {section: settings}, inputs, folder)
    (align if section == "align" else pretrain).run(context)
    return context.out


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that a training moved."""
    old, new = load_file(weights.last(before)), load_file(weights.last(after))
    assert old.keys() == new.keys()
    return {name for name in old if not old[name].equal(new[name])}


def ledger(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


# labels and shares


def told(start: Path, triplets: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = samples.align(epochs=1, schedule={"kind": "constant", "warmup_updates": 0}, **changes)
    return dict(
        read_json(run("initialize", settings, folder, start=start, triplets=triplets) / "training.json")["data"]
    )


def test_shuffled_labels_agree_with_votes_at_chance(start: Path, tmp_path: Path) -> None:
    many = samples.write_triplets(tmp_path / "many", 450)
    found = told(start, many, tmp_path / "run", labels={"name": "shuffled"})["labels"]
    assert found["of"] == 300
    assert abs(found["agree_with_votes"] / 300 - 0.5) < 4 * 0.5 / 300**0.5


@pytest.mark.parametrize("share, turned", [(0.0, 0), (0.1, 4), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_exactly_a_share_of_labels_is_flipped(
    share: float, turned: int, start: Path, triplets: Path, tmp_path: Path
) -> None:
    found = told(start, triplets, tmp_path, labels={"name": "flipped", "options": {"share": share}})
    assert found["labels"] == {"source": "flipped", "agree_with_votes": 40 - turned, "of": 40}


def test_pixels_call_closer_what_differs_less(start: Path, triplets: Path, tmp_path: Path) -> None:
    found = told(start, triplets, tmp_path, labels={"name": "pixels"})["labels"]
    source = TripletSource(Shards.open(triplets), "train", RESIZE, samples.SIZE, 3)
    batch = source.batch([(0, int(row)) for row in source.rows])
    error = {side: ((batch[side].double() - batch["ref"].double()) ** 2).mean((1, 2, 3)) for side in ("left", "right")}
    assert found["agree_with_votes"] == int(((error["right"] < error["left"]) == batch["label"].bool()).sum())


def classes_of(shards: Shards, rows: np.ndarray) -> np.ndarray:
    return np.array([json.loads(shards.read("json", int(row)))["class"] for row in rows])


def test_concepts_show_another_of_the_class_and_one_of_another_class(tmp_path: Path) -> None:
    shards = Shards.open(samples.write_triplets(tmp_path / "many", 450))
    source = TripletSource(shards, "train", RESIZE, samples.SIZE, 3)
    asked = [labels.Question(source.triplets, source.rows, seed, lambda: iter(())) for seed in (3, 3, 4)]
    first, again, other = (labels.Concepts(ConceptLabels(field="class")).labels(each) for each in asked)
    assert first.sides.tobytes() == again.sides.tobytes() != other.sides.tobytes()
    assert first.labels.sum() == 150
    rows = np.arange(300)
    closer, farther = first.sides[rows, first.labels], first.sides[rows, 1 - first.labels]
    own = classes_of(shards, source.rows)
    assert (classes_of(shards, closer) == own).all() and (closer != source.rows).all()
    assert (classes_of(shards, farther) != own).all()
    assert {*closer} <= {*source.rows} and {*farther} <= {*source.rows}
    # All of the class and all others may come, about evenly: 59 and 240 of them.
    assert len({*closer}) > 150 and len({*farther}) > 150
    assert np.unique(farther, return_counts=True)[1].max() < 10
    assert {*zip(own, classes_of(shards, farther), strict=True)} == {*itertools.permutations("abcde", 2)}


def test_regrouped_triplets_are_made_of_references(triplets: Path) -> None:
    shards = Shards.open(triplets)
    source = TripletSource(shards, "train", RESIZE, samples.SIZE, 3)
    plain = source.batch([(0, int(row)) for row in source.rows])
    ring = np.roll(np.arange(len(source.rows)), 1)
    source.relabel(np.ones(len(ring), np.uint8), source.rows[np.stack([ring, ring[::-1]], axis=1)])
    found = source.batch([(0, int(row)) for row in source.rows])
    assert found["ref"].equal(plain["ref"])
    assert found["left"].equal(plain["ref"][ring]) and found["right"].equal(plain["ref"][ring[::-1].copy()])
    assert found["label"].all()


def test_concepts_train_and_tell_no_agreement_with_votes(start: Path, triplets: Path, tmp_path: Path) -> None:
    concepts = {"name": "concepts", "options": {"field": "class"}}
    assert told(start, triplets, tmp_path / "a", labels=concepts)["labels"] == {"source": "concepts", "of": 40}
    with pytest.raises(RequestError, match="no such field") as error:
        told(start, triplets, tmp_path / "b", labels={"name": "concepts", "options": {"field": "prompt"}})
    assert "class" in str(error.value)


def test_other_labels_train_other_weights_and_val_keeps_its_votes(triplets: Path) -> None:
    shards = Shards.open(triplets)
    source = TripletSource(shards, "train", RESIZE, samples.SIZE, 3)
    votes = source.triplets.label(source.rows)
    source.relabel(1 - votes)
    rows = [(0, int(row)) for row in source.rows[:6]]
    assert source.batch(rows)["label"].tolist() == (1 - votes[:6]).tolist()
    held = TripletSource(shards, "test", RESIZE, samples.SIZE, 3)
    assert held.labels.tolist() == shards.column("label")[held.rows].tolist()


def test_a_label_source_must_answer_for_each_row(start: Path, triplets: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="did you mean 'flipped'"):
        told(start, triplets, tmp_path, labels={"name": "fliped"})


def test_a_label_source_that_draws_draws_by_the_training_s_seed(
    triplets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As EXTENDING.md promises: torch's generator was seeded."""
    coins = SimpleNamespace(labels=lambda asked: torch.randint(2, (len(asked.rows),)).numpy())
    monkeypatch.setattr(votes, "label_source", lambda _: coins)
    settings = Align.model_validate(samples.align(labels={"name": "coins"}))
    found = []
    for seed in (3, 3, 4):
        context = samples.context("initialize", {"align": {}, "seed": seed}, {}, tmp_path)
        source = votes.Votes(settings, samples.SIZE, context).open(Shards.open(triplets))
        found.append(source(alone(torch.device("cpu"))).labels.tolist())
    assert found[0] == found[1] != found[2]


def test_a_fraction_is_nested_and_keeps_the_epoch_s_length(start: Path, triplets: Path, tmp_path: Path) -> None:
    shards = Shards.open(triplets)
    drawn = [TripletSource(shards, "train", RESIZE, samples.SIZE, 3, share).rows for share in (0.05, 0.1, 0.5, 1.0)]
    assert [len(rows) for rows in drawn] == [2, 4, 20, 40]
    assert all(set(small) < set(large) for small, large in itertools.pairwise(drawn))
    other = TripletSource(shards, "train", RESIZE, samples.SIZE, 4, 0.5).rows
    assert set(other) != set(drawn[2])
    source = TripletSource(shards, "train", RESIZE, samples.SIZE, 3, 0.1)
    seen = source.order(4).rows(0, 0, 40)
    assert {row: seen.tolist().count(row) for row in source.rows} == dict.fromkeys(source.rows.tolist(), 10)
    found = told(start, triplets, tmp_path, fraction=0.1)
    assert (found["count"], found["drawn"]) == (40, 4)
    assert len(ledger(tmp_path / "out")) == 5


def test_repeated_epochs_follow_each_other_and_are_shuffled_anew() -> None:
    part = Order([3, 4], 1, 2)
    long = Repeated(part, 10)
    rows = np.concatenate([long.rows(epoch, 0, 10) for epoch in range(7)])
    expected = np.concatenate([part.rows(epoch, 0, 7) for epoch in range(10)])
    assert rows.tolist() == expected.tolist()
    assert long.rows(2, 3, 9).tolist() == rows[23:29].tolist()
    with pytest.raises(IndexError):
        long.rows(0, 5, 11)


def test_draws_are_exact_and_nested_and_swaps_leave_nobody_with_his_own() -> None:
    assert [len(share_of(1000, share, "x")) for share in (0.0, 0.001, 0.3, 1.0)] == [0, 1, 300, 1000]
    assert share_of(1000, 0.1, "x").tolist() == share_of(1000, 0.3, "x")[:100].tolist()
    for share in (0.0, 0.1, 0.5, 1.0):
        source = swapped(1000, share, "x")
        assert (source != np.arange(1000)).sum() == round(1000 * share)
        assert sorted(source) == list(range(1000))
    with pytest.raises(RequestError, match="nobody"):
        swapped(10, 0.1, "x")


# pretraining's switches


def test_exactly_a_share_of_captions_is_of_others(start: Path, pairs: Path, tmp_path: Path) -> None:
    shards = Shards.open(pairs)
    tokenizer = models.tokenizer(MODEL)
    clean = PairSource(shards, RESIZE, samples.SIZE, tokenizer, 3)
    noisy = PairSource(shards, RESIZE, samples.SIZE, tokenizer, 3, 0.25)
    rows = [(0, row) for row in range(shards.count)]
    one, other = clean.batch(rows), noisy.batch(rows)
    assert one["image"].equal(other["image"])
    assert int((one["text"] != other["text"]).any(dim=1).sum()) == 13
    out = run("pretrain", samples.pretrain(caption_noise=0.25), tmp_path, start=start, pairs=pairs)
    assert read_json(out / "training.json")["data"]["captions_of_others"] == 13


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_frozen_tower_does_not_move_a_bit(tower: str, start: Path, pairs: Path, tmp_path: Path) -> None:
    out = run("pretrain", samples.pretrain(freeze=[tower]), tmp_path, start=start, pairs=pairs)
    names = set(load_file(weights.last(start)))
    image = {name for name in names if name.startswith("visual.")}
    trains = image | {"logit_scale"} if tower == "text" else names - image
    assert changed(start, out) == trains
    assert set(read_json(out / "training.json")["trained"]) == trains
    lines = ledger(out)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_frozen_or_not_the_other_tower_s_first_gradient_is_the_same(start: Path, pairs: Path, tmp_path: Path) -> None:
    settings = samples.pretrain(epochs=1, publish_states=[1], keep_epochs=[])
    whole = run("pretrain", settings, tmp_path / "a", start=start, pairs=pairs)
    frozen = run("pretrain", {**settings, "freeze": ["text"]}, tmp_path / "b", start=start, pairs=pairs)
    one, two = (load_file(out / "states/update-000001/optimizer.safetensors") for out in (whole, frozen))
    assert all(one[name].equal(two[name]) for name in two)
    assert any(name.endswith("visual.proj") for name in two) and not any("token_embedding" in name for name in two)


def test_extra_updates_come_before_the_first_epoch_counts(start: Path, pairs: Path, tmp_path: Path) -> None:
    settings = samples.pretrain(extra_updates=5)
    out = run("pretrain", settings, tmp_path, start=start, pairs=pairs)
    about = read_json(out / "training.json")
    assert about["updates"] == 18 + 5 == len(ledger(out))
    assert [(row["epoch"], row["update"]) for row in about["checkpoints"]] == [(0, 0), (2, 17), (3, 23)]
    plain = run("pretrain", samples.pretrain(), tmp_path / "plain", start=start, pairs=pairs)
    assert [line["samples"] for line in ledger(out)][:18] == [line["samples"] for line in ledger(plain)]
    rate = LearningRate(Schedule(kind="cosine", warmup_updates=3), samples.OPTIMIZER["lr"], 23)
    assert [line["lr"] for line in ledger(out)] == [rate.at(update) for update in range(1, 24)]


def test_a_course_with_extra_updates_ends_its_epochs_later() -> None:
    course = Course(Order([10], 3, 1), epochs=2, batch=4, micro_batch=2, extra=3)
    assert course.total == 7
    assert [course.ended_epoch(update) for update in range(8)] == [0, None, None, None, None, 1, None, 2]


def test_the_lineage_s_horizon_counts_accumulated_batches() -> None:
    schedule = Schedule(kind="cosine", warmup_updates=10)
    clean = LearningRate(schedule, 1.0, 100, 6)
    assert clean.at(100) < 1e-3
    quirk = LearningRate(schedule.model_copy(update={"horizon": "micro_batches"}), 1.0, 100, 6)
    # FACTS 1.5, 2: above 0.93 of the peak to the end.
    assert quirk.at(11) == clean.at(11) == 1.0 and 0.93 < quirk.at(100) < 0.95
    one = LearningRate(schedule.model_copy(update={"horizon": "micro_batches"}), 1.0, 100, 1)
    assert [one.at(update) for update in range(1, 101)] == [clean.at(update) for update in range(1, 101)]


# the joint arm


def test_a_joint_stage_sees_the_pairs_of_pretraining_and_triplets_beside(
    start: Path, pairs: Path, triplets: Path, tmp_path: Path
) -> None:
    settings = {**samples.pretrain(), "auxiliary": samples.term()}
    out = run("joint", settings, tmp_path, start=start, pairs=pairs, triplets=triplets)
    lines = ledger(out)
    assert len(lines) == 18
    for line in lines:
        assert line["loss"] == line["loss_clip"] + 0.5 * line["loss_auxiliary"]
    assert lines[-1]["loss_auxiliary"] < lines[0]["loss_auxiliary"]
    about = read_json(out / "training.json")
    assert about["stage"] == "joint" and about["triplets"]["count"] == 40
    assert about["trained"] == [name for name, _ in models.build(MODEL).named_parameters()]
    plain = run("pretrain", samples.pretrain(), tmp_path / "plain", start=start, pairs=pairs)
    assert lines[0]["loss_clip"] == ledger(plain)[0]["loss"]
    assert changed(plain, out)


def test_a_term_without_weight_is_pretraining(start: Path, pairs: Path, triplets: Path, tmp_path: Path) -> None:
    """1e-30 of a gradient is lost in rounding: what is left is pretraining's own arithmetic."""
    settings = {**samples.pretrain(), "auxiliary": samples.term(weight=1e-30)}
    out = run("joint", settings, tmp_path, start=start, pairs=pairs, triplets=triplets)
    plain = run("pretrain", samples.pretrain(), tmp_path / "plain", start=start, pairs=pairs)
    assert changed(plain, out) == set()


# adapters and objectives


def test_low_rank_moves_the_targets_alone_by_low_rank_and_loads_in_open_clip(
    start: Path, triplets: Path, tmp_path: Path
) -> None:
    settings = samples.align(adapter={"name": "lora", "options": {"rank": 2, "alpha": 4.0, "targets": ["qkv"]}})
    out = run("finetune", settings, tmp_path, start=start, triplets=triplets)
    names = {f"visual.transformer.resblocks.{block}.attn.in_proj_weight" for block in (0, 1)}
    assert changed(start, out) == names
    before, after = load_file(weights.last(start)), load_file(weights.last(out))
    for name in names:
        for part in (after[name] - before[name]).double().chunk(3):
            values = torch.linalg.svdvals(part)
            assert values[1] > 0 and values[2] < 1e-5 * values[0]
    models.register(MODEL)
    loaded = open_clip.create_model(MODEL["name"], pretrained=str(weights.last(out))).state_dict()
    assert all(loaded[name].equal(after[name]) for name in after)
    assert read_json(out / "training.json")["trained"] == [
        f"visual.transformer.resblocks.{block}.attn.parametrizations.in_proj_weight.0.{part}"
        for block in (0, 1)
        for part in ("down", "up")
    ]


def test_low_rank_starts_where_the_weights_stand_and_computes_what_it_publishes(start: Path) -> None:
    options = {"rank": 2, "alpha": 4.0, "targets": ["qkv", "out", "mlp"]}
    model = models.load(MODEL, weights.last(start))
    chosen = adapters.adapter(Plugin(name="lora", options=options))
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = adapters.attach(chosen, model, 3)
    assert len(names) == 2 * 4 * 2
    assert all(plain[name].equal(tensor) for name, tensor in chosen.weights(model).items())
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).normal_(0, 0.1)
        merged = models.build(MODEL)
        merged.load_state_dict(chosen.weights(model))
        images = torch.rand(2, 3, samples.SIZE, samples.SIZE)
        assert model.encode_image(images).equal(merged.encode_image(images))  # type: ignore[operator]


def test_low_rank_draws_by_the_training_s_seed(start: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        model = models.load(MODEL, weights.last(start))
        options = {"rank": 2, "alpha": 4.0, "targets": ["qkv"]}
        names = adapters.attach(adapters.adapter(Plugin(name="lora", options=options)), model, seed)
        drawn.append(model.get_parameter(names[0]).detach().clone())
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])


def test_self_supervision_is_nt_xent_and_reads_no_vote() -> None:
    chosen = objectives.objective(Plugin(name="self_supervised", options={"temperature": 0.2}))
    torch.manual_seed(0)
    features = {name: torch.randn(4, 5, dtype=torch.float64) for name in chosen.images}
    found = chosen.loss(features, {})
    views = [nn.functional.normalize(features[name], dim=-1) for name in chosen.images]
    flat = [(sample, view, views[view][sample]) for view in range(3) for sample in range(4)]
    for sample in range(4):
        terms = []
        for s, v, z in flat:
            if s != sample:
                continue
            scores = {(i, j): torch.exp(z @ w / 0.2) for i, j, w in flat if (i, j) != (s, v)}
            terms += [-torch.log(scores[s, other] / sum(scores.values())) for other in range(3) if other != v]
        assert found[sample].item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-12)


def test_self_supervision_trains(start: Path, triplets: Path, tmp_path: Path) -> None:
    settings = samples.align(
        objective={"name": "self_supervised", "options": {"temperature": 0.2}},
        augmentation={"kind": "random_resized_crop", "scale": [0.3, 1.0]},
    )
    votes = run("initialize", settings, tmp_path / "a", start=start, triplets=triplets)
    lines = ledger(votes)
    assert len(lines) == 15 and lines[-1]["loss"] < lines[0]["loss"]
    turned = {**settings, "labels": {"name": "flipped", "options": {"share": 1.0}}}
    blind = run("initialize", turned, tmp_path / "b", start=start, triplets=triplets)
    assert changed(votes, blind) == set()


# the lineage's switches

QUIRKY = {**MODEL, "name": "training-test", "text_pooling": "mean"}


def test_the_lineage_s_text_is_a_mean_over_all_positions_padding_included(start: Path) -> None:
    model = models.load(QUIRKY, weights.last(start)).eval()
    plain = models.load(MODEL, weights.last(start)).eval()
    tokens = models.tokenizer(QUIRKY)(["red", "small dotted cold warm old"])
    clean = models.tokenizer(MODEL)(["red", "small dotted cold warm old"])
    assert (clean == 0).any() and not (tokens == 0).any()
    assert tokens[clean != 0].equal(clean[clean != 0]) and set(tokens[clean == 0].tolist()) == {lineage.PAD}
    with torch.no_grad():
        x = plain.token_embedding(tokens) + plain.positional_embedding  # type: ignore[operator, union-attr]
        x = plain.ln_final(plain.transformer(x, attn_mask=None))  # type: ignore[operator]
        expected = x.mean(1) @ plain.text_projection  # type: ignore[operator]
        assert torch.allclose(model.encode_text(tokens), expected, atol=1e-6)  # type: ignore[operator]
        with_bang = tokens.clone()
        with_bang[:, 3] = 0
        x = plain.token_embedding(with_bang) + plain.positional_embedding  # type: ignore[operator, union-attr]
        x = plain.ln_final(plain.transformer(x, attn_mask=None))  # type: ignore[operator]
        kept = torch.cat([x[:, :3], x[:, 4:]], dim=1).mean(1) @ plain.text_projection  # type: ignore[operator]
        assert torch.allclose(model.encode_text(with_bang), kept, atol=1e-6)  # type: ignore[operator]


def test_the_lineage_s_text_trains_and_is_no_open_clip(start: Path, pairs: Path, tmp_path: Path) -> None:
    settings = {"pretrain": samples.pretrain(), "model": QUIRKY}
    context = samples.context("pretrain", settings, {"start": start, "pairs": pairs}, tmp_path)
    pretrain.run(context)
    assert changed(start, context.out) == set(load_file(weights.last(start)))
    lines = ledger(context.out)
    assert lines[-1]["loss"] < lines[0]["loss"]
    from pi_repro.evaluation.export import export

    with pytest.raises(RequestError, match="no twin"):
        export(context.out, "last", tmp_path / "exported")


def test_the_lineage_draws_its_image_tower_by_its_own_rule(start: Path, tmp_path: Path) -> None:
    wide = {**MODEL["architecture"], "vision_cfg": {**MODEL["architecture"]["vision_cfg"], "width": 256}}
    model = {**MODEL, "name": "training-wide", "architecture": wide, "initialization": "lineage"}
    drawn = []
    for initialization in ("lineage", "open_clip"):
        context = samples.context(
            "draw", {"model": {**model, "initialization": initialization}}, {}, tmp_path / initialization
        )
        draw.run(context)
        drawn.append(load_file(weights.last(context.out)))
    ours, plain = drawn
    block = "visual.transformer.resblocks.1"
    expected = {
        "visual.class_embedding": 1.0,
        "visual.positional_embedding": 0.01,
        "visual.proj": 256**-0.5,
        f"{block}.attn.in_proj_weight": 256**-0.5,
        f"{block}.attn.out_proj.weight": 256**-0.5 * 4**-0.5,
        f"{block}.mlp.c_proj.weight": 256**-0.5 * 4**-0.5,
        f"{block}.mlp.c_fc.weight": 512**-0.5,
    }
    for name, std in expected.items():
        count = ours[name].numel()
        assert ours[name].std().item() == pytest.approx(std, rel=5 / (2 * count) ** 0.5), name
    same = {name for name in ours if ours[name].equal(plain[name])}
    assert {name for name in ours if not name.startswith("visual.")} <= same
    assert not any(name in same for name in expected)
    assert path_digest(tmp_path / "lineage/out") != path_digest(tmp_path / "open_clip/out")
