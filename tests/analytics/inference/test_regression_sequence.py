"""The anytime-valid t of a regression coefficient, and the mSPRT to compare with: by quadrature of their mixtures, and peeking."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import nct, norm
from scipy.stats import t as student

from analytics.inference import msprt, regression_sequence


@pytest.mark.parametrize(("statistic", "units", "columns", "g"), [(2.5, 40, 4, 1.0), (0.3, 12, 2, 1.0), (-3.1, 25, 3, 8.0)])
def test_evidence_is_a_mixture_of_noncentral_t(statistic, units, columns, g):
    """Under the g-prior the t statistic's noncentrality is N(0, n/g): Bayes factor by quadrature with scipy's noncentral t."""
    nu, spread = units - columns, math.sqrt(units / g)
    mixed = quad(lambda d: nct(nu, d).pdf(statistic) * norm(0, spread).pdf(d), -14, 14, points=[0.0, statistic], limit=200)[0]
    assert regression_sequence.e_value(statistic, units, columns, g) == pytest.approx(mixed / student(nu).pdf(statistic), rel=1e-6)


def test_evidence_under_the_null_is_one_on_average():
    mean = quad(lambda v: student(20).pdf(v) * regression_sequence.e_value(v, 24, 4), -300, 300, points=[-5, 0, 5], limit=400)[0]
    assert mean == pytest.approx(1, abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(st.floats(0, 1e3), st.integers(0, 10**9), st.integers(1, 10), st.floats(1e-12, 0.4), st.floats(0.01, 1e4))
def test_interval_ends_where_the_evidence_reaches_the_level(statistic, units, columns, alpha, g):
    critical = regression_sequence.critical(units, columns, alpha, g)
    e = regression_sequence.e_value(statistic, units, columns, g)
    assert e >= 0 and critical > 0
    if math.isinf(critical):
        assert e < 1 / alpha
    elif abs(statistic / critical - 1) > 1e-6:
        assert (e >= 1 / alpha) == (statistic >= critical)
    assert regression_sequence.e_value(math.inf, units, columns, g) >= 1


def test_normal_errors_may_be_looked_at_after_every_unit():
    """1,500 regressions on an intercept (n from 2 to 200): at most alpha ever reach 1/alpha, three times that a fixed t."""
    rng = np.random.default_rng(5)
    y = rng.standard_normal((1500, 200))
    n = np.arange(1, 201)
    mean = np.cumsum(y, axis=1) / n
    variance = (np.cumsum(y**2, axis=1) - n * mean**2)[:, 1:] / (n[1:] - 1)
    statistics = np.abs(mean[:, 1:]) / np.sqrt(variance / n[1:])
    critical = np.array([regression_sequence.critical(int(k), 1, 0.05) for k in n[1:]])
    assert (statistics >= critical).any(axis=1).mean() <= 0.05
    assert (statistics >= student(n[1:] - 1).isf(0.025)).any(axis=1).mean() > 0.15


def test_msprt_is_the_mixture_and_inverts():
    difference, variance, mixing = 0.03, 1e-4, 4e-4

    def joint(m):
        return norm(m, math.sqrt(variance)).pdf(difference) * norm(0, math.sqrt(mixing)).pdf(m)

    mixed = quad(joint, -0.3, 0.3, points=[0.0, 0.03])[0]
    null = norm(0, math.sqrt(variance)).pdf(difference)
    assert msprt.e_value(difference, variance, mixing) == pytest.approx(mixed / null, rel=1e-7)
    half = msprt.half_width(variance, 0.05, mixing)
    assert msprt.e_value(half, variance, mixing) == pytest.approx(20, rel=1e-9)
    # As the notes write it (2.5).
    total = variance + mixing
    assert half == pytest.approx(math.sqrt(variance * total / mixing * (2 * math.log(20) + math.log(total / variance))), rel=1e-12)
    assert msprt.e_value(1e9, 1e-4, 1.0) == 1e300
