"""Lan-DeMets bounds: by the multivariate normal, by simulated Brownian motion, and at their edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from analytics.inference import group_sequential


def _stays_inside(fractions, bounds):
    """P(no bound crossed) from the joint normal of (Z_1..Z_k): corr(Z_i, Z_j) = sqrt(t_i/t_j). Genz's integration, not ours."""
    t = np.array(fractions)
    corr = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    z = np.array(bounds)
    return multivariate_normal(cov=corr, seed=0, maxpts=400_000, abseps=1e-7, releps=1e-7).cdf(z, lower_limit=-z)


def test_each_look_spends_its_share():
    """Unequal looks: after each of them alpha t^2 is spent, as the multivariate normal has it."""
    fractions, alpha = [0.15, 0.4, 0.55, 1.0], 0.05
    bounds = group_sequential.bounds(fractions, alpha)
    assert bounds[0] == pytest.approx(norm.isf(alpha * 0.15**2 / 2), rel=1e-12)
    for looks in (2, 3, 4):
        assert 1 - _stays_inside(fractions[:looks], bounds[:looks]) == pytest.approx(alpha * fractions[looks - 1] ** 2, abs=4e-6)


def test_five_equal_looks():
    """The z-boundaries of alpha t^2 at five equal looks, two-sided .05 (as ldbounds' iuse = 3, phi = 2 prints them, to 2 digits)."""
    assert group_sequential.bounds([0.2, 0.4, 0.6, 0.8, 1.0], 0.05) == pytest.approx([3.09, 2.71, 2.47, 2.28, 2.11], abs=0.006)


def test_one_look_is_the_fixed_test():
    assert group_sequential.bounds([1.0], 0.05) == pytest.approx([norm.isf(0.025)], rel=1e-12)


def test_brownian_motion_crosses_as_often_as_it_may():
    rng = np.random.default_rng(1)
    for phi in (1.0, 3.0):
        t = np.arange(1, 9) / 8
        walks = np.cumsum(rng.standard_normal((200_000, 8)) * math.sqrt(1 / 8), axis=1) / np.sqrt(t)
        crossed = (np.abs(walks) > np.array(group_sequential.bounds(list(t), 0.1, phi))).any(axis=1).mean()
        assert crossed == pytest.approx(0.1, abs=3.5 * math.sqrt(0.1 * 0.9 / 200_000))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.02, 1), min_size=1, max_size=6), st.floats(1e-6, 0.3), st.floats(0.5, 4))
def test_later_looks_do_not_change_earlier_bounds(steps, alpha, phi):
    fractions = list(np.cumsum(steps) / sum(steps))
    bounds = group_sequential.bounds(fractions, alpha, phi)
    # Never easier than a fixed test of what may be spent until then.
    for t, bound in zip(fractions, bounds, strict=True):
        assert bound >= norm.isf(alpha * min(1, t) ** phi / 2) - 1e-9
    assert group_sequential.bounds(fractions[:-1], alpha, phi) == pytest.approx(bounds[:-1], rel=1e-9)


def test_looks_close_together_are_still_exact():
    fractions = [0.5, 0.5002, 1.0]
    bounds = group_sequential.bounds(fractions, 0.05)
    assert 1 - _stays_inside(fractions, bounds) == pytest.approx(0.05, abs=2e-5)


def test_which_look_is_reached():
    equal = group_sequential.bounds([0.2, 0.4, 0.6, 0.8, 1.0], 0.05)
    assert group_sequential.reached(999, 5000, 5, 0.05) == (0, 0.1998, None)
    for look in range(1, 6):
        found, information, critical = group_sequential.reached(1000 * look, 5000, 5, 0.05)
        assert (found, information) == (look, look / 5) and critical == pytest.approx(equal[look - 1], rel=1e-9)
    # A look read late spends what was planned for it.
    assert group_sequential.reached(1500, 5000, 5, 0.05) == pytest.approx((1, 0.3, equal[0]))
    late = group_sequential.reached(3700, 5000, 5, 0.05)[2]
    assert 1 - _stays_inside([0.2, 0.4, 0.74], [*equal[:2], late]) == pytest.approx(0.05 * 0.6**2, abs=4e-6)
    beyond = group_sequential.reached(9000, 5000, 5, 0.05)
    assert beyond[:2] == (5, 1.8)
    assert 1 - _stays_inside([0.2, 0.4, 0.6, 0.8, 1.8], [*equal[:4], beyond[2]]) == pytest.approx(0.05, abs=2e-5)


def test_reading_every_hour_is_what_the_docstring_says():
    """Looked at 300 times where 5 looks were planned: more than alpha, less than half of what a fixed test would do."""
    units = np.arange(1, 301)
    critical = np.array([group_sequential.reached(int(n), 300, 5, 0.05)[2] or math.inf for n in units])
    z = np.abs(np.cumsum(np.random.default_rng(2).standard_normal((10_000, 300)), axis=1)) / np.sqrt(units)
    assert (z > critical).any(axis=1).mean() == pytest.approx(0.07, abs=0.01)
    assert (z[:, 59:] > 1.96).any(axis=1).mean() > 0.14


@pytest.mark.parametrize("fractions", [[0.0, 1.0], [0.5, 0.5], [0.6, 0.5], [math.nan], [0.5, 0.50005]])
def test_looks_that_do_not_rise_are_named(fractions):
    with pytest.raises(ValueError, match=r"fractions\[\d\]"):
        group_sequential.bounds(fractions, 0.05)


def test_impossible_levels_are_named():
    with pytest.raises(ValueError, match=r"alpha = 1.5"):
        group_sequential.bounds([1.0], 1.5)
