"""Exact tests of two proportions against scipy's, and against all tables counted one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analytics.inference.exact import LARGEST_ARM, exact_contrast, exact_tests, fisher_p
from analytics.inference.proportion import ProportionContrast
from analytics.inference.tails import two_sided_p


@pytest.mark.parametrize("x_a,n_a,x_b,n_b", [(1, 20, 5, 20), (0, 7, 5, 5), (3, 12, 3, 9), (9, 10, 0, 10), (38, 40, 30, 37), (2, 50, 6, 50)])
def test_scipy_agrees(x_a, n_a, x_b, n_b):
    ours = exact_tests(x_a, n_a, x_b, n_b)
    table = [[x_b, x_a], [n_b - x_b, n_a - x_a]]
    assert ours.fisher == pytest.approx(stats.fisher_exact(table)[1], rel=1e-9)
    # scipy samples the common proportion and polishes the best sample: it may stay a little below the maximum.
    barnard, boschloo = stats.barnard_exact(table, n=64).pvalue, stats.boschloo_exact(table, n=64).pvalue
    assert ours.barnard == pytest.approx(barnard, rel=1e-6) and ours.barnard >= barnard - 1e-9
    assert ours.boschloo == pytest.approx(boschloo, rel=1e-6) and ours.boschloo >= boschloo - 1e-9


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 10**8), st.integers(1, 10**8), st.integers(0, 40), st.integers(0, 40))
def test_fisher_is_scipys_at_any_size(n_a, n_b, x_a, x_b):
    x_a, x_b = min(x_a, n_a), min(x_b, n_b)
    ours = fisher_p(x_a, n_a, x_b, n_b)
    assert ours == pytest.approx(stats.fisher_exact([[x_a, x_b], [n_a - x_a, n_b - x_b]])[1], rel=1e-5)
    assert ours == pytest.approx(fisher_p(x_b, n_b, x_a, n_a), rel=1e-9)


def test_boschloo_keeps_its_level_at_every_common_proportion():
    """Every table of 9 and 11 units: the chance of p <= .05 is at most .05 whatever the proportion is, that of the pooled z is not."""
    n_a, n_b = 9, 11
    tables = [(a, b) for a in range(n_a + 1) for b in range(n_b + 1)]
    exact, pooled = {}, {}
    for a, b in tables:
        exact[a, b] = exact_tests(a, n_a, b, n_b).boschloo
        pooled[a, b] = two_sided_p(ProportionContrast(x_a=a, n_a=n_a, x_b=b, n_b=n_b).statistic())
    worst = {"exact": 0.0, "pooled": 0.0}
    for p in np.linspace(0.005, 0.995, 199):
        chance = {t: stats.binom.pmf(t[0], n_a, p) * stats.binom.pmf(t[1], n_b, p) for t in [(a, 0) for a in range(n_a + 1)]}
        pmf_a = stats.binom.pmf(np.arange(n_a + 1), n_a, p)
        pmf_b = stats.binom.pmf(np.arange(n_b + 1), n_b, p)
        assert chance[0, 0] == pytest.approx(pmf_a[0] * pmf_b[0])
        for name, values in (("exact", exact), ("pooled", pooled)):
            worst[name] = max(worst[name], sum(pmf_a[a] * pmf_b[b] for a, b in tables if values[a, b] <= 0.05))
    assert worst["exact"] <= 0.05 + 1e-9 < worst["pooled"]


def test_many_units_leave_fisher():
    ours = exact_tests(1, 2000, 3, 2000)
    assert ours.barnard is None and ours.boschloo is None and ours.p_value == ours.fisher
    assert exact_tests(0, 3, 1, LARGEST_ARM + 1).boschloo is None


def test_when_counts_are_small():
    assert exact_contrast(ProportionContrast(x_a=10, n_a=100, x_b=10, n_b=100)) is None
    small = exact_contrast(ProportionContrast(x_a=4, n_a=100, x_b=5, n_b=100))
    assert small is not None and small.tests.boschloo is not None
    nobody = exact_contrast(ProportionContrast(x_a=0, n_a=1, x_b=0, n_b=1))
    assert nobody is not None and nobody.p_value == 1 and nobody.statistic() == 0
    everybody = exact_contrast(ProportionContrast(x_a=4, n_a=4, x_b=9, n_b=9))
    assert everybody is not None and everybody.p_value == 1


@pytest.mark.parametrize("case", [(0, 12, 6, 12), (1, 20, 5, 20), (9, 9, 0, 8), (3, 9, 0, 30)])
def test_statistic_and_cautious_statistic(case):
    x_a, n_a, x_b, n_b = case
    contrast = exact_contrast(ProportionContrast(x_a=x_a, n_a=n_a, x_b=x_b, n_b=n_b))
    assert contrast is not None
    assert two_sided_p(contrast.statistic()) == pytest.approx(contrast.p_value, rel=1e-9)
    assert math.copysign(1, contrast.statistic()) == math.copysign(1, x_b / n_b - x_a / n_a)
    assert abs(contrast.cautious.statistic()) <= min(abs(contrast.statistic()), abs(contrast.score.statistic())) * (1 + 1e-9)
