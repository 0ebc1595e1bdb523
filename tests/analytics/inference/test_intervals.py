"""The intervals shown: against statsmodels (Newcombe), tea-tasting (log-delta), formulas by hand; and that none contradicts its test."""

import math

import numpy as np
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_cases import joint
from report_cases import moments, proportion
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from analytics.facts import Moments
from analytics.inference.contrast import UNBOUNDED, LinearContrast, independent
from analytics.inference.cuped import adjusted_contrast
from analytics.inference.exact import exact_contrast
from analytics.inference.intervals import Critical, difference_shown, lift_shown
from analytics.inference.mean import mean_contrast
from analytics.inference.newcombe import newcombe_interval, wilson_interval
from analytics.inference.proportion import ProportionContrast
from analytics.inference.tails import two_sided_critical
from analytics.report.evidence import critical_values

CASES = [(120, 1000, 210, 1010), (3, 40, 11, 37), (0, 50, 9, 60), (7, 50, 0, 45), (50, 50, 30, 40), (1, 9000, 4, 11000)]


@pytest.mark.parametrize("case", CASES)
def test_newcombe_is_statsmodels(case):
    x_a, n_a, x_b, n_b = case
    critical = two_sided_critical(0.05)
    ours = newcombe_interval(ProportionContrast(x_a=x_a, n_a=n_a, x_b=x_b, n_b=n_b), critical)
    theirs = confint_proportions_2indep(x_b, n_b, x_a, n_a, method="newcomb", compare="diff", alpha=0.05)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert wilson_interval(x_b, n_b, critical) == pytest.approx(proportion_confint(x_b, n_b, method="wilson"), rel=1e-12, abs=1e-15)


def test_lift_of_proportions_by_hand():
    """100 of 1000 against 150 of 1000: L = .5; se_L^2 = .15 .85/1000/.01 + .0225 .09/1000/.0001; t with Welch df on m(1 - m)."""
    contrast = ProportionContrast(x_a=100, n_a=1000, x_b=150, n_b=1000)
    a, b = 0.1 * 0.9 / 1000, 0.15 * 0.85 / 1000
    df = (a + b) ** 2 / (a**2 / 999 + b**2 / 999)
    assert contrast.lift_df == pytest.approx(df, rel=1e-12)
    se = math.sqrt(b / 0.01 + 0.0225 * a / 0.0001)
    half = two_sided_critical(0.05, df) * se
    shown = lift_shown(contrast, critical_values(contrast, 0.05), "delta")
    assert shown.interval == pytest.approx((0.5 - half, 0.5 + half), rel=1e-12)
    assert shown.method == "delta method"
    s = math.sqrt(0.85 / 150 + 0.9 / 100)
    own, other = 0.9 / 100, 0.85 / 150
    t = two_sided_critical(0.05, (own + other) ** 2 / (own**2 / 999 + other**2 / 999))
    shown = lift_shown(contrast, critical_values(contrast, 0.05), "log_delta")
    assert shown.interval == pytest.approx((1.5 * math.exp(-t * s) - 1, 1.5 * math.exp(t * s) - 1), rel=1e-12)


def test_log_delta_is_tea_tastings():
    rng = np.random.default_rng(4)
    a, b = rng.gamma(2, 3, 220), rng.gamma(2, 3.4, 150)
    aggregates = [tt.aggr.Aggregates(count_=len(y), mean_={"y": y.mean()}, var_={"y": y.var(ddof=1)}, cov_={}) for y in (a, b)]
    theirs = tt.Mean("y").analyze_aggregates(*aggregates)
    contrast = mean_contrast(moments(a), moments(b))
    assert contrast is not None
    shown = lift_shown(contrast, critical_values(contrast, 0.05), "log_delta")
    assert shown.interval == pytest.approx((theirs.rel_effect_size_ci_lower, theirs.rel_effect_size_ci_upper), rel=1e-10)
    difference = difference_shown(contrast, critical_values(contrast, 0.05)).interval
    assert difference == pytest.approx((theirs.effect_size_ci_lower, theirs.effect_size_ci_upper), rel=1e-10)


