"""Two proportions: against statsmodels (pooled z, score statistic of a ratio) and a maximised likelihood (of a difference)."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import proportion
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from statsmodels.stats.proportion import proportions_ztest
from statsmodels.stats.proportion import test_proportions_2indep as score_test

from analytics.inference.proportion import ProportionContrast, proportion_contrast
from analytics.inference.tails import two_sided_critical, two_sided_p

CASES = [(120, 1000, 210, 1010), (3, 40, 11, 37), (0, 50, 9, 60), (7, 50, 0, 45), (50, 50, 30, 40), (1, 9000, 4, 11000)]


def score_by_maximisation(x_a: int, n_a: int, x_b: int, n_b: int, difference: float) -> float:
    """Mee's statistic with scipy's own maximum of the constrained likelihood. (statsmodels 0.15 has `count0` where
    Miettinen & Nurminen's L1 has n0, and so misses that maximum.)"""

    def loss(p: float) -> float:
        return -float(xlogy(x_b, p + difference) + xlogy(n_b - x_b, 1 - p - difference) + xlogy(x_a, p) + xlogy(n_a - x_a, 1 - p))

    bounds = (max(0.0, -difference), min(1.0, 1 - difference))
    p_a = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    p_b = p_a + difference
    return float((x_b / n_b - x_a / n_a - difference) / math.sqrt(p_b * (1 - p_b) / n_b + p_a * (1 - p_a) / n_a))


@pytest.mark.parametrize("case", CASES)
def test_statsmodels_agrees(case):
    x_a, n_a, x_b, n_b = case
    ours = ProportionContrast(x_a=x_a, n_a=n_a, x_b=x_b, n_b=n_b)
    z, p = proportions_ztest([x_b, x_a], [n_b, n_a])
    assert ours.statistic() == pytest.approx(z, rel=1e-12)
    assert two_sided_p(ours.statistic()) == pytest.approx(p, rel=1e-11)
    critical = two_sided_critical(0.05)
    low, high = ours.difference_interval(critical)
    for end, sign in ((low, 1), (high, -1)):
        if -1 < end < 1:
            assert score_by_maximisation(*case, end) == pytest.approx(sign * critical, rel=1e-5)
    if x_a:
        low, high = ours.ratio_interval(critical)
        for end, sign in ((low, 1), (high, -1)):
            if end > 0:
                at_end = score_test(x_b, n_b, x_a, n_a, value=end, compare="ratio", method="score", correction=False)
                assert at_end.statistic == pytest.approx(sign * critical, rel=1e-6)


def test_by_hand():
    # 10/100 against 20/100: pooled q = .15, z = .1/sqrt(.15 .85 .02) = 1.980295
    ours = proportion_contrast(proportion(10, 100), proportion(20, 100))
    assert ours is not None
    assert ours.statistic() == pytest.approx(0.1 / math.sqrt(0.15 * 0.85 * 0.02), rel=1e-14)
    assert ours.se == pytest.approx(math.sqrt(0.0009 + 0.0016), rel=1e-14)
    # se of the lift: sqrt(.0016 + 4 * .0009)/.1
    assert ours.relative_se == pytest.approx(math.sqrt(0.0016 + 4 * 0.0009) / 0.1, rel=1e-14)


def test_empty_and_foreign_inputs():
    assert proportion_contrast(proportion(0, 0), proportion(1, 2)) is None
    assert proportion_contrast(proportion(1, 2), proportion(6, 3)) is None
    nothing = ProportionContrast(x_a=0, n_a=100, x_b=0, n_b=100)
    assert nothing.statistic() == 0
    assert nothing.ratio_interval(1.96) == (None, None)
    low, high = nothing.difference_interval(1.96)
    assert -0.05 < low < 0 < high < 0.05
    certain = ProportionContrast(x_a=0, n_a=10, x_b=10, n_b=10)
    assert certain.difference_interval(1.96)[1] == 1.0


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1), st.floats(1.0, 20.0))
def test_intervals_invert_the_pooled_z(n_a, n_b, share_a, share_b, critical):
    contrast = ProportionContrast(x_a=round(share_a * n_a), n_a=n_a, x_b=round(share_b * n_b), n_b=n_b)
    z = contrast.statistic()
    if abs(abs(z) / critical - 1) < 1e-6:
        return
    low, high = contrast.difference_interval(critical)
    assert -1 <= low <= contrast.treated - contrast.control <= high <= 1
    assert (not low <= 0 <= high) == (abs(z) > critical)
    low, high = contrast.ratio_interval(critical)
    if low is not None:
        assert 0 <= low <= contrast.treated / contrast.control * (1 + 1e-12) and high < math.inf
        assert (not low <= 1 <= high) == (abs(z) > critical)
