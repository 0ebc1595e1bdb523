"""The one root finder: known zeros, steep and infinite functions, and brackets without a zero."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.inference.roots import falling_root


@settings(max_examples=100, deadline=None)
@given(st.floats(-50, 50), st.floats(0.01, 40), st.floats(0.01, 40), st.sampled_from([1e-6, 1.0, 1e6]))
def test_known_zeros(zero, below, above, scale):
    low, high = zero - below, zero + above
    for falling in (lambda v: zero - v, lambda v: (zero - v) ** 3, lambda v: -math.expm1(v - zero), lambda v: math.atan(zero - v)):
        found = falling_root(lambda v, f=falling: scale * f(v), low, high)
        assert low <= found <= high and found == pytest.approx(zero, abs=1e-4 if falling(zero + 1e-5) > -1e-12 else 1e-11)


def test_infinite_values_are_bisected():
    assert falling_root(lambda v: math.inf if v < 0.3 else -math.inf, 0.0, 1.0) == pytest.approx(0.3, abs=1e-12)
    assert falling_root(lambda v: 1 / v - 4 if v else math.inf, 0.0, 1.0) == pytest.approx(0.25, rel=1e-12)


def test_brackets_without_a_zero():
    assert falling_root(lambda v: -1 - v, 0.0, 1.0) == 0.0
    assert falling_root(lambda v: 5 - v, 0.0, 1.0) == 1.0
