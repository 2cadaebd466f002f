"""Linear centred kernel alignment: how alike two representations of the same images are.

Rule: 1 for the same representation up to rotation, reflection and one scale, whatever the two widths; undefined
(None) where one of them is the same for all images.

The plain form (Kornblith et al., ICML 2019, eq. 5) is biased upward with few images for many dimensions; the debiased
one puts the unbiased estimator of HSIC (Song et al., JMLR 13, 2012, eq. 5; as CKA: Nguyen et al., ICLR 2021) in place
of each of its three terms, is about 0 for unrelated representations, and may fall below it.
"""

from __future__ import annotations

import math

import numpy as np

from .exact import Floats, centred, floats, product


def linear_cka(one: Floats, other: Floats) -> float | None:
    """|Y'X|^2 / (|X'X| |Y'Y|), Frobenius, of centred features.

    Args:
        one: [n, d] features.
        other: [n, e] features of the same images in the same order.
    """
    _same_images(one, other)
    x, y = centred(one), centred(other)
    cross = _square(product(x.T, y))
    own = math.sqrt(_square(product(x.T, x))) * math.sqrt(_square(product(y.T, y)))
    return cross / own if own > 0 else None


def debiased_cka(one: Floats, other: Floats) -> float | None:
    """Linear CKA with unbiased estimators of HSIC; arguments as in `linear_cka`.

    Returns:
        None too where either estimate of a representation's HSIC with itself is not above zero.

    Raises:
        ValueError: fewer than 4 images, for which the estimator does not exist.
    """
    _same_images(one, other)
    if len(one) < 4:
        raise ValueError("debiased CKA takes 4 images or more")
    # Centred first: the estimator does not change, and large means cost it no digits.
    grams = []
    for rows in (one, other):
        rows = centred(rows)
        gram = product(rows, rows.T)
        np.fill_diagonal(gram, 0.0)
        grams.append(gram)
    k, m = grams
    own = _unbiased_hsic(k, k), _unbiased_hsic(m, m)
    if min(own) <= 0:
        return None
    return _unbiased_hsic(k, m) / math.sqrt(own[0] * own[1])


def _unbiased_hsic(k: Floats, m: Floats) -> float:
    """Song et al. 2012, eq. 5, of two kernels with zero diagonals."""
    n = len(k)
    trace = float((k * m).sum())
    rows_k, rows_m = k.sum(axis=1), m.sum(axis=1)
    total = float(rows_k.sum()) * float(rows_m.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float((rows_k * rows_m).sum()) / (n - 2)
    return (trace + total - cross) / (n * (n - 3))


def _square(matrix: Floats) -> float:
    return float(np.square(floats(matrix)).sum())


def _same_images(one: Floats, other: Floats) -> None:
    if len(one) != len(other):
        raise ValueError(f"{len(one)} images and {len(other)}: features of the same images are compared")
