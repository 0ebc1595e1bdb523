"""Sample ratio, exposure, latency gap: against scipy's chi-square, the papers' formulas and simulation."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_cases import START, facts, moments, proportion
from scipy import stats
from scipy.special import gammaln, log_ndtr

from analytics.checks import exposure, latency_gap, sample_ratio
from analytics.facts import WeightPeriod
from analytics.inference.tails import chi_square_log10_p


def period(weights: dict[str, float], units: dict[str, int]) -> WeightPeriod:
    return WeightPeriod(started_at=START, weights=weights, units=units)


HALVES = {"a": 0.5, "b": 0.5}


def test_chi_square_is_scipys_down_to_tiny_tails():
    # 50,000 against 48,420: chi-square (1580)^2/98420; and an exact tail near 1e-23 where 1 - cdf is 0
    srm = sample_ratio([period(HALVES, {"a": 50_500, "b": 47_362})], ["a", "b"])
    expected = stats.chisquare([50_500, 47_362])
    assert srm.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert 1e-24 < expected.pvalue < 1e-22
    assert srm.log10_p_value == pytest.approx(math.log10(expected.pvalue), rel=1e-12)
    assert srm.e_value > 1000 and not srm.ok


@pytest.mark.parametrize("statistic", [3.0, 900.0, 1288.0, 1400.0, 1e4, 1e9])
def test_log_of_a_p_value_that_no_double_holds(statistic):
    """One degree of freedom is two normal tails, two are exp(-x/2)."""
    assert chi_square_log10_p(statistic, 1) == pytest.approx((log_ndtr(-math.sqrt(statistic)) + math.log(2)) / math.log(10), rel=1e-12)
    assert chi_square_log10_p(statistic, 2) == pytest.approx(-statistic / 2 / math.log(10), rel=1e-12)


def test_a_gross_mismatch_has_a_logarithm_and_no_p_of_zero():
    srm = sample_ratio([period(HALVES, {"a": 30_000, "b": 10_000})], ["a", "b"])
    assert srm.p_value == 5e-324 and srm.log10_p_value == pytest.approx((log_ndtr(-100.0) + math.log(2)) / math.log(10), rel=1e-9)


def test_three_arms_one_without_weight():
    """A weight that never was: one unit is a mismatch. A weight that went to 0: a few were in flight. They inflate no total."""
    arms, closed = ["a", "b", "c"], {"a": 0.2, "b": 0.8, "c": 0.0}
    assert sample_ratio([period(closed, {"a": 230, "b": 770})], arms).ok
    srm = sample_ratio([period(closed, {"a": 230, "b": 770, "c": 4})], arms)
    assert srm.p_value == pytest.approx(stats.chisquare([230, 770], [200, 800]).pvalue, rel=1e-9)
    assert srm.stray_units == 4 and not srm.ok and srm.expected == {"a": pytest.approx(200), "b": pytest.approx(800), "c": 0}
    before = period({"a": 0.2, "b": 0.7, "c": 0.1}, {"a": 20, "b": 70, "c": 10})
    assert sample_ratio([before, period(closed, {"a": 230, "b": 770, "c": 4})], arms).ok
    assert not sample_ratio([before, period(closed, {"a": 200, "b": 800, "c": 40})], arms).ok
    # a gateway whose clock is behind opens the arm a little early
    assert sample_ratio([period(closed, {"a": 230, "b": 770, "c": 2}), before], arms).ok


def test_e_value_as_the_paper_writes_it():
    n, theta, k = np.array([520.0, 480.0]), np.array([0.5, 0.5]), 1000.0
    a = k * theta

    def log_beta(v: np.ndarray) -> float:
        return float(gammaln(v).sum() - gammaln(v.sum()))

    expected = math.exp(log_beta(a + n) - log_beta(a) - float((n * np.log(theta)).sum()))
    assert sample_ratio([period(HALVES, {"a": 520, "b": 480})], ["a", "b"]).e_value == pytest.approx(expected, rel=1e-9)


def test_a_ramp_is_no_mismatch_but_a_broken_stretch_is():
    early = period({"a": 0.9, "b": 0.1}, {"a": 9_020, "b": 980})
    healthy = sample_ratio([early, period(HALVES, {"a": 4_970, "b": 5_030})], ["a", "b"])
    assert healthy.ok and healthy.p_value is not None and healthy.p_value > 0.05
    assert healthy.expected == {"a": pytest.approx(14_000), "b": pytest.approx(6_000)}
    assert not sample_ratio([early, period(HALVES, {"a": 4_500, "b": 5_500})], ["a", "b"]).ok


def test_ramp_p_values_are_uniform():
    """The variance of a ramp is that of its periods: p < .05 in about 5% of 4,000 healthy ramps (sd 0.35 points)."""
    rng = np.random.default_rng(4)
    first, second = rng.binomial(400, 0.9, 4000), rng.binomial(600, 0.5, 4000)
    p = [
        sample_ratio(
            [period({"a": 0.9, "b": 0.1}, {"a": int(x), "b": 400 - int(x)}), period(HALVES, {"a": int(y), "b": 600 - int(y)})], ["a", "b"]
        ).p_value
        for x, y in zip(first, second, strict=True)
    ]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_gate_stays_shut_over_many_looks():
    """2,000 healthy experiments, 60 looks each: at most 1 in 1000 may ever alarm (3 at 3 sd); 51/49 is found."""
    rng = np.random.default_rng(6)

    def ever(share: float, runs: int) -> float:
        counts = np.cumsum(rng.binomial(2000, share, (runs, 60)), axis=1)
        total = np.arange(1, 61) * 2000
        # the e-value grows with imbalance: each run's worst look in standardised distance is enough
        worst = np.argmax(np.abs(counts - total / 2) / np.sqrt(total), axis=1)
        rows = [(int(counts[i, w]), int(total[w])) for i, w in enumerate(worst)]
        return float(np.mean([not sample_ratio([period(HALVES, {"a": x, "b": n - x})], ["a", "b"]).ok for x, n in rows]))

    assert ever(0.5, 2000) <= 0.003
    assert ever(0.51, 100) > 0.9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=5))
@example([(5e-324, 0, 0)])
@example([(5e-324, 1, 10)])
def test_never_crashes_never_nan(rows):
    srm = sample_ratio([period({"a": w, "b": 1 - w}, {"a": a, "b": b}) for w, a, b in rows], ["a", "b"])
    assert math.isfinite(srm.e_value) and srm.e_value >= 0
    assert srm.p_value is None or 0 <= srm.p_value <= 1


def test_exposure_counts_and_propensities():
    sound = facts({}, {"base": 900, "vivid": 100}, weights={"base": 0.9, "vivid": 0.1})
    assert exposure(sound).ok
    assert exposure(sound).propensity_balance == {"base": pytest.approx(1), "vivid": pytest.approx(1)}
    mixed = exposure(facts({}, {"base": 900, "vivid": 900}, multiple_exposure=200))
    assert mixed.multiple_exposure_share == pytest.approx(0.1)
    assert not mixed.ok and "200 units (10.0%)" in mixed.problems[0]


def test_wrong_logged_propensities_are_found():
    """A gateway that logs 1/n instead of the draw's probability (90/10 here) is caught."""
    wrong = exposure(facts({}, {"base": 5000, "vivid": 5000}, weights={"base": 0.9, "vivid": 0.1}))
    assert not wrong.ok and "propensities of arm" in wrong.problems[0]


def test_latency_gap():
    rng = np.random.default_rng(1)
    base, slow = moments(rng.normal(400, 60, 800)), moments(rng.normal(520, 60, 800))
    gap = latency_gap({"base": base, "slow": slow}, ["base", "slow"], "base", 0.05)
    assert gap.arm == "slow" and gap.felt == ("slow",) and not gap.ok
    assert gap.ms == pytest.approx(120, abs=10)
    assert gap.ci[0] < gap.ms < gap.ci[1]
    assert latency_gap({"base": base, "slow": moments(rng.normal(403, 60, 800))}, ["base", "slow"], "base", 0.05).ok
    nothing = latency_gap({}, ["base", "slow"], "base", 0.05)
    assert nothing.ok and nothing.ms is None and nothing.ci == (None, None)
    assert latency_gap({"base": base, "slow": proportion(0, 0)}, ["base", "slow"], "base", 0.05).ms is None
