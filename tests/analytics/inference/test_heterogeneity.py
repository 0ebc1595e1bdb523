"""Cochran's Q and I squared: by statsmodels' meta-analysis, and under one common effect."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from statsmodels.stats.meta_analysis import combine_effects

from analytics.inference.heterogeneity import cochran_q


def test_as_statsmodels_has_it():
    estimates, ses = [0.10, 0.30, -0.05, 0.22], [0.05, 0.08, 0.06, 0.11]
    theirs = combine_effects(np.array(estimates), np.array(ses) ** 2).test_homogeneity()
    q, df, p, i2 = cochran_q(estimates, ses)
    assert (q, df, p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-10)
    assert i2 == pytest.approx((q - 3) / q, rel=1e-12)


def test_even_slices_and_a_single_one():
    assert cochran_q([0.1, 0.1, 0.1], [0.2, 0.3, 0.1]) == (0.0, 2, 1.0, 0.0)
    assert cochran_q([0.1], [0.2]) == (0.0, 0, 1.0, 0.0)
    assert cochran_q([], []) == (0.0, 0, 1.0, 0.0)


def test_common_effect_is_rejected_as_often_as_it_may():
    rng = np.random.default_rng(0)
    ses = [0.1, 0.4, 0.2, 0.05, 0.3]
    p = [cochran_q(list(0.7 + rng.standard_normal(5) * ses), ses)[2] for _ in range(4000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.012)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 3)), min_size=2, max_size=8), st.sampled_from([1e-200, 1e-6, 1.0, 1e9, 1e200]))
def test_units_do_not_matter(slices, scale):
    estimates, ses = [x for x, _ in slices], [s for _, s in slices]
    plain, scaled = cochran_q(estimates, ses), cochran_q([x * scale for x in estimates], [s * scale for s in ses])
    assert scaled == pytest.approx(plain, rel=1e-7, abs=1e-9)
    weights = np.array(ses) ** -2.0
    mean = np.sum(weights * estimates) / weights.sum()
    assert plain[0] == pytest.approx(float(np.sum(weights * (np.array(estimates) - mean) ** 2)), rel=1e-7, abs=1e-9)
    assert plain[2] == pytest.approx(chi2.sf(plain[0], plain[1]), rel=1e-9)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"slice 1 has estimate nan"):
        cochran_q([0.1, math.nan], [0.1, 0.1])
    with pytest.raises(ValueError, match=r"se 0"):
        cochran_q([0.1, 0.2], [0.1, 0.0])
    with pytest.raises(ValueError, match=r"2 estimates and 1 ses"):
        cochran_q([0.1, 0.2], [0.1])
