"""Preferences within a person: the sign test by scipy, the moved t interval, and bets of several sizes, written out."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from analytics.inference import diversified_bets
from analytics.inference.paired_preference import paired_preference
from analytics.inference.sign_test import sign_test


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_sign_test_is_scipys(won, lost):
    wanted = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert sign_test(won, lost) == pytest.approx(wanted, rel=1e-9) == pytest.approx(sign_test(lost, won))


def test_sign_test_by_hand_and_what_it_refuses():
    assert sign_test(5, 0) == 2 / 32 and sign_test(4, 1) == 12 / 32 and sign_test(0, 0) == 1
    assert 0 < sign_test(900, 10) < 1e-200
    with pytest.raises(ValueError, match="lost = -1"):
        sign_test(3, -1)


def moments(x):
    return len(x), float(np.mean(x)), float(((x - np.mean(x)) ** 2).sum())


def of(scores):
    x = np.asarray(scores, float)
    return paired_preference(*moments(x), int((x > 0.5).sum()), int((x < 0.5).sum()))


def test_interval_by_hand():
    """10 people: 8 always, 2 never. Net 0.6; se = 2 sqrt(1.6/9/10); p = 2 (45 + 10 + 1)/1024; t moved by what lies between."""
    found = of([1] * 8 + [0] * 2)
    se = 2 * math.sqrt(1.6 / 9 / 10)
    assert (found.units, found.net, found.se, found.p_value) == (10, pytest.approx(0.6), pytest.approx(se), pytest.approx(112 / 1024))
    own, exact, critical = 0.6 / se, t.isf(56 / 1024, 9), t.isf(0.025, 9)
    half = min(critical + own - exact, critical * own / exact) * se
    assert found.interval(0.05) == pytest.approx((0.6 - half, 1.0)) and found.interval(0.05)[0] < 0


def test_all_alike():
    """Clopper and Pearson for n of n: lower end (alpha/2)^(1/n)."""
    always = of([1.0] * 8)
    assert always.interval(0.05) == pytest.approx((2 * 0.025 ** (1 / 8) - 1, 1.0)) and always.p_value == pytest.approx(2 / 256)
    torn = of([0.5] * 8)
    assert torn.p_value == 1 and torn.interval(0.05)[0] == -torn.interval(0.05)[1] < 0
    assert paired_preference(0, 0.0, 0.0, 0, 0) is None


def test_most_lean_one_way_and_the_mean_the_other():
    found = of([0.6] * 30 + [0.0] * 10)
    assert found.net < 0 and found.p_value == 1 and found.interval(0.05)[0] < 0 < found.interval(0.05)[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0]), min_size=1, max_size=80), st.sampled_from([0.1, 0.05, 0.001]))
def test_interval_leaves_out_nothing_where_the_test_does_not(scores, alpha):
    found, other = of(scores), of([1 - x for x in scores])
    low, high = found.interval(alpha)
    assert -1 <= low <= found.net + 1e-12 and found.net - 1e-12 <= high <= 1
    assume(abs(found.p_value - alpha) > 1e-9)
    assert (not low <= 0 <= high) == (found.p_value < alpha)
    # The other way round everything is turned round.
    assert other.interval(alpha) == pytest.approx((-high, -low), abs=1e-9) and other.p_value == pytest.approx(found.p_value)


def counted(scores):
    return np.unique(np.asarray(scores, float), return_counts=True)


def test_capital_is_the_average_product_of_bets():
    """Person by person, each stake by itself."""
    x = np.random.default_rng(3).choice([0.0, 1 / 3, 0.5, 1.0], 200, p=[0.3, 0.1, 0.2, 0.4])
    for m in (0.5, 0.3):
        up, down = [1.0] * 10, [1.0] * 10
        for value in x:
            for k in range(10):
                stake = 0.9 / 2**k
                up[k] *= 1 + stake * (value - m) / m
                down[k] *= 1 + stake * (m - value) / (1 - m)
        assert diversified_bets.e_value(*counted(x), m) == pytest.approx(max(sum(up), sum(down)) / 20, rel=1e-9)
    assert diversified_bets.e_value([], [], 0.5) == 0.5 and diversified_bets.interval([], [], 0.05) == (0, 1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=150), st.sampled_from([0.05, 0.0125]))
def test_interval_leaves_out_what_the_evidence_is_against(scores, alpha):
    low, high = diversified_bets.interval(*counted(scores), alpha)
    assert 0 <= low <= np.mean(scores) <= high <= 1
    evidence = diversified_bets.e_value(*counted(scores), 0.5)
    assume(abs(evidence * alpha - 1) > 1e-9)
    assert (not low <= 0.5 <= high) == (evidence >= 1 / alpha)
    for m in (low, high):
        if 0 < m < 1:
            assert diversified_bets.e_value(*counted(scores), m) == pytest.approx(1 / alpha, rel=1e-6)
    turned = diversified_bets.interval(*counted([1 - x for x in scores]), alpha)
    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("draw", [(0.35, 0.3, 0.35), (0.02, 0.96, 0.02), (0.5, 0.0, 0.5)])
def test_like_arms_are_seldom_told_apart_at_any_look(draw):
    """300 sequences of scores with mean 1/2, looked at after every 10 people: 5 % are 15, 24 is over two standard errors above."""
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(300):
        x = rng.choice(3, 300, p=draw)
        wrong += any(diversified_bets.e_value([0, 0.5, 1], np.bincount(x[:n], minlength=3), 0.5) >= 20 for n in range(10, 301, 10))
    assert wrong <= 24


def test_what_bets_refuse():
    with pytest.raises(ValueError, match=r"values\[1\] = 1.5"):
        diversified_bets.interval([0.2, 1.5], [1, 1], 0.05)
    with pytest.raises(ValueError, match="mean = 1"):
        diversified_bets.e_value([0.2], [1], 1.0)
    assert diversified_bets.e_value([1.0], [10**6], 0.5) > 1e299
