"""Exact posteriors of two proportions: by the closed form for whole numbers, by scipy.integrate, and far out."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from analytics.inference.beta_binomial import compare


def _beta(a: int, b: int) -> Fraction:
    return Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))


def _closed_form(x_a, n_a, x_b, n_b):
    """P(b > a) in rational numbers, flat priors: sum over i < alpha_b of B(aa + i, ba + bb)/((bb + i) B(1 + i, bb) B(aa, ba))."""
    aa, ba, ab, bb = 1 + x_a, 1 + n_a - x_a, 1 + x_b, 1 + n_b - x_b
    return float(sum(_beta(aa + i, ba + bb) / ((bb + i) * _beta(1 + i, bb) * _beta(aa, ba)) for i in range(ab)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_closed_form_for_whole_numbers(x_a, more_a, x_b, more_b):
    counts = (x_a, x_a + more_a, x_b, x_b + more_b)
    assert compare(*counts)[0] == pytest.approx(_closed_form(*counts), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("counts", [(10, 100, 20, 100), (0, 40, 3, 50), (50, 50, 48, 50), (300, 1000, 310, 900)])
@pytest.mark.parametrize("prior", [1.0, 0.5, 3.0])
def test_losses_by_adaptive_quadrature(counts, prior):
    x_a, n_a, x_b, n_b = counts
    a, b = beta(prior + x_a, prior + n_a - x_a), beta(prior + x_b, prior + n_b - x_b)
    points = sorted({a.mean(), b.mean()})
    ship = quad(lambda u: b.cdf(u) * a.sf(u), 0, 1, points=points, epsabs=1e-13, epsrel=1e-11, limit=500)[0]
    keep = quad(lambda u: a.cdf(u) * b.sf(u), 0, 1, points=points, epsabs=1e-13, epsrel=1e-11, limit=500)[0]
    better = quad(lambda q: a.cdf(b.ppf(q)), 0, 1, epsabs=1e-12, limit=500)[0]
    found = compare(*counts, prior=prior)
    assert found == pytest.approx((better, ship, keep), rel=1e-6, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**8), st.floats(0, 1), st.integers(0, 10**8), st.floats(0, 1), st.sampled_from([0.5, 1.0, 2.0]))
def test_arms_change_places_and_losses_differ_by_the_means(n_a, share_a, n_b, share_b, prior):
    x_a, x_b = round(n_a * share_a), round(n_b * share_b)
    better, ship, keep = compare(x_a, n_a, x_b, n_b, prior)
    assert 0 <= better <= 1 and ship >= 0 and keep >= 0
    assert compare(x_b, n_b, x_a, n_a, prior) == pytest.approx((1 - better, keep, ship), rel=1e-9, abs=1e-9)
    # E(b - a) = E max(b - a, 0) - E max(a - b, 0)
    means = (prior + x_b) / (2 * prior + n_b) - (prior + x_a) / (2 * prior + n_a)
    assert keep - ship == pytest.approx(means, rel=1e-9, abs=1e-12)


def test_a_hundred_million_units():
    """There the posterior is normal to four digits; with no success at all the difference is that of two exponentials."""
    better, ship, keep = compare(10**7, 10**8, 10**7 + 3000, 10**8)
    se = math.sqrt(2 * 0.1 * 0.9 / 1e8)
    z = 3e-5 / se
    assert better == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), rel=1e-4)
    assert keep - ship == pytest.approx(3e-5, rel=1e-6)
    better, ship, keep = compare(0, 10**8, 0, 3 * 10**8)
    assert better == pytest.approx(1 / 4, rel=1e-7)
    # a ~ Exp(1e8), b ~ Exp(3e8): E max(a - b, 0) = 1/1e8 - 1/4e8
    assert (ship, keep) == pytest.approx((7.5e-9, 1 / 3e8 - 1 / 4e8), rel=1e-6)


def test_no_data_is_even_and_impossible_counts_are_named():
    assert compare(0, 0, 0, 0) == pytest.approx((0.5, 1 / 6, 1 / 6), rel=1e-12)
    with pytest.raises(ValueError, match="x_b = 5 of n_b = 4"):
        compare(1, 4, 5, 4)
    with pytest.raises(ValueError, match=r"prior = 0\.1"):
        compare(1, 4, 2, 4, prior=0.1)
