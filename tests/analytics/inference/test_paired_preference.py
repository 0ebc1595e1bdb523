"""Preferences within a person: the sign test by scipy, the moved t interval, and bets as they stand, by bets written out."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from analytics.inference import betting
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


def test_capital_as_it_stands_is_the_product_of_bets():
    x, alpha = np.random.default_rng(3).choice([0.0, 0.5, 1.0], 200, p=[0.3, 0.2, 0.5]), 0.02
    up = down = 1.0
    total, squares = 0.0, 0.0
    for count, value in enumerate(x, start=1):
        bet = min(math.sqrt(2 * math.log(2 / alpha) / (count * math.log(1 + count) * (0.25 + squares) / count)), 1.0)
        up, down = up * (1 + bet * (value - 0.5)), down * (1 - bet * (value - 0.5))
        total += value
        squares += (value - (0.5 + total) / (count + 1)) ** 2
    assert betting.e_value(x, 0, 1, 0.5, alpha) == pytest.approx(max(up, down) / 2, rel=1e-9)
    assert betting.e_value([], 0, 1, 0.5, alpha) == 1 and betting.standing_interval([], 0, 1, alpha) == (0, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=150), st.sampled_from([0.05, 0.0125]))
def test_interval_as_it_stands_leaves_out_the_middle_exactly_when_the_evidence_does(scores, alpha):
    evidence, found = betting.e_value(scores, 0, 1, 0.5, alpha), betting.standing_interval(scores, 0, 1, alpha)
    assume(abs(evidence * alpha - 1) > 1e-9)
    if found is not None:
        assert (not found[0] <= 0.5 <= found[1]) == (evidence >= 1 / alpha)
        for m in found:
            if 0 < m < 1:
                assert betting.e_value(scores, 0, 1, m, alpha) == pytest.approx(1 / alpha, rel=1e-6)
    running = betting.interval(scores, 0, 1, alpha)
    if running is not None and found is not None:
        assert found[0] <= running[0] + 1e-12 and running[1] <= found[1] + 1e-12


def test_like_arms_are_seldom_told_apart_at_any_look():
    """300 sequences of scores with mean 1/2, looked at after every 10 people."""
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(300):
        x = rng.choice([0.0, 0.5, 1.0], 200, p=[0.35, 0.3, 0.35])
        wrong += any(betting.e_value(x[:n], 0, 1, 0.5, 0.05) >= 20 for n in range(10, 201, 10))
    assert wrong <= 24, "above 5 % by over two standard errors"