def test_fieller_by_the_notes_formula():
    rng = np.random.default_rng(6)
    a, b = rng.normal(5, 4, 60), rng.normal(7, 5, 80)
    contrast = mean_contrast(moments(a), moments(b))
    assert contrast is not None
    critical = critical_values(contrast, 0.05)
    t, v_a, v_b = critical.test, a.var(ddof=1) / 60, b.var(ddof=1) / 80
    g, ratio = t * t * v_a / a.mean() ** 2, b.mean() / a.mean()
    centre, half = ratio / (1 - g), t / a.mean() * math.sqrt(v_b + ratio**2 * v_a - g * v_b) / (1 - g)
    shown = lift_shown(contrast, critical, "fieller")
    assert shown.interval == pytest.approx((centre - half - 1, centre + half - 1), rel=1e-10)
    assert shown.method == "Fieller's interval"


@pytest.mark.parametrize("case,significant", [((10, 56, 61, 195), True), ((50, 500, 11, 60), False)])
def test_mee_stands_in_where_newcombe_contradicts(case, significant):
    """z = 1.966 with Newcombe's interval from -0.0002, and z = 1.958 with one from +0.0002."""
    x_a, n_a, x_b, n_b = case
    contrast = ProportionContrast(x_a=x_a, n_a=n_a, x_b=x_b, n_b=n_b)
    critical = critical_values(contrast, 0.05)
    assert (abs(contrast.statistic()) > critical.test) == significant != (newcombe_interval(contrast, critical.test)[0] > 0)
    shown = difference_shown(contrast, critical)
    assert "Mee" in shown.method and (shown.interval[0] > 0) == significant
    assert shown.interval == contrast.difference_interval(critical.test)


def test_koopman_and_fieller_stand_in_where_the_delta_method_contradicts():
    """100 of 1000 against 130: p = .035, yet L / se_L = 1.84. Means 1 and 1.5 likewise."""
    contrast = ProportionContrast(x_a=100, n_a=1000, x_b=130, n_b=1000)
    shown = lift_shown(contrast, critical_values(contrast, 0.05), "delta")
    assert shown.method == "Koopman's score interval (the delta method would contradict the test)" and shown.interval[0] > 0
    means = independent(control=1, treated=1.5, control_variance=0.03, treated_variance=0.03, df=1000, units=900)
    critical = critical_values(means, 0.05)
    assert means.statistic() > critical.test > 0.5 / (means.relative_se or 0)
    shown = lift_shown(means, critical, "delta")
    assert shown.method == "Fieller's interval (the delta method would contradict the test)" and shown.interval[0] > 0


def test_lifts_that_cannot_be_told():
    zero = independent(treated=5, control=0, treated_variance=0.09, control_variance=0.04, df=100, units=200)
    assert lift_shown(zero, critical_values(zero, 0.05), "delta").interval == UNBOUNDED
    assert "control's mean is 0" in lift_shown(zero, critical_values(zero, 0.05), "delta").method
    near = independent(treated=5, control=0.1, treated_variance=0.09, control_variance=0.04, df=100, units=200)
    shown = lift_shown(near, critical_values(near, 0.05), "fieller")
    assert shown.interval == UNBOUNDED and "unbounded" in shown.method
    below = independent(treated=-5, control=-4, treated_variance=0.09, control_variance=0.04, df=100, units=200)
    shown = lift_shown(below, critical_values(below, 0.05), "log_delta")
    assert "log-delta method cannot be told" in shown.method and shown.interval[0] < -0.25 < shown.interval[1] < 0
    shown = lift_shown(below, critical_values(below, 0.05), "delta")
    half = two_sided_critical(0.05, 100) * math.sqrt(0.09 + 1.25**2 * 0.04) / 4
    assert shown.interval == pytest.approx((-0.25 - half, -0.25 + half), rel=1e-12)


numbers = st.floats(-1e6, 1e6)
share = st.floats(0, 1)


