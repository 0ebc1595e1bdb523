"""Means, ratios, lifts: against scipy (Welch), statsmodels (clustered OLS) and arithmetic by hand."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import moments
from scipy import stats

from analytics.facts import Moments
from analytics.inference.contrast import independent
from analytics.inference.mean import mean_contrast
from analytics.inference.ratio import ratio_contrast
from analytics.inference.tails import chi_square_p, normal_statistic, two_sided_critical, two_sided_p, upper_p

RNG = np.random.default_rng(5)


def test_welch_is_scipys():
    a, b = RNG.gamma(2, 3, 150), RNG.gamma(2, 4, 90)
    ours = mean_contrast(moments(a), moments(b))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert ours is not None
    assert ours.statistic() == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.df == pytest.approx(theirs.df, rel=1e-12)
    assert two_sided_p(ours.statistic(), ours.df) == pytest.approx(theirs.pvalue, rel=1e-11)
    interval = theirs.confidence_interval(0.95)
    assert ours.difference_interval(two_sided_critical(0.05, ours.df)) == pytest.approx((interval.low, interval.high), rel=1e-11)


def test_lift_by_hand():
    # means 4 and 5, variances of the means 0.04 and 0.09: delta se of the lift = sqrt(.09 + (5/4)^2 .04)/4
    contrast = independent(treated=5, control=4, treated_variance=0.09, control_variance=0.04, df=100, units=200)
    assert contrast.relative_se == pytest.approx(math.sqrt(0.09 + 1.5625 * 0.04) / 4, rel=1e-14)
    # Fieller at critical value 2: (16 - .16) R^2 - 2 * 20 R + (25 - .36) = 0
    roots = sorted(np.roots([16 - 0.16, -40, 25 - 0.36]))
    assert contrast.ratio_interval(2) == pytest.approx(tuple(roots), rel=1e-12)


def test_fieller_says_unbounded_when_the_control_may_be_zero():
    contrast = independent(treated=5, control=0.1, treated_variance=0.09, control_variance=0.04, df=100, units=200)
    assert contrast.ratio_interval(2) == (None, None)


def test_ratio_equals_clustered_regression():
    """statsmodels OLS of event rows clustered by unit (CR0) differs from the delta method by n/(n-1) only."""
    n = 400
    views = RNG.integers(1, 6, (2, n))
    likes = RNG.binomial(views, RNG.beta(2, 5, (2, n)))
    ours = ratio_contrast(moments(likes[0], views[0]), moments(likes[1], views[1]))
    rows, unit, arm = [], [], []
    for k in (0, 1):
        for i in range(n):
            rows += [1.0] * int(likes[k, i]) + [0.0] * int(views[k, i] - likes[k, i])
            unit += [k * n + i] * int(views[k, i])
            arm += [float(k)] * int(views[k, i])
    fit = sm.OLS(rows, sm.add_constant(arm)).fit(cov_type="cluster", cov_kwds={"groups": unit, "use_correction": False})
    assert ours is not None
    assert ours.treated - ours.control == pytest.approx(fit.params[1], rel=1e-10)
    assert ours.se == pytest.approx(fit.bse[1] * math.sqrt(n / (n - 1)), rel=1e-10)


def test_no_inference_rather_than_nonsense():
    assert mean_contrast(moments([1.0]), moments([1.0, 2.0])) is None
    assert mean_contrast(moments([]), moments([])) is None
    assert mean_contrast(moments([3.0, 3.0]), moments([3.0, 3.0])) is None
    assert ratio_contrast(moments([0, 0], [0, 0]), moments([1, 2], [2, 2])) is None
    twice = np.array([1.0, 3.0, 7.0])
    assert ratio_contrast(moments(2 * twice / 3, twice), moments(2 * twice / 3, twice)) is None


def test_one_constant_arm_still_compares():
    contrast = mean_contrast(Moments(n=50, mean=0.0, m2=0.0), moments([0.0, 1.0] * 20))
    assert contrast is not None
    assert contrast.df == pytest.approx(39)
    assert contrast.relative_se is None


def test_tails_do_not_round_to_zero():
    assert two_sided_p(12.0) == pytest.approx(2 * stats.norm.sf(12), rel=1e-12)
    assert two_sided_p(40.0, 30.0) == pytest.approx(2 * stats.t.sf(40, 30), rel=1e-10)
    assert upper_p(-1.0) == pytest.approx(stats.norm.sf(-1))
    assert chi_square_p(100.0, 1) == pytest.approx(1.523970604832105e-23, rel=1e-12)  # scipy.stats.chi2.sf(100, 1)
    assert normal_statistic(two_sided_p(7.5)) == pytest.approx(7.5, rel=1e-12)


numbers = st.floats(-1e6, 1e6)
sizes = st.integers(2, 10**7)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.floats(0, 1e9), st.floats(1e-9, 1e9), sizes, sizes, st.floats(1.0, 30.0))
def test_intervals_invert_the_test(a, b, va, vb, na, nb, critical):
    """Both intervals exclude "no change" exactly when the statistic exceeds the critical value."""
    contrast = mean_contrast(Moments(n=na, mean=a, m2=va), Moments(n=nb, mean=b, m2=vb))
    if contrast is None or abs(abs(contrast.statistic()) / critical - 1) < 1e-6:
        return
    significant = abs(contrast.statistic()) > critical
    low, high = contrast.difference_interval(critical)
    assert (not low <= 0 <= high) == significant
    low, high = contrast.ratio_interval(critical)
    if low is not None and abs(b - a) > 1e-9 * abs(a):
        assert (not low <= 1 <= high) == significant
