"""Confidence sequence, posterior, Holm, non-inferiority: by the papers' formulas, quadrature and statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from analytics.inference import confidence_sequence as cs
from analytics.inference.bayes import posterior, relative_prior
from analytics.inference.contrast import independent
from analytics.inference.noninferiority import margin_ratio, worse_than_margin
from analytics.inference.proportion import ProportionContrast
from analytics.inference.tails import two_sided_critical


def test_two_sided_as_the_paper_writes_it():
    """arXiv 2103.06476 eq. 9 and 155, with D = .02, se = .006, N = 3000 of 5000 planned."""
    n, planned, alpha, d, se = 3000, 5000, 0.05, 0.02, 0.006
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)
    kap = n * rho**2 + 1
    half = se * math.sqrt(n) * math.sqrt(2 * kap / (n * rho) ** 2 * math.log(math.sqrt(kap) / alpha))
    assert se * cs.two_sided_critical(n, alpha, planned) == pytest.approx(half, rel=1e-12)
    e = math.exp(rho**2 * (d**2 * n / se**2) / (2 * kap)) / math.sqrt(kap)
    assert cs.e_value(d / se, n, alpha, planned) == pytest.approx(e, rel=1e-12)


def test_one_sided_as_the_paper_writes_it():
    n, planned, alpha, d, se = 3000, 5000, 0.05, 0.02, 0.006
    two = 2 * alpha
    rho = math.sqrt((-2 * math.log(two) + math.log(-2 * math.log(two) + 1)) / planned)
    kap = n * rho**2 + 1
    half = se * math.sqrt(n) * math.sqrt(2 * kap / (n * rho) ** 2 * math.log(1 + math.sqrt(kap) / (2 * alpha)))
    assert se * cs.one_sided_critical(n, alpha, planned) == pytest.approx(half, rel=1e-12)
    q = n * rho**2 * d**2 / (2 * kap * se**2)
    assert cs.one_sided_p(d / se, n, alpha, planned) == pytest.approx(math.sqrt(kap) / (2 * math.expm1(q)), rel=1e-12)
    assert cs.one_sided_p(-1.0, n, alpha, planned) == 1.0


def test_tightest_at_the_planned_units():
    widths = {n: cs.two_sided_critical(n, 0.05, 5000) / math.sqrt(n) for n in (2500, 4000, 5000, 6000, 10000)}
    per_root = {n: w * math.sqrt(n) for n, w in widths.items()}
    assert min(per_root, key=per_root.get) == 5000


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e3), st.integers(2, 10**8), st.floats(1e-4, 0.49), st.integers(10, 10**7))
def test_evidence_and_interval_agree(z, n, alpha, planned):
    critical = cs.two_sided_critical(n, alpha, planned)
    if abs(z / critical - 1) > 1e-9:
        assert (cs.e_value(z, n, alpha, planned) >= 1 / alpha) == (z >= critical)
    bound = cs.one_sided_critical(n, alpha, planned)
    if abs(z / bound - 1) > 1e-9:
        assert (cs.one_sided_p(z, n, alpha, planned) <= alpha) == (z >= bound)
    assert math.isfinite(cs.e_value(z * 1e6, n, alpha, planned))


def test_sequence_covers_at_every_look():
    """2,000 walks of 5,000 standard normal steps: at most alpha ever leave the sequence; a 95% z interval is left by most."""
    rng = np.random.default_rng(0)
    looks = np.arange(50, 5001, 50)
    z = rng.standard_normal((2000, 100)) * math.sqrt(50)
    z = np.abs(np.cumsum(z, axis=1)) / np.sqrt(looks)
    bound = np.array([cs.two_sided_critical(int(n), 0.05, 2000) for n in looks])
    assert (z > bound).any(axis=1).mean() <= 0.05
    assert (z > 1.96).any(axis=1).mean() > 0.25


@pytest.mark.parametrize("units", [20, 5000, 400_000])
def test_evidence_under_the_null_is_one_on_average(units):
    """An e-value at every look: int phi(z) e(z) dz = 1 (its integrand is a normal density of standard deviation sqrt(1 + weight))."""
    reach = 12 * math.sqrt(1 + units * cs.tightness(0.05, 5000))
    mean = quad(lambda z: norm.pdf(z) * cs.e_value(z, units, 0.05, 5000), -min(reach, 37), min(reach, 37), limit=400)[0]
    assert mean == pytest.approx(math.erf(min(reach, 37) / math.sqrt(2 * (1 + units * cs.tightness(0.05, 5000)))), rel=1e-6)


def test_one_sided_bound_holds_at_every_look():
    """2,000 walks that drift down: at most alpha are ever said to go up; a one-sided z says so of many."""
    rng = np.random.default_rng(9)
    looks = np.arange(50, 5001, 50)
    z = np.cumsum(rng.standard_normal((2000, 100)) * math.sqrt(50) - 0.05, axis=1) / np.sqrt(looks)
    bound = np.array([cs.one_sided_critical(int(n), 0.05, 2000) for n in looks])
    assert (z > bound).any(axis=1).mean() <= 0.05
    assert (z > 1.645).any(axis=1).mean() > 0.15
    p = [[cs.one_sided_p(float(v), int(n), 0.05, 2000) for v, n in zip(row, looks, strict=True)] for row in z[:200]]
    assert np.array_equal(np.array(p) <= 0.05, z[:200] >= bound)


def test_nothing_overflows():
    """Evidence of any size is a number, and unit counts from none to 1e18 have a critical value."""
    for statistic in (0.0, 5e-324, 1e-160, 38.0, 1e155, 1e308, math.inf):
        for units in (0, 1, 10**18):
            for alpha in (1e-300, 0.05, 0.4999):
                assert 0 <= cs.e_value(statistic, units, alpha, 5000) <= cs.LARGEST_E
                assert 0 <= cs.one_sided_p(statistic, units, alpha, 5000) <= 1
                assert 0 <= cs.one_sided_p(-statistic, units, alpha, 5000) <= 1
                assert cs.two_sided_critical(units, alpha, 5000) > 0 and cs.one_sided_critical(units, alpha, 5000) > 0
    assert cs.two_sided_critical(0, 0.05, 5000) == cs.one_sided_critical(0, 0.05, 5000) == math.inf
    assert cs.e_value(1e9, 0, 0.05, 5000) == 1.0


def test_one_sided_p_is_not_cut_off():
    """gbstats clamps its one-sided p to [1e-5, .4999] (notes 3.2); here sqrt(kap)/(2 (e^q - 1)) at z = 20."""
    weight = 5000 * cs.tightness(0.1, 5000)
    q = weight * 400 / (2 * (weight + 1))
    assert cs.one_sided_p(20.0, 5000, 0.05, 5000) == pytest.approx(math.sqrt(weight + 1) / (2 * math.expm1(q)), rel=1e-12)
    assert 0 < cs.one_sided_p(20.0, 5000, 0.05, 5000) < 1e-60
    assert cs.one_sided_p(0.01, 5000, 0.05, 5000) == 1.0


def test_looks_agree_or_tell_of_drift():
    assert cs.intersect([(-1.0, 3.0), (0.5, 4.0), (-2.0, 2.5)]) == (0.5, 2.5)
    assert cs.intersect([(None, None), (0.5, None), (None, 2.0)]) == (0.5, 2.0)
    assert cs.intersect([]) == (None, None)
    assert cs.intersect([(0.0, 1.0), (1.5, 2.0)]) is None
    assert cs.intersect([(0.0, 1.0), (1.0, 2.0)]) == (1.0, 1.0)


def test_posterior_by_quadrature():
    post = posterior(0.08, 0.05)
    precision = 1 / 0.05**2 + 1 / 0.3**2
    assert post.mean == pytest.approx(0.08 / 0.05**2 / precision, rel=1e-12)
    assert post.sd == pytest.approx(precision**-0.5, rel=1e-12)
    density = norm(post.mean, post.sd).pdf
    assert post.prob_positive == pytest.approx(quad(density, 0, 2)[0], rel=1e-8)
    assert post.loss_if_negative == pytest.approx(quad(lambda u: -u * density(u), -2, 0)[0], rel=1e-7)
    assert post.loss_if_positive == pytest.approx(quad(lambda u: u * density(u), 0, 2)[0], rel=1e-7)
    assert post.interval(0.05) == pytest.approx(norm(post.mean, post.sd).interval(0.95), rel=1e-12)


def test_flat_prior_is_the_likelihood():
    flat = posterior(0.08, 0.05, prior_sd=math.inf)
    assert (flat.mean, flat.sd) == (0.08, 0.05)
    assert flat.interval(0.05) == pytest.approx((0.08 - 1.959964 * 0.05, 0.08 + 1.959964 * 0.05), abs=1e-6)
    with pytest.raises(ValueError, match="se = 0"):
        posterior(0.1, 0.0)


@pytest.mark.parametrize("control", [4.0, -4.0, 250.0])
def test_prior_on_the_difference_says_the_same_of_the_lift(control):
    """gbstats never rescales an absolute prior on a relative effect (notes 3.2): the posterior of the lift has to be that of the
    difference over |control|."""
    difference, se = 0.3, 0.2
    absolute = posterior(difference, se, 0.1, 0.5)
    mean, sd = relative_prior(0.1, 0.5, control)
    relative = posterior(difference / abs(control), se / abs(control), mean, sd)
    assert (relative.mean, relative.sd) == pytest.approx((absolute.mean / abs(control), absolute.sd / abs(control)), rel=1e-12)
    assert relative.prob_positive == pytest.approx(absolute.prob_positive, rel=1e-12)
    with pytest.raises(ValueError, match="control = 0"):
        relative_prior(0.1, 0.5, 0.0)


def test_guardrail_in_both_directions():
    slow = independent(treated=130, control=100, treated_variance=1, control_variance=1, df=5000, units=5000)
    assert worse_than_margin(slow, 0.10, "down", 0.05, 5000) is True
    assert worse_than_margin(slow, 0.29, "down", 0.05, 5000) is None
    assert worse_than_margin(slow, 0.60, "down", 0.05, 5000) is False
    assert worse_than_margin(slow, 0.10, "up", 0.05, 5000) is False
    rare = ProportionContrast(x_a=600, n_a=3000, x_b=300, n_b=3000)
    assert worse_than_margin(rare, 0.10, "up", 0.05, 5000) is True
    assert worse_than_margin(rare, 3.0, "up", 0.05, 5000) is False


def test_margin_of_a_negative_control():
    # control -10, higher is better, margin 20%: the edge is -12, a ratio of 1.2
    assert margin_ratio(-10.0, 0.2, "up") == pytest.approx(1.2)
    assert margin_ratio(-10.0, 0.2, "down") == pytest.approx(0.8)


def test_guardrail_never_contradicts_its_interval():
    for df in (3.0, 10.0, 1e4):
        for treated in np.linspace(100, 200, 60):
            c = independent(treated=float(treated), control=100, treated_variance=60, control_variance=60, df=df, units=40)
            if worse_than_margin(c, 0.1, "down", 0.05, 40):
                assert c.ratio_interval(two_sided_critical(0.05, df))[0] > 1.1
