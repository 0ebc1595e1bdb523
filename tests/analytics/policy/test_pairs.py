"""The next duel: floors, where votes go, and votes that no order explains."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_cases import drawn, facts, names
from scipy.integrate import quad

from analytics.policy.pairs import design_effect, next_pairs, posterior


def test_nothing_to_prefer() -> None:
    votes = facts(drawn([0.5, -0.5], raters=30, each=3), 2)
    assert next_pairs(votes, ["a", "b"], 0.2) is None
    assert next_pairs(votes, ["x", "y", "z"], 0.2) is None


def test_votes_go_to_open_orders_of_arms_that_may_be_best() -> None:
    alike = [(0, 1), (2, 3)]
    rows = [(rater, i, j, int(rater % 10 < (5 if (j, i) in alike else 1))) for i in range(4) for j in range(i) for rater in range(100)]
    votes = facts([(rater, j, i, outcome) for rater, i, j, outcome in rows], 4)
    found = next_pairs(votes, names(4), 0.2)
    assert found is not None
    assert found["a|b"] > 0.8 and found["c|d"] < 0.05 and found["a|d"] == pytest.approx(0.2 / 6, abs=1e-4)


def test_an_arm_that_nobody_saw_meets_those_that_may_be_best() -> None:
    votes = facts(drawn([0.8, -0.8], raters=200, each=4), 2)
    found = next_pairs(votes, ["new", "b", "a"], 0.1)
    assert found is not None and list(found) == ["a|b", "a|new", "b|new"]
    assert found["a|new"] > found["b|new"] > found["a|b"]


def test_one_sided_votes_and_circles_break_nothing() -> None:
    one_sided = facts([(rater, 0, 1, 0) for rater in range(500)] + [(rater, 0, 2, 0) for rater in range(3)], 3)
    found = next_pairs(one_sided, names(3), 0.3)
    assert found is not None and found["a|c"] > found["a|b"] and found["a|b"] == pytest.approx(0.1, abs=0.02)
    circle = facts([(rater, *((0, 1, 0), (1, 2, 0), (0, 2, 1))[rater % 3]) for rater in range(3000)], 3)
    assert list((next_pairs(circle, names(3), 0.2) or {}).values()) == pytest.approx([1 / 3] * 3, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.floats(0.01, 1.0))
def test_chances_sum_to_one_and_keep_their_floor(seed: int, arms: int, floor: float) -> None:
    strengths = np.random.default_rng(seed).normal(0, 2, arms).tolist()
    found = next_pairs(facts(drawn(strengths, raters=8, each=3, nu=0.3, seed=seed), arms), names(arms), floor)
    assert found is not None and len(found) == math.comb(arms, 2)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-15)
    assert min(found.values()) >= floor / len(found) - 1e-12


def test_posterior_of_two_arms_against_quadrature() -> None:
    """14 of 20: the mode and curvature of the difference under N(0, 2 x 1.5^2), near the exact posterior's moments."""
    strengths, covariance = posterior(np.array([[0, 1]]), np.array([14.0]), np.array([20.0]), 2, 1.0)
    gap, variance = strengths[0] - strengths[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]

    def density(x: float) -> float:
        return math.exp(14 * x - 20 * math.log1p(math.exp(x)) - x * x / (4 * 1.5**2))

    assert density(gap) >= max(density(gap - 1e-3), density(gap + 1e-3))
    whole = quad(density, -10, 10)[0]
    mean = quad(lambda x: x * density(x), -10, 10)[0] / whole
    second = quad(lambda x: (x - mean) ** 2 * density(x), -10, 10)[0] / whole
    assert gap == pytest.approx(mean, abs=0.05) and variance == pytest.approx(second, rel=0.1)


def test_votes_that_agree_within_a_rater_count_as_fewer() -> None:
    alone = facts([(rater, 0, 1, rater % 2) for rater in range(40)], 2)
    loyal = facts([(rater, 0, 1, rater % 2) for rater in range(40) for _ in range(5)], 2)
    assert design_effect(alone) == pytest.approx(1.0) and design_effect(loyal) == pytest.approx(5.0)
