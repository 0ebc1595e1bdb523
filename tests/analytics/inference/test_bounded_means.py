"""Guaranteed intervals of bounded means: by quadrature of the mixture, by bets written out, and by coverage at every look."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gamma, gammainc

from analytics.inference import betting, empirical_bernstein


@pytest.mark.parametrize(("variance", "alpha", "tightest_at"), [(3.0, 0.05, 20.0), (40.0, 0.01, 25.0), (0.0, 0.025, 5.0)])
def test_boundary_is_where_the_mixture_reaches_the_level(variance, alpha, tightest_at):
    """int exp(l u - (-ln(1-l) - l) V) f(l) dl = 1/alpha, f a gamma density of 1 - l cut off at 1 (arXiv 1810.08240, prop. 9)."""
    u = empirical_bernstein.crossing(variance, alpha, tightest_at)
    log = 2 * math.log(1 / min(0.5, 2 * alpha))
    r = tightest_at / (log + math.log1p(log))

    def weighted(bet):
        density = r**r * math.exp(-r * (1 - bet)) * (1 - bet) ** (r - 1) / (gamma(r) * gammainc(r, r))
        return math.exp(bet * u - (-math.log1p(-bet) - bet) * variance) * density

    assert quad(weighted, 0, 1, limit=300)[0] == pytest.approx(1 / alpha, rel=1e-6)


def test_bernstein_variance_is_about_the_means_before():
    """Values 2, 4, 3 of [0, 10], V by hand: (.2-.5)^2 + (.4-.2)^2 + (.3-.3)^2 = .13."""
    half = empirical_bernstein.crossing(0.13, 0.025, 0.05 * 100) / 3
    assert empirical_bernstein.bound([2, 4, 3], 0, 10, 0.05, 100) == pytest.approx((max(0, 3 - 10 * half), min(10, 3 + 10 * half)))


def test_bets_written_out():
    """K+ and K- value by value as in notes 2.5; the interval ends where one of them just reached 2/alpha at some look."""
    x = np.random.default_rng(2).beta(2, 5, 300)
    low, high = betting.interval(x, 0, 1, 0.05)

    def capital(values, m):
        k, most, total, squares = 1.0, 0.0, 0.0, 0.0
        for t, value in enumerate(values, start=1):
            bet = math.sqrt(2 * math.log(40) / (t * math.log(1 + t) * (0.25 + squares) / t))
            k *= 1 + min(bet, 0.5 / m) * (value - m)
            most = max(most, k)
            total += value
            squares += (value - (0.5 + total) / (t + 1)) ** 2
        return most

    assert capital(x, low) == pytest.approx(40, rel=1e-6)
    assert capital(1 - x, 1 - high) == pytest.approx(40, rel=1e-6)
    assert low < 2 / 7 < high


@pytest.mark.parametrize("draw", [lambda rng: rng.random(400) < 0.05, lambda rng: rng.beta(0.3, 2, 400)], ids=["rare", "skewed"])
def test_true_mean_stays_inside_at_every_look(draw):
    """150 paths looked at 14 times each: left by at most alpha of them, where Wald intervals are left by many."""
    mean = {"rare": 0.05, "skewed": 0.3 / 2.3}["rare" if draw(np.random.default_rng(0)).dtype == bool else "skewed"]
    rng = np.random.default_rng(7)
    wrong = np.zeros(3)
    for _ in range(150):
        x = draw(rng).astype(float)
        ever = np.zeros(3, dtype=bool)
        for n in range(10, 401, 30):
            bernstein = empirical_bernstein.bound(x[:n], 0, 1, 0.05, 400)
            bets = betting.interval(x[:n], 0, 1, 0.05)
            half = 1.96 * x[:n].std() / math.sqrt(n)
            ever |= [
                not bernstein[0] <= mean <= bernstein[1],
                bets is None or not bets[0] <= mean <= bets[1],
                abs(x[:n].mean() - mean) > half,
            ]
        wrong += ever
    assert wrong[0] / 150 <= 0.05 and wrong[1] / 150 <= 0.05
    assert wrong[2] / 150 > 0.15


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 7), max_size=60), st.floats(0.001, 0.3), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_other_units_of_measure_change_nothing(values, alpha, scale, shift):
    given, ends = np.array(values) * scale + shift, (-3 * scale + shift, 7 * scale + shift)
    for method in (
        lambda v, low, high: empirical_bernstein.bound(v, low, high, alpha, 50),
        lambda v, low, high: betting.interval(v, low, high, alpha),
    ):
        plain = method(values, -3, 7)
        # A scaled bound may round to inside its own extreme value.
        moved = method(np.clip(given, *ends), *ends)
        if plain is None or moved is None:
            assert plain is moved
            continue
        assert -3 <= plain[0] <= plain[1] <= 7
        assert [(v - shift) / scale for v in moved] == pytest.approx(plain, abs=1e-6 + 1e-8 / scale)


def test_betting_is_tighter_early_and_both_shrink():
    x = np.random.default_rng(1).beta(5, 5, 20_000)
    for n, widest in ((30, 0.6), (300, 0.2), (20_000, 0.02)):
        low, high = empirical_bernstein.bound(x[:n], 0, 1, 0.05, 20_000)
        bets = betting.interval(x[:n], 0, 1, 0.05)
        assert low < 0.5 < high and bets[0] < 0.5 < bets[1]
        assert bets[1] - bets[0] < widest and high - low < 2.5 * widest
        assert n > 300 or bets[1] - bets[0] < high - low


def test_difference_takes_each_arm_at_half_the_level():
    rng = np.random.default_rng(4)
    a, b = rng.random(500), rng.random(700) * 0.5
    of_a, of_b = empirical_bernstein.bound(a, 0, 1, 0.025, 500), empirical_bernstein.bound(b, 0, 1, 0.025, 500)
    low, high = empirical_bernstein.difference_bound(a, b, 0, 1, 0.05, 1000)
    assert (low, high) == (of_b[0] - of_a[1], of_b[1] - of_a[0]) and high < 0
    assert empirical_bernstein.difference_bound([], [], 2, 5, 0.05, 1000) == (-3, 3)


def test_edges_and_broken_values():
    assert empirical_bernstein.bound([], 0, 2, 0.05, 10) == betting.interval([], 0, 2, 0.05) == (0, 2)
    for constant in (0.0, 1.0, 2.0):
        low, high = empirical_bernstein.bound([constant] * 1000, 0, 2, 0.05, 1000)
        bets = betting.interval([constant] * 1000, 0, 2, 0.05)
        assert low <= constant <= high < 2.0001 and high - low < 0.2
        assert bets[0] <= constant <= bets[1] and bets[1] - bets[0] < 0.2
    # First always 0, then always 1: no mean that stays the same explains it.
    assert betting.interval([0.0] * 3000 + [1.0] * 3000, 0, 1, 0.05) is None
    for method in (lambda v: empirical_bernstein.bound(v, 0, 1, 0.05, 10), lambda v: betting.interval(v, 0, 1, 0.05)):
        with pytest.raises(ValueError, match=r"values\[1\] = nan"):
            method([0.5, math.nan])
        with pytest.raises(ValueError, match=r"values\[2\] = 1.5 lies outside the bounds \[0, 1\]"):
            method([0.5, 0.2, 1.5])
    with pytest.raises(ValueError, match=r"bounds = \[2, 1\]"):
        empirical_bernstein.bound([1.5], 2, 1, 0.05, 10)
    with pytest.raises(ValueError, match="2 dimensions"):
        betting.interval([[0.1, 0.2]], 0, 1, 0.05)
