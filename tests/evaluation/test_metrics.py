"""Ranks against torch.topk and sklearn, and the tie rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from sklearn.metrics import balanced_accuracy_score

from pi_repro.errors import StateError
from pi_repro.evaluation.metrics import (
    classification_metrics,
    mean_margin,
    rank_first_right,
    retrieval_metrics,
    two_afc_metric,
)


def test_rank_counts_what_stands_before_the_first_right_candidate() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    right = torch.tensor([[True, False, True, False], [True, False, False, False]])
    ranking = rank_first_right(scores, right)
    assert ranking.rank.tolist() == [2, 0]
    assert ranking.first.tolist() == [1, 0]
    np.testing.assert_allclose(ranking.margin, [0.5 - 0.9, 0.4 - 0.3], rtol=1e-6)


def test_equal_scores_are_ordered_by_index() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.1, 0.5, 0.5]])
    right = torch.eye(3, dtype=torch.bool)
    ranking = rank_first_right(scores, right)
    assert ranking.rank.tolist() == [0, 1, 1]
    assert ranking.first.tolist() == scores.argmax(1).tolist()
    assert ranking.margin.tolist() == [0, 0, 0]


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_clip_benchmarks(captions: int, k: int) -> None:
    generator = torch.Generator().manual_seed(captions)
    scores = torch.randn(40 * captions, 40, generator=generator)
    owner = torch.arange(40).repeat_interleave(captions)
    right = owner[:, None] == torch.arange(40)[None, :]
    text_rank = rank_first_right(scores.T, right.T).rank
    image_rank = rank_first_right(scores, right).rank
    metrics = retrieval_metrics(text_rank, image_rank, (k,))
    wanted = {
        f"image_retrieval_recall@{k}": (recall_at_k(scores, right, k) > 0).float().mean().item(),
        f"text_retrieval_recall@{k}": (recall_at_k(scores.T, right.T, k) > 0).float().mean().item(),
    }
    assert metrics == pytest.approx(wanted, abs=1e-6)


def test_on_ties_topk_agrees_up_to_the_tie() -> None:
    scores = torch.randint(0, 6, (200, 30), generator=torch.Generator().manual_seed(0)).float()
    right = torch.nn.functional.one_hot(torch.arange(200) % 30, 30).bool()
    rank = rank_first_right(scores, right).rank
    best = scores[right]
    least, most = (scores > best[:, None]).sum(1), (scores >= best[:, None]).sum(1) - 1
    assert (rank >= least.numpy()).all() and (rank <= most.numpy()).all()


def test_classification_metrics_are_sklearns_and_skip_absent_classes() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 6, 300).astype(np.int32)
    logits = torch.from_numpy(random.normal(size=(300, 8)).astype(np.float32))
    right = torch.from_numpy(label.astype(np.int64))[:, None] == torch.arange(8)[None, :]
    ranking = rank_first_right(logits, right)
    metrics = classification_metrics(ranking.rank, label, ranking.first, classes=8)
    top5 = logits.topk(5)[1].eq(torch.from_numpy(label)[:, None]).any(1).double().mean().item()
    assert metrics["acc1"] == pytest.approx(float(np.mean(logits.argmax(1).numpy() == label)), abs=1e-9)
    assert metrics["acc5"] == pytest.approx(top5, abs=1e-9)
    predicted = logits.argmax(1).numpy()
    with pytest.warns(UserWarning):  # sklearn's, about classes that occur as predictions only
        wanted = balanced_accuracy_score(label, predicted)
    assert metrics["mean_per_class_recall"] == pytest.approx(wanted, abs=1e-9)


def test_what_is_undefined_is_none() -> None:
    rank = np.zeros(3, dtype=np.int32)
    assert classification_metrics(rank, rank, rank, classes=4)["acc5"] is None
    metrics = retrieval_metrics(rank, rank, (1, 10))
    assert metrics["text_retrieval_recall@10"] is None and metrics["text_retrieval_recall@1"] == 1
    alone = rank_first_right(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    assert mean_margin(alone.margin) is None


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(StateError, match="not finite"):
        rank_first_right(torch.tensor([[float("nan"), 1.0]]), torch.tensor([[True, False]]))


def test_a_tie_is_half_right() -> None:
    assert two_afc_metric(np.array([2, 1, 0, 2], dtype=np.uint8)) == 5 / 8
