"""e-BH by its definition, on a case by hand, and its false discoveries under dependence."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.inference.e_values import e_bh, interval_alpha


def test_by_hand():
    """K = 4, alpha = .1: thresholds 40, 20, 13.3, 10 for the 1st to 4th. 15 is too small alone, but not as the third."""
    assert e_bh([15, 1, 45, 22], 0.1) == [True, False, True, True]
    assert e_bh([15, 1, 39, 19], 0.1) == [True, False, True, True]
    assert e_bh([12, 1, 39, 19], 0.1) == [False, False, False, False]
    assert interval_alpha([True, False, True, True], 0.1) == pytest.approx(0.075)
    assert interval_alpha([False, False], 0.1) is None
    assert e_bh([], 0.05) == []
    assert e_bh([math.inf, 0.0], 0.05) == [True, False]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=15), st.floats(0.001, 0.5), st.randoms())
def test_is_benjamini_hochberg_on_inverse_e_values(e, alpha, random):
    """By the definition: reject i when some k has e_i and at least k - 1 others >= K/(alpha k)."""
    count = len(e)
    expected = [any(v * alpha * k >= count and sum(w * alpha * k >= count for w in e) >= k for k in range(1, count + 1)) for v in e]
    assert e_bh(e, alpha) == expected
    shuffled = list(range(count))
    random.shuffle(shuffled)
    assert e_bh([e[i] for i in shuffled], alpha) == [expected[i] for i in shuffled]


def test_false_discoveries_under_dependence():
    """20 nulls whose e-values are one and the same heavy-tailed variable: the false discovery rate stays at most alpha."""
    z = np.random.default_rng(0).standard_normal(20_000)
    e = np.exp(2 * z - 2)
    assert np.mean([any(e_bh([v] * 20, 0.1)) for v in e]) <= 0.1


def test_no_e_value_is_named():
    with pytest.raises(ValueError, match=r"e\[1\] = nan"):
        e_bh([1.0, math.nan], 0.05)
