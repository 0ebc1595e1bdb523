"""CUPED of ratios of totals: against the formula written out with numpy covariances, and against repeated experiments."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_cases import joint
from report_cases import moments

from analytics.inference.cuped import adjusted_contrast
from analytics.inference.ratio import ratio_contrast


def draw(rng: np.random.Generator, n: int, lift: float = 0.0):
    """Likes of views, before and during; a unit's own taste shows in both."""
    taste, before, views = rng.beta(2, 6, n), 1 + rng.poisson(6, n), 1 + rng.poisson(4, n)
    likes = rng.binomial(views, np.clip(taste * (1 + lift), 0, 1))
    return np.stack([likes, views, rng.binomial(before, taste), before]).astype(float)


def test_formula_of_two_ratios():
    rng = np.random.default_rng(3)
    a, b = draw(rng, 700), draw(rng, 500, 0.2)
    ours = adjusted_contrast([(joint(*a, ratio=True, ratios=(True,)), joint(*b, ratio=True, ratios=(True,)))])
    assert ours is not None
    covariances, gradients, ratios = [], [], []
    for y, d, y0, d0 in (a, b):
        covariances.append(np.cov(np.stack([y, d, y0, d0])))
        g = np.array([1 / d.mean(), -y.mean() / d.mean() ** 2, 0, 0])
        h = np.array([0, 0, 1 / d0.mean(), -y0.mean() / d0.mean() ** 2])
        gradients.append((g, h))
        ratios.append((y.sum() / d.sum(), y0.sum() / d0.sum()))
    theta = sum(h @ s @ g for s, (g, h) in zip(covariances, gradients, strict=True))
    theta /= sum(h @ s @ h for s, (g, h) in zip(covariances, gradients, strict=True))
    assert ours.theta == (pytest.approx(theta, rel=1e-10),)
    difference = (ratios[1][0] - theta * ratios[1][1]) - (ratios[0][0] - theta * ratios[0][1])
    assert ours.contrast.difference == pytest.approx(difference, rel=1e-10)
    parts = [(g - theta * h) @ s @ (g - theta * h) / n for s, (g, h), n in zip(covariances, gradients, (700, 500), strict=True)]
    assert ours.contrast.se == pytest.approx(math.sqrt(sum(parts)), rel=1e-10)
    assert ours.contrast.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 699 + parts[1] ** 2 / 499), rel=1e-10)
    r_a = ratios[0][0]
    star = -(r_a + difference) / r_a**2 * gradients[0][0] + theta / r_a * gradients[0][1]
    relative = parts[1] / r_a**2 + star @ covariances[0] @ star / 700
    assert ours.contrast.relative_se == pytest.approx(math.sqrt(relative), rel=1e-10)
    plain = ratio_contrast(moments(a[0], a[1]), moments(b[0], b[1]))
    assert plain is not None and ours.variance_reduction == pytest.approx(1 - sum(parts) / plain.se**2, rel=1e-10)
    assert ours.variance_reduction > 0.1


def test_relative_of_means_by_the_formula():
    """The lift's variance with the raw means' ratio (the known correction), written out."""
    rng = np.random.default_rng(4)
    x = rng.gamma(2, 1, (2, 300))
    y = 2 * x + rng.standard_normal((2, 300)) + np.array([[2.0], [2.6]])
    ours = adjusted_contrast([(joint(y[0], x[0]), joint(y[1], x[1]))])
    assert ours is not None
    (theta,) = ours.theta
    s_a, s_b = np.cov(y[0], x[0]), np.cov(y[1], x[1])
    m_a, m_b = y[0].mean(), y[1].mean()
    adjusted_b = s_b[0, 0] + theta**2 * s_b[1, 1] - 2 * theta * s_b[0, 1]
    star = s_a[0, 0] * m_b**2 / m_a**2 - 2 * theta * s_a[0, 1] * m_b / m_a + theta**2 * s_a[1, 1]
    assert ours.contrast.relative_se == pytest.approx(math.sqrt(adjusted_b / (300 * m_a**2) + star / (300 * m_a**2)), rel=1e-10)


def test_spread_is_that_of_repeated_experiments():
    rng = np.random.default_rng(5)
    values, errors, lifts, relative = [], [], [], []
    for _ in range(400):
        a, b = draw(rng, 400), draw(rng, 400, 0.1)
        ours = adjusted_contrast([(joint(*a, ratio=True, ratios=(True,)), joint(*b, ratio=True, ratios=(True,)))])
        assert ours is not None and ours.contrast.relative_se is not None
        values.append(ours.contrast.difference)
        errors.append(ours.contrast.se)
        lifts.append(ours.contrast.difference / ours.contrast.control)
        relative.append(ours.contrast.relative_se)
    # 400 runs know a standard deviation to 3.5% (one sd)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.11)
    assert np.mean(relative) == pytest.approx(np.std(lifts), rel=0.11)


def test_nobody_before_and_no_denominator():
    rng = np.random.default_rng(6)
    a, b = draw(rng, 50), draw(rng, 50)
    zero = np.zeros(50)
    ours = adjusted_contrast(
        [(joint(a[0], a[1], zero, zero, ratio=True, ratios=(True,)), joint(b[0], b[1], zero, zero, ratio=True, ratios=(True,)))]
    )
    plain = ratio_contrast(moments(a[0], a[1]), moments(b[0], b[1]))
    assert ours is not None and plain is not None and ours.theta == (0.0,)
    assert ours.contrast.se == pytest.approx(plain.se, rel=1e-10)
    empty = joint(zero, zero, a[2], a[3], ratio=True, ratios=(True,))
    assert adjusted_contrast([(empty, empty)]) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_a_covariates_unit_changes_nothing(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 40))
    y = x + rng.normal(size=(2, 40))
    one = adjusted_contrast([(joint(y[0], x[0]), joint(y[1], x[1]))])
    other = adjusted_contrast([(joint(y[0], shift + scale * x[0]), joint(y[1], shift + scale * x[1]))])
    assert one is not None and other is not None
    assert other.contrast.difference == pytest.approx(one.contrast.difference, rel=1e-6, abs=1e-9)
    assert other.contrast.se == pytest.approx(one.contrast.se, rel=1e-6)
