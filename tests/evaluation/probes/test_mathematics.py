"""The probes' arithmetic against other implementations, known cases and its own invariances."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from scipy.spatial.distance import pdist
from sklearn.linear_model import RidgeClassifier

from pi_repro.errors import StateError
from pi_repro.evaluation.probes import cka, distance, linear, rsa, sharpness, spectrum
from pi_repro.evaluation.probes.clip_loss import clip_loss

RANDOM = np.random.default_rng(7)


def gaussian(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape)


def rotation(size: int) -> np.ndarray:
    return np.asarray(linalg.qr(gaussian(size, size))[0])


# ---- CKA


@pytest.mark.parametrize("measure", [cka.linear_cka, cka.debiased_cka])
def test_cka_is_one_up_to_rotation_scale_and_offset(measure: object) -> None:
    assert callable(measure)
    x = gaussian(40, 6)
    turned = 3.7 * x @ rotation(6) + 100
    assert measure(x, turned) == pytest.approx(1, abs=1e-9)
    assert measure(x, np.hstack([x, np.zeros((40, 3))])) == pytest.approx(1, abs=1e-12)
    stretched = x * [1, 1, 1, 1, 1, 9]  # an invertible map that is no rotation
    assert measure(x, stretched) < 0.8


def test_cka_by_its_definition_on_gram_matrices() -> None:
    x, y = gaussian(30, 5), gaussian(30, 8)
    centring = np.eye(30) - 1 / 30
    k, m = (centring @ z @ z.T @ centring for z in (x, y))
    assert cka.linear_cka(x, y) == pytest.approx(np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def test_debiased_cka_by_the_sum_over_distinct_quadruples() -> None:
    """Unbiased HSIC is the mean over ordered (i, j, q, r), all different, of k_ij (m_ij + m_qr - 2 m_iq)."""
    x, y = gaussian(7, 2), gaussian(7, 3)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = a @ a.T, b @ b.T
        terms = [
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            for i in range(7)
            for j in range(7)
            for q in range(7)
            for r in range(7)
            if len({i, j, q, r}) == 4
        ]
        return float(np.mean(terms))

    own = hsic(x, x), hsic(y, y)
    found = cka.debiased_cka(x, y)
    assert min(own) > 0 and found == pytest.approx(hsic(x, y) / math.sqrt(own[0] * own[1]))


def test_few_images_and_many_dimensions_fool_the_plain_form_alone() -> None:
    x, y = gaussian(50, 200), gaussian(50, 200)
    plain, debiased = cka.linear_cka(x, y), cka.debiased_cka(x, y)
    assert plain is not None and debiased is not None
    assert plain > 0.7 and abs(debiased) < 0.1


def test_features_that_are_all_the_same_have_no_likeness() -> None:
    assert cka.linear_cka(np.ones((9, 3)), gaussian(9, 3)) is None
    assert cka.debiased_cka(np.ones((9, 3)), gaussian(9, 3)) is None


# ---- spectrum


def with_spectrum(singular: list[float], count: int = 60) -> np.ndarray:
    """Centred features whose centred matrix has these singular values."""
    basis = linalg.qr(np.hstack([np.ones((count, 1)), gaussian(count, len(singular))]), mode="economic")[0][:, 1:]
    return np.asarray(basis @ np.diag(singular) @ rotation(len(singular)))


@pytest.mark.parametrize(
    "singular, rank, ratio",
    [
        ([2, 2, 2, 2], 4, 4),
        ([5, 0, 0], 1, 1),
        ([3, 3, 0, 0, 0], 2, 2),
        ([3, 1], math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))), 100 / 82),
    ],
)
def test_effective_rank_of_known_spectra(singular: list[float], rank: float, ratio: float) -> None:
    found = spectrum.spectrum(with_spectrum(singular) + 5)
    assert found.effective_rank == pytest.approx(rank, rel=1e-6)
    assert found.participation_ratio == pytest.approx(ratio, rel=1e-9)
    assert found.variances == pytest.approx(np.sort(np.square(singular))[::-1] / 60, abs=1e-12)


def test_the_spectrum_is_that_of_the_singular_values() -> None:
    x = gaussian(30, 12) @ gaussian(12, 12)
    values = linalg.svdvals(x - x.mean(0))
    shares = values / values.sum()
    found = spectrum.spectrum(x)
    assert found.effective_rank == pytest.approx(math.exp(stats.entropy(shares)))
    assert found.first_share == pytest.approx(values[0] ** 2 / (values**2).sum())


def test_one_point_has_no_spectrum_and_more_dimensions_than_images_are_no_matter() -> None:
    same = np.tile(gaussian(1, 8), (20, 1))
    assert spectrum.spectrum(same).effective_rank is None
    assert spectrum.spectrum(np.eye(4)[:, :3]).effective_rank is not None
    wide = spectrum.spectrum(gaussian(5, 40))
    assert wide.effective_rank is not None and wide.effective_rank <= 4 + 1e-9


def test_mean_cosine_by_all_pairs() -> None:
    x = gaussian(9, 4)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert spectrum.mean_cosine(x) == pytest.approx(np.mean([a @ b for a, b in combinations(x, 2)]))


# ---- distance


def test_distances_by_hand() -> None:
    before = {
        "visual.transformer.resblocks.0.attn.in_proj_weight": np.array([[3.0, 4.0]]),
        "visual.transformer.resblocks.0.attn.in_proj_bias": np.array([0.0]),
        "visual.transformer.resblocks.10.ln_1.bias": np.zeros(2),
        "visual.conv1.weight": np.array([12.0]),
        "text_projection": np.array([[1.0]]),
        "logit_scale": np.array(2.0),
    }
    after = {
        **before,
        "visual.transformer.resblocks.0.attn.in_proj_bias": np.array([5.0]),
        "logit_scale": np.array(5.0),
    }
    found = distance.distances(after, before)
    block = "visual.transformer.resblocks.0"
    rest = ["text_projection", "visual.conv1", block, "visual.transformer.resblocks.10"]
    assert list(found) == ["whole", "image tower", "text tower", *rest]
    assert (found[block].l2, found[block].reference_norm, found[block].relative) == (5, 5, 1)
    assert found["image tower"].relative == pytest.approx(5 / 13)
    assert found["text tower"].relative == 0 and found["text tower"].cosine == 1
    assert found["whole"].l2 == pytest.approx(math.sqrt(25 + 9))
    assert found["visual.transformer.resblocks.10"].relative is None
    with pytest.raises(ValueError, match="two models"):
        distance.distances(before, {name: before[name] for name in list(before)[1:]})


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    weights = {f"visual.transformer.resblocks.{n}.ln_1.weight": np.ones(1) for n in (0, 2, 9, 10, 11)}
    blocks = [name.split(".")[-1] for name in list(distance.distances(weights, weights))[2:]]
    assert blocks == ["0", "2", "9", "10", "11"]


# ---- linear


def labelled(count: int = 90, width: int = 12, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    labels = RANDOM.integers(classes, size=count)
    return gaussian(count, width) + 0.8 * np.eye(width)[labels], labels


def test_ridge_is_least_squares_with_a_penalty() -> None:
    x, labels = labelled()
    ridge = linear.fit(x, labels, 4, [0.3])
    z = (x - x.mean(0)) / x.std(0)
    y = np.eye(4)[labels]
    padded = np.vstack(
        [np.hstack([z, np.ones((90, 1))]), np.hstack([math.sqrt(0.3 * 90) * np.eye(12), np.zeros((12, 1))])]
    )
    wanted = np.linalg.lstsq(padded, np.vstack([y, np.zeros((12, 4))]), rcond=None)[0]
    assert ridge.weights == pytest.approx(wanted[:12], abs=1e-10)
    assert ridge.intercept == pytest.approx(wanted[12], abs=1e-10)
    theirs = RidgeClassifier(alpha=0.3 * 90).fit(z, labels)
    assert (ridge.outputs(x).argmax(1) == theirs.predict(z)).all()


def test_leave_one_out_errors_are_those_of_leaving_one_out() -> None:
    x, labels = labelled(25, 6, 3)
    penalties = [0.01, 0.2, 3.0]
    ridge = linear.fit(x, labels, 3, penalties)
    # With the scale of all images: it is the smoother whose leave-one-out is meant.
    z, y = (x - x.mean(0)) / x.std(0), np.eye(3)[labels]
    for penalty, found in zip(penalties, ridge.errors, strict=True):
        errors = []
        for out in range(25):
            keep = np.arange(25) != out
            centre, base = z[keep].mean(0), y[keep].mean(0)
            a = z[keep] - centre
            w = np.linalg.solve(a.T @ a + penalty * 25 * np.eye(6), a.T @ (y[keep] - base))
            errors.append((y[out] - base - (z[out] - centre) @ w) ** 2)
        assert found == pytest.approx(np.mean(errors), rel=1e-9)
    assert ridge.penalty == penalties[int(np.argmin(ridge.errors))]


def test_more_dimensions_than_images_and_a_dead_dimension() -> None:
    x, labels = labelled(20, 60, 2)
    x[:, 3] = 1.5
    found = linear.fit(x, labels, 2, [0.1])
    assert np.isfinite(found.weights).all() and (found.outputs(x).argmax(1) == labels).all()


def test_the_split_is_of_every_class_and_by_key_alone() -> None:
    labels = np.repeat([0, 1, 2], [40, 20, 3])
    train, test = linear.split(labels, 0.5, "probe split", "a/set")
    assert np.bincount(labels[train]).tolist() == [20, 10, 2]
    assert sorted([*train, *test]) == list(range(63))
    again, _ = linear.split(labels, 0.5, "probe split", "a/set")
    other, _ = linear.split(labels, 0.5, "probe split", "another")
    assert (train == again).all() and not (train == other).all()


# ---- RSA


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_dissimilarities_are_scipy_s(metric: str) -> None:
    x = gaussian(11, 5)
    assert rsa.dissimilarities(x, metric) == pytest.approx(pdist(x, metric))  # type: ignore[arg-type]


def test_ranks_with_ties_against_scipy_and_by_counting() -> None:
    one, other = RANDOM.integers(5, size=60).astype(float), RANDOM.integers(9, size=60).astype(float)
    assert rsa.spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in combinations(range(60), 2)]
    assert rsa.kendall_tau_a(one, other) == sum(signs) / len(signs)


def test_hand_computed_ranks() -> None:
    assert rsa.spearman(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)
    assert rsa.kendall_tau_a(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(1 / 3)
    assert rsa.kendall_tau_a(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(2 / 3)  # a tie is neither
    assert rsa.spearman(np.ones(3), np.array([1.0, 2, 3])) is None
    assert rsa.kendall_tau_a(np.ones(3), np.array([1.0, 2, 3])) == 0


def square(size: int = 5) -> np.ndarray:
    x = gaussian(size, 3)
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_a_matrix_is_the_same_from_either_form(tmp_path: Path) -> None:
    matrix = square()
    np.save(tmp_path / "m.npy", matrix.astype(np.float32))
    np.savetxt(tmp_path / "m.csv", matrix.astype(np.float32), delimiter=",", fmt="%.17g")
    found = [rsa.read_matrix(tmp_path / name, name, 5) for name in ("m.npy", "m.csv")]
    assert (found[0] == found[1]).all()
    assert rsa.upper(found[0]).tolist() == [found[0][i, j] for i, j in combinations(range(5), 2)]


def test_bad_matrices_are_refused_by_name(tmp_path: Path) -> None:
    class Touches:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    good = square()
    skew, nan = good.copy(), good.copy()
    skew[0, 1] += 1
    nan[1, 2] = np.nan
    objects = np.empty((5, 5), dtype=object)
    objects[0, 0] = Touches()
    for content, problem in (
        (objects, "can't be read"),
        (good[:4, :4], "does not fit"),
        (skew, "not symmetric"),
        (nan, "not finite"),
        (good + np.eye(5), "not zero on its diagonal"),
    ):
        np.save(tmp_path / "m.npy", content, allow_pickle=True)
        with pytest.raises(StateError, match=problem) as error:
            rsa.read_matrix(tmp_path / "m.npy", "rsa/m.npy", 5)
        assert error.value.where == "rsa/m.npy"
    assert not (tmp_path / "touched").exists()
    (tmp_path / "m.csv").write_text("0,x\nx,0\n")
    with pytest.raises(StateError, match="can't be read"):
        rsa.read_matrix(tmp_path / "m.csv", "m.csv", 2)
    (tmp_path / "list.txt").write_text("a\nb\n\na\n")
    with pytest.raises(StateError, match="listed twice"):
        rsa.read_images(tmp_path / "list.txt", "list.txt")


# ---- sharpness


def bowl(weights: dict[str, np.ndarray], curvature: float = 1.0) -> float:
    return 0.5 * curvature * sum(float(np.square(w, dtype=np.float64).sum()) for w in weights.values())


def test_a_direction_has_the_weights_own_length_filter_by_filter() -> None:
    weights = {"a": gaussian(6, 4).astype(np.float32), "b": np.zeros((3, 2, 2, 2), np.float32)}
    weights["b"][1] = 2
    one, other = sharpness.filter_normalized(weights, 0), sharpness.filter_normalized(weights, 1)
    for name, w in weights.items():
        lengths = [np.linalg.norm(v.reshape(len(w), -1), axis=1) for v in (w, one[name])]
        assert lengths[0] == pytest.approx(lengths[1])
    assert not np.allclose(one["a"], other["a"])
    assert (one["a"] == sharpness.filter_normalized({"a": weights["a"]}, 0)["a"]).all()


def test_rises_of_a_bowl_are_known() -> None:
    """With L = |w|^2 / 2 and |d| = |w|: L(w + r d) - L(w) = r w.d + r^2 |w|^2 / 2, along the gradient r + r^2 / 2."""
    weights = {"a": gaussian(50, 40).astype(np.float32)}
    size = float(np.square(weights["a"], dtype=np.float64).sum())
    found = sharpness.sharpness(weights, bowl, weights, [0.1, 0.5], 3)
    assert found.loss == pytest.approx(size / 2)
    assert found.gradient_norm == pytest.approx(math.sqrt(size))
    assert found.ascent == pytest.approx([size * (0.1 + 0.005), size * (0.5 + 0.125)], rel=1e-5)
    for number in range(3):
        inner = float((sharpness.filter_normalized(weights, number)["a"] * weights["a"]).sum())
        wanted = [r * inner + r * r * size / 2 for r in (0.1, 0.5)]
        assert found.random[number] == pytest.approx(wanted, rel=1e-4)


def test_the_rise_of_a_scale_free_loss_does_not_know_the_weights_norm() -> None:
    def direction_alone(weights: dict[str, np.ndarray]) -> float:
        w = weights["a"].astype(np.float64)
        return float((w / np.linalg.norm(w, axis=1, keepdims=True))[:, 0].sum())

    w = gaussian(8, 5).astype(np.float32)
    rises = [sharpness.sharpness({"a": w * scale}, direction_alone, {"a": w}, [0.3], 4).random for scale in (1.0, 64.0)]
    assert rises[0] == pytest.approx(rises[1], rel=1e-5)


def test_only_matrices_of_the_tower_move() -> None:
    shapes = {"visual.conv1.weight": (4, 3, 2, 2), "visual.ln.bias": (4,), "text_projection": (4, 4), "logit_scale": ()}
    assert sharpness.matrices(shapes, "image") == ("visual.conv1.weight",)
    assert sharpness.matrices(shapes, "both") == ("text_projection", "visual.conv1.weight")


def test_the_loss_is_open_clip_s() -> None:
    from open_clip.loss import ClipLoss

    image, text = (torch.nn.functional.normalize(torch.from_numpy(gaussian(12, 6)), dim=-1) for _ in range(2))
    assert float(clip_loss(image, text, 14.3)) == pytest.approx(float(ClipLoss()(image, text, torch.tensor(14.3))))
