"""Probabilities to be the best of several normals: against the closed form of two, scipy's adaptive quadrature, and draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import norm

from analytics.policy.best import best_and_second


def _brute(means, errors, k):
    """One arm's probability to be best, by adaptive quadrature told where every posterior lies."""

    def integrand(u):
        others = np.prod([norm.cdf(u, m, s) for j, (m, s) in enumerate(zip(means, errors, strict=True)) if j != k])
        return norm.pdf(u, means[k], errors[k]) * others

    low, high = means[k] - 13 * errors[k], means[k] + 13 * errors[k]
    points = sorted({p for m, s in zip(means, errors, strict=True) for p in (m - 4 * s, m, m + 4 * s) if low < p < high})
    return quad(integrand, low, high, points=points, epsabs=1e-12, epsrel=1e-12, limit=500)[0]


@pytest.mark.parametrize(
    ("means", "errors"),
    [
        ([0.1, 0.12, 0.09], [0.01, 0.012, 0.02]),
        ([0.0, 0.0, 0.0, 1e-3], [1.0, 1e-3, 1e-2, 0.5]),
        ([5.0, 5.1], [0.1, 1e-4]),
    ],
)
def test_best_agrees_with_adaptive_quadrature_to_1e_8(means, errors):
    best, _ = best_and_second(means, errors)
    assert best == pytest.approx([_brute(means, errors, k) for k in range(len(means))], abs=1e-8)


def test_two_arms_have_a_closed_form():
    best, second = best_and_second([0.30, 0.27], [0.02, 0.05])
    assert best[0] == pytest.approx(ndtr(0.03 / np.hypot(0.02, 0.05)), abs=1e-12)
    assert second == pytest.approx([best[1], best[0]], abs=1e-12)


def test_second_agrees_with_draws():
    means, errors = [0.1, 0.12, 0.09, 0.11], [0.01, 0.012, 0.02, 0.005]
    draws = np.random.default_rng(7).normal(means, errors, size=(400_000, 4))
    order = np.argsort(draws, axis=1)
    best, second = best_and_second(means, errors)
    for rank, found in ((-1, best), (-2, second)):
        share = np.bincount(order[:, rank], minlength=4) / len(draws)
        assert found == pytest.approx(share, abs=4 * 0.5 / np.sqrt(len(draws)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-6, 1e3)), min_size=2, max_size=6))
def test_chances_sum_to_one_and_the_shift_does_not_matter(arms):
    means, errors = [m for m, _ in arms], [s for _, s in arms]
    best, second = best_and_second(means, errors)
    assert sum(best) == pytest.approx(1, abs=1e-12) and sum(second) == pytest.approx(1, abs=1e-12)
    assert min(best) >= 0 and min(second) >= 0
    if len({*zip(means, errors, strict=True)}) == 1:
        assert best == pytest.approx([1 / len(arms)] * len(arms))


def test_impossible_posteriors_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        best_and_second([0.1, 0.2], [0.1, 0.0])
    with pytest.raises(ValueError, match="at least 2"):
        best_and_second([0.1], [0.1])
