"""Corrections against statsmodels and their definitions; interval levels that agree with the adjusted p-values."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analytics.inference.multiplicity import benjamini_hochberg, correct, holm

CASES = [[0.01], [0.04, 0.01, 0.03], [0.5, 0.5, 1.0], [0.0, 0.02, 0.02, 0.9], [1e-30, 0.011, 0.012, 0.6, 0.04]]


@pytest.mark.parametrize("p", CASES)
@pytest.mark.parametrize("name,theirs", [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_statsmodels_agrees(p, name, theirs):
    expected = list(multipletests(p, 0.05, method=theirs)[1])
    assert [a.p_value for a in correct(p, 0.05, name)] == pytest.approx(expected, rel=1e-12, abs=1e-300)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from(["holm", "benjamini_hochberg", "none"]),
)
@example([0.0, 0.0, 0.0], 0.05, "benjamini_hochberg")  # 0.05 * 3 / 3 > 0.05
def test_levels_agree_with_the_adjusted_p_values(p, alpha, name):
    ours = correct(p, alpha, name)
    for raw, one in zip(p, ours, strict=True):
        assert raw * (1 - 1e-12) <= one.p_value <= 1 and 0 < one.alpha <= alpha
        if abs(one.p_value / alpha - 1) > 1e-9 and abs(raw - one.alpha) > 1e-12:
            assert (raw <= one.alpha) == (one.p_value <= alpha)


def test_false_coverage_level_by_hand():
    """Two of four rejected at .05: every interval at .05 * 2/4 (Benjamini & Yekutieli 2005)."""
    ours = benjamini_hochberg([0.01, 0.02, 0.3, 0.9], 0.05)
    assert [a.alpha for a in ours] == [0.025] * 4
    assert [a.p_value for a in ours] == pytest.approx([0.04, 0.04, 0.4, 0.9])
    assert [a.alpha for a in benjamini_hochberg([0.5, 0.9], 0.05)] == [0.025] * 2


def test_none_and_nothing():
    assert [(a.p_value, a.alpha) for a in correct([0.03, 0.04], 0.05, "none")] == [(0.03, 0.05), (0.04, 0.05)]
    assert holm([], 0.05) == benjamini_hochberg([], 0.05) == []
