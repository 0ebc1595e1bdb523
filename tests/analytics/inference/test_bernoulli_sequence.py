"""Guaranteed sequences for proportions: by numerical integration of the mixture, and by walks looked at after every unit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom

from analytics.inference import bernoulli_sequence


def test_evidence_is_the_mixture_of_likelihood_ratios():
    """7 of 20 against p = 0.6 where 100 units were planned: k = 100/7.936 - 1 by hand, the mixture by quadrature."""
    c = 2 * math.log(20) + math.log(1 + 2 * math.log(20))
    k = 100 / c - 1
    mixed = quad(lambda u: beta(k * 0.6, k * 0.4).pdf(u) * u**7 * (1 - u) ** 13, 0, 1)[0]
    assert bernoulli_sequence.log_e(0.6, 7, 20, 100) == pytest.approx(math.log(mixed / (0.6**7 * 0.4**13)), abs=1e-7)


@pytest.mark.parametrize(("p", "n", "planned"), [(0.3, 25, 60), (0.004, 200, 5000), (0.5, 7, 2)])
def test_evidence_against_the_truth_is_one_on_average(p, n, planned):
    """An e-value: sum over x of its binomial probability x e(x) is 1, whatever p, n and the planned units."""
    mean = sum(binom(n, p).pmf(x) * math.exp(bernoulli_sequence.log_e(p, x, n, planned)) for x in range(n + 1))
    assert mean == pytest.approx(1, rel=1e-9)


def test_ends_are_where_the_evidence_reaches_the_level():
    low, high = bernoulli_sequence.interval(50, 500, 0.05, 2500)
    assert bernoulli_sequence.log_e(low, 50, 500, 2500) == pytest.approx(math.log(20), abs=1e-9)
    assert bernoulli_sequence.log_e(high, 50, 500, 2500) == pytest.approx(math.log(20), abs=1e-9)
    a, b = bernoulli_sequence.interval(50, 500, 0.025, 2500), bernoulli_sequence.interval(80, 500, 0.025, 2500)
    assert bernoulli_sequence.difference_interval(50, 500, 80, 500, 0.05, 5000) == (b[0] - a[1], b[1] - a[0])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**8), st.floats(0, 1), st.floats(1e-12, 0.4), st.floats(2, 1e7))
def test_interval_holds_the_estimate_and_mirrors(n, share, alpha, planned):
    x = round(n * share)
    low, high = bernoulli_sequence.interval(x, n, alpha, planned)
    assert 0 <= low <= (x / n if n else 0.5) <= high <= 1
    mirrored = bernoulli_sequence.interval(n - x, n, alpha, planned)
    # gammaln of 1e8 has an error of some 1e-7 in the logarithm.
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)
    wider = bernoulli_sequence.interval(x, n, alpha / 2, planned)
    assert wider[0] <= low + 1e-12 and wider[1] >= high - 1e-12


def test_extremes_and_impossible_counts():
    assert bernoulli_sequence.interval(0, 0, 0.05, 100) == (0.0, 1.0)
    assert bernoulli_sequence.interval(0, 1000, 0.05, 100)[0] == 0.0
    assert bernoulli_sequence.interval(1000, 1000, 0.05, 100)[1] == 1.0
    low, high = bernoulli_sequence.interval(0, 10**8, 0.05, 2500)
    assert low == 0.0 and 1e-9 < high < 1e-7
    # A plan beyond all bounds has no power, but never a false certainty.
    low, high = bernoulli_sequence.interval(30, 100, 0.05, 1e300)
    assert low < 0.2 and high > 0.4
    with pytest.raises(ValueError, match="x = 11 of n = 10"):
        bernoulli_sequence.interval(11, 10, 0.05, 100)


@pytest.mark.parametrize("p", [0.02, 0.3])
def test_true_proportion_stays_inside_after_every_unit(p):
    """600 walks of 400 units, looked at after each: left by at most alpha of them. A Wald interval is left by most."""
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.random((600, 400)) < p, axis=1)
    n = np.arange(1, 401)
    evidence = {(k, m): bernoulli_sequence.log_e(p, k, m, 200) for m in n for k in range(int(x[:, m - 1].max()) + 1)}
    worst = np.array([max(evidence[(int(k), int(m))] for k, m in zip(row, n, strict=True)) for row in x])
    assert (worst > math.log(20)).mean() <= 0.05
    share = x / n
    wald = np.abs(share - p) > 1.96 * np.sqrt(share * (1 - share) / n)
    assert wald[:, 30:].any(axis=1).mean() > 0.2
