"""What other tools get wrong (gbstats, tea-tasting, cluster-experiments; their versions of 2024-2026), asked of our comparisons."""

import math

import msgspec
import numpy as np
import pytest
from comparison_cases import ask, compare, joint
from report_cases import moments, proportion, quantile
from scipy import stats

from analytics.inference import confidence_sequence


def test_no_floor_under_a_quantiles_variance():
    """gbstats: at least 1e-5 in the metric's own units; quantiles in microunits then never differ."""
    rng = np.random.default_rng(8)
    base, vivid = rng.normal(1, 0.1, 4000), rng.normal(1.1, 0.1, 4000)
    unit = np.arange(4000)
    one = compare(ask("quantile", base=quantile(base, unit, 0.9), vivid=quantile(vivid, unit, 0.9)))
    small = compare(ask("quantile", base=quantile(base * 1e-6, unit, 0.9), vivid=quantile(vivid * 1e-6, unit, 0.9)))
    assert small.p_value == pytest.approx(one.p_value, rel=1e-6) and small.p_value < 1e-6


def test_p_values_reach_far_below_1e_16():
    """gbstats and others: 2 (1 - cdf) is 0 below 1e-16; one-sided p clamped to 1e-5."""
    ours = compare(ask("proportion", base=proportion(1000, 10_000), vivid=proportion(2000, 10_000)))
    assert ours.p_value == pytest.approx(2 * stats.norm.sf(1000 / 10_000 / math.sqrt(0.15 * 0.85 * 2 / 10_000)), rel=1e-9)
    assert 0 < ours.p_value < 1e-80
    assert 0 < confidence_sequence.one_sided_p(20.0, 5000, 0.05, 5000) < 1e-30


def test_the_interval_of_proportions_is_not_the_pooled_null_variance():
    """tea-tasting: interval from the pooled variance of "no difference", which is none of the difference's."""
    ours = compare(ask("proportion", base=proportion(10, 1000), vivid=proportion(300, 1000)))
    share = 310 / 2000
    pooled = 1.959963984540054 * math.sqrt(share * (1 - share) * 2 / 1000)
    assert (ours.difference.ci[1] - ours.difference.ci[0]) / 2 < 0.95 * pooled


def test_relative_cuped_does_not_explode():
    """cluster-experiments #270: a true lift of 10% shown as 194%, from a covariate with another mean than the outcome."""
    rng = np.random.default_rng(9)
    x = rng.normal(1000, 50, (2, 2000))
    y = np.stack([10 + 0.1 * (x[0] - 1000) + rng.normal(0, 1, 2000), 11 + 0.1 * (x[1] - 1000) + rng.normal(0, 1, 2000)])
    question = msgspec.structs.replace(
        ask(base=moments(y[0]), vivid=moments(y[1])), joint={"base": joint(y[0], x[0]), "vivid": joint(y[1], x[1])}
    )
    ours = compare(question)
    assert ours.relative.value == pytest.approx(0.1, abs=0.02) and ours.relative.ci[0] > 0.05 and ours.relative.ci[1] < 0.15
    assert ours.variance_reduction > 0.9


def test_quantiles_of_many_rows_and_of_ties():
    """Where two sample quantiles coincide nothing is inferred, instead of certainty."""
    flat = quantile(np.repeat(5.0, 300), np.arange(300), 0.9)
    ours = compare(ask("quantile", base=flat, vivid=flat))
    assert ours.p_value is None and ours.difference.value == 0
