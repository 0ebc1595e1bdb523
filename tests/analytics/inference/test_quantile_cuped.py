"""Clustered quantiles against simulation and the iid formula; CUPED against statsmodels and by hand."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from joint_cases import joint
from report_cases import quantile

from analytics.facts import QuantileFacts
from analytics.inference.cuped import adjusted_contrast
from analytics.inference.quantile import quantile_contrast, quantile_half_width, quantile_variance


def draw(rng: np.random.Generator, units: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Latencies of 1 to 5 generations per unit; a unit's own slowness makes them alike."""
    count = rng.integers(1, 6, units)
    unit = np.repeat(np.arange(units), count)
    slowness = np.exp(spread * rng.standard_normal(units))
    return 400 * slowness[unit] * np.exp(0.2 * rng.standard_normal(len(unit))), unit


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_variance_is_that_of_repeated_experiments(spread):
    rng = np.random.default_rng(3)
    values, variances = [], []
    for _ in range(400):
        facts = quantile(*draw(rng, 800, spread), 0.9)
        variance = quantile_variance(facts)
        assert variance is not None
        values.append(facts.value)
        variances.append(variance / facts.events)
    # 400 runs know a variance to about 7% (one sd); the iid formula would miss it by far more when spread is .5
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.22)


def test_by_hand_when_every_unit_has_one_event():
    # 100 units of one event, level .5, 50 at or below: v_s = 25/99, v_cl/v_iid = (25/99)/100/(.25/100) = 100/99
    facts = QuantileFacts(
        level=0.5, events=100, units=100, value=10, low=9, high=11, below_mean=0.5, below_m2=25, count_mean=1, count_m2=0, comoment=0
    )
    sd = 2 / (2 * 1.959963984540054)
    assert quantile_variance(facts) == pytest.approx(99 * sd**2 * 100 / 99, rel=1e-12)
    contrast = quantile_contrast(facts, facts)
    assert contrast is not None
    assert contrast.se == pytest.approx(math.sqrt(2 * sd**2), rel=1e-12)
    assert contrast.df == pytest.approx(198)
    assert quantile_half_width(0.5, 100) == pytest.approx(0.0979981992270027, rel=1e-12)


@pytest.mark.parametrize("change", [{"level": 0.99, "events": 30}, {"high": 9.0}, {"units": 1}, {"events": 1}, {"count_mean": 0.0}])
def test_says_nothing_where_it_cannot(change):
    given = {
        "level": 0.5, "events": 100, "units": 100, "value": 10.0, "low": 9.0, "high": 11.0,
        "below_mean": 0.5, "below_m2": 25.0, "count_mean": 1.0, "count_m2": 0.0, "comoment": 0.0,
    }  # fmt: skip
    assert quantile_variance(QuantileFacts(**(given | change))) is None


def test_cuped_difference_and_variance():
    rng = np.random.default_rng(8)
    x = rng.gamma(2, 1, (2, 5000))
    y = 2 * x + rng.standard_normal((2, 5000)) + np.array([[5.0], [5.3]])
    ours = adjusted_contrast([(joint(y[0], x[0]), joint(y[1], x[1]))])
    assert ours is not None
    pooled_y, pooled_x = y.ravel(), x.ravel()
    theta = sm.OLS(pooled_y, sm.add_constant(pooled_x)).fit().params[1]
    assert ours.theta == (pytest.approx(theta, rel=1e-10),)
    left = y - theta * x
    assert ours.contrast.treated - ours.contrast.control == pytest.approx(left[1].mean() - left[0].mean(), rel=1e-10)
    variance = left.var(axis=1, ddof=1).sum() / 5000
    assert ours.contrast.se == pytest.approx(math.sqrt(variance), rel=1e-10)
    assert ours.variance_reduction == pytest.approx(1 - variance / (y.var(axis=1, ddof=1).sum() / 5000), rel=1e-10)
    assert ours.variance_reduction > 0.8


def test_relative_cuped_is_neither_too_wide_nor_too_narrow():
    """Simulated: sd of the lift over 600 experiments against the mean reported se (the peers' bug misses by a factor)."""
    rng = np.random.default_rng(9)
    lifts, errors = [], []
    for _ in range(600):
        x = rng.gamma(2, 1, (2, 300))
        y = 3 * x + rng.standard_normal((2, 300)) + np.array([[1.0], [1.7]])
        c = adjusted_contrast([(joint(y[0], x[0]), joint(y[1], x[1]))])
        assert c is not None and c.contrast.relative_se is not None
        lifts.append((c.contrast.treated - c.contrast.control) / c.contrast.control)
        errors.append(c.contrast.relative_se)
    assert np.mean(errors) == pytest.approx(np.std(lifts), rel=0.1)


def test_cuped_needs_variation():
    flat = joint(np.arange(10.0), np.ones(10))
    ours = adjusted_contrast([(flat, flat)])
    assert ours is not None and ours.theta == (0.0,) and ours.variance_reduction == 0
    foretold = joint(np.array([1.0, 2.0, 5.0]), np.array([1.0, 2.0, 5.0]))
    assert adjusted_contrast([(foretold, foretold)]) is None
    alone = joint(np.array([1.0]), np.array([1.0]))
    assert adjusted_contrast([(alone, flat)]) is None
