"""Corrections against statsmodels; interval levels that agree with the adjusted p-values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analytics.inference.multiplicity import benjamini_hochberg, correct, holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(p_values, st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([("holm", "holm"), ("benjamini_hochberg", "fdr_bh")]))
def test_statsmodels_agrees_and_levels_agree(p, alpha, names):
    ours = correct(p, alpha, names[0])
    theirs = multipletests(p, alpha, method=names[1])[1]
    assert [a.p_value for a in ours] == pytest.approx(list(theirs), rel=1e-9, abs=1e-300)
    for raw, one in zip(p, ours, strict=True):
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