def check_agreement(contrast, critical: Critical, method: str) -> None:
    statistic = abs(contrast.statistic())
    if statistic == 0 or abs(statistic / critical.test - 1) < 1e-6:
        return
    significant = statistic > critical.test
    difference = contrast.difference
    for shown, estimate in (
        (difference_shown(contrast, critical), difference),
        (lift_shown(contrast, critical, method), difference / abs(contrast.control) if contrast.control else None),
    ):
        low, high = shown.interval
        if low is None or high is None:
            assert ((low, high) == UNBOUNDED and estimate is None) or "unbounded" in shown.method or shown.method.startswith("no lift")
            continue
        assert estimate is not None and shown.method is not None
        slack = 1e-9 * max(abs(low), abs(high), abs(estimate))
        assert low - slack <= estimate <= high + slack
        assert (low > 0 or high < 0) == significant


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), share, share, st.floats(0.001, 0.4), st.sampled_from(["delta", "fieller", "log_delta"]))
def test_proportions_never_contradict_their_test(n_a, n_b, share_a, share_b, alpha, method):
    contrast = ProportionContrast(x_a=round(share_a**2 * n_a), n_a=n_a, x_b=round(share_b**2 * n_b), n_b=n_b)
    check_agreement(contrast, critical_values(contrast, alpha), method)
    exact = exact_contrast(contrast) if n_a * n_b < 3000 else None
    if exact is not None:
        check_agreement(exact, critical_values(exact, alpha), method)


@settings(max_examples=150, deadline=None)
@given(
    numbers, numbers, st.floats(0, 1e9), st.floats(1e-9, 1e9), st.integers(2, 10**6), st.integers(2, 10**6), st.floats(0.001, 0.4),
    st.sampled_from(["delta", "fieller", "log_delta"]),
)  # fmt: skip
def test_means_never_contradict_their_test(a, b, va, vb, na, nb, alpha, method):
    contrast = mean_contrast(Moments(n=na, mean=a, m2=va), Moments(n=nb, mean=b, m2=vb))
    if contrast is not None:
        check_agreement(contrast, critical_values(contrast, alpha), method)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 40), st.integers(3, 40), st.floats(0.01, 0.4), st.sampled_from(["delta", "fieller"]))
def test_adjusted_means_never_contradict_their_test(seed, n_a, n_b, alpha, method):
    rng = np.random.default_rng(seed)
    x_a, x_b = rng.normal(0, 1, n_a), rng.normal(0, 1, n_b)
    arms = joint(x_a + rng.normal(1, 1, n_a), x_a), joint(x_b + rng.normal(1.5, 1, n_b), x_b)
    adjusted = adjusted_contrast([arms])
    assert adjusted is not None and isinstance(adjusted.contrast, LinearContrast)
    check_agreement(adjusted.contrast, critical_values(adjusted.contrast, alpha), method)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.floats(1e-6, 1e6))
def test_scale_changes_nothing(control, treated, spread, scale):
    """Lift, its interval and the statistic do not depend on the unit of the metric; the difference scales with it."""
    one, other = (
        mean_contrast(Moments(n=50, mean=control * k, m2=spread * k * k), Moments(n=60, mean=treated * k, m2=spread * k * k))
        for k in (1.0, scale)
    )
    assert one is not None and other is not None
    assert other.statistic() == pytest.approx(one.statistic(), rel=1e-9)
    left, right = (lift_shown(c, critical_values(c, 0.05), "delta").interval for c in (one, other))
    assert (left[0] is None) == (right[0] is None)
    if left[0] is not None:
        assert right == pytest.approx(left, rel=1e-6, abs=1e-9)


def test_small_counts_stretch_no_further_than_the_exact_test():
    contrast = exact_contrast(ProportionContrast(x_a=1, n_a=20, x_b=2, n_b=20))
    assert contrast is not None and contrast.p_value > 0.8
    low, high = difference_shown(contrast, critical_values(contrast, 0.05)).interval
    assert -0.5 < low < 0 < high < 0.5
    assert exact_contrast(ProportionContrast(x_a=100, n_a=1000, x_b=120, n_b=1000)) is None
    assert proportion(1, 20).n == 20
