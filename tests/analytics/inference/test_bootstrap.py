"""The bootstrap against scipy's, against the closed forms that it checks, and its edges."""

import numpy as np
import pytest
from report_cases import moments
from scipy import stats

from analytics.inference.bootstrap import bootstrap
from analytics.inference.intervals import difference_shown, lift_shown
from analytics.inference.mean import mean_contrast
from analytics.inference.ratio import ratio_contrast
from analytics.report.evidence import critical_values


def test_scipy_and_the_closed_forms_agree():
    rng = np.random.default_rng(1)
    a, b = rng.gamma(2, 3, 800), rng.gamma(2, 3.3, 700)
    ours = bootstrap(a, b, draws=4000, seed=2)
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: y.mean(axis=axis) / x.mean(axis=axis) - 1, n_resamples=4000, method="percentile", vectorized=True, rng=3
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.lift == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)
    contrast = mean_contrast(moments(a), moments(b))
    assert contrast is not None
    critical = critical_values(contrast, 0.05)
    assert ours.lift == pytest.approx(lift_shown(contrast, critical, "fieller").interval, abs=0.06 * width)
    plain = difference_shown(contrast, critical).interval
    assert ours.difference == pytest.approx(plain, abs=0.06 * (plain[1] - plain[0]))
    lift = b.mean() / a.mean() - 1
    assert ours.basic_lift == pytest.approx((2 * lift - ours.lift[1], 2 * lift - ours.lift[0]), rel=1e-9)


def test_ratios_resample_units():
    """Units differ in how much they bring: resampled views instead of units would give an interval far too narrow."""
    rng = np.random.default_rng(4)
    views = 1 + rng.poisson(10, (2, 500))
    likes = rng.binomial(views, rng.beta(1, 3, (2, 500)))
    ours = bootstrap(
        likes[0].astype(float), likes[1].astype(float),
        control_below=views[0].astype(float), treated_below=views[1].astype(float), draws=3000,
    )  # fmt: skip
    contrast = ratio_contrast(moments(likes[0], views[0]), moments(likes[1], views[1]))
    assert contrast is not None
    low, high = difference_shown(contrast, critical_values(contrast, 0.05)).interval
    assert ours.difference == pytest.approx((low, high), abs=0.06 * (high - low))


def test_edges():
    nothing = bootstrap(np.zeros(0), np.ones(5))
    assert nothing.lift == nothing.difference == (None, None)
    zeros = bootstrap(np.zeros(5), np.ones(5), draws=200)
    assert zeros.lift == zeros.basic_lift == (None, None) and zeros.difference == (1.0, 1.0)
    with pytest.raises(ValueError, match="draws = 10"):
        bootstrap(np.ones(5), np.ones(5), draws=10)
    once, again = (bootstrap(np.arange(9.0), np.arange(9.0) + 1, draws=500, seed=5) for _ in range(2))
    assert once == again
