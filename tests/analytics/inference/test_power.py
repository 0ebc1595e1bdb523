"""Power against statsmodels, the written formulas, published tables of group-sequential designs, and simulated experiments."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import power_proportions_2indep, proportion_effectsize, samplesize_proportions_2indep_onetail

from analytics.facts import Joint, Moments
from analytics.inference import confidence_sequence
from analytics.inference.crossing import crossing, drift_for, effective_critical
from analytics.inference.cuped import adjusted_contrast
from analytics.inference.explained import explained
from analytics.inference.power import (
    Outcome,
    any_look,
    fixed,
    margin_ratio,
    power_at,
    required_units,
    smallest_effect,
    smallest_margin,
    spread,
)
from analytics.inference.proportion import proportion_contrast
from analytics.inference.tails import two_sided_p

Z, ZP = norm.ppf(0.975), norm.ppf(0.8)
LIKES = Outcome(baseline=0.1)


def per_arm(outcome: Outcome, effect: float, share: float = 0.5, power: float = 0.8) -> float:
    units = required_units(spread(outcome, effect, share), fixed(0.05), power)
    assert units is not None
    return units * share


def test_proportions_as_statsmodels_and_the_textbook() -> None:
    q = 0.105
    pooled = (Z * math.sqrt(2 * q * (1 - q)) + ZP * math.sqrt(0.1 * 0.9 + 0.11 * 0.89)) ** 2 / 0.01**2
    assert per_arm(LIKES, 0.01) == pytest.approx(pooled, rel=1e-12)
    assert per_arm(LIKES, 0.01) == pytest.approx(samplesize_proportions_2indep_onetail(0.01, 0.1, 0.8, alpha=0.05), rel=1e-9)
    unpooled = (Z + ZP) ** 2 * (0.1 * 0.9 + 0.11 * 0.89) / 0.01**2
    assert per_arm(Outcome(baseline=0.1, scale="unpooled"), 0.01) == pytest.approx(unpooled, rel=1e-12)
    found = power_at(3000, spread(LIKES, 0.02, 0.5), fixed(0.05))
    assert found == pytest.approx(power_proportions_2indep(0.02, 0.1, 1500, alpha=0.05).power, rel=1e-9)
    # Unequal arms: statsmodels' nobs1 is the group with diff, here the treated 70 %.
    found = power_at(3000, spread(LIKES, 0.02, 0.3), fixed(0.05))
    assert found == pytest.approx(power_proportions_2indep(0.02, 0.1, 2100, ratio=900 / 2100, alpha=0.05).power, rel=1e-9)
    # Cohen's h, n = 2 (z + z)²/h² per arm.
    arcsine = NormalIndPower().solve_power(proportion_effectsize(0.11, 0.1), alpha=0.05, power=0.8)
    assert per_arm(Outcome(baseline=0.1, scale="arcsine"), 0.01) == pytest.approx(arcsine, rel=1e-5)


def test_means_as_statsmodels_and_the_textbook() -> None:
    spend = Outcome(baseline=12.5, variance=900.0)
    assert per_arm(spend, 0.5) == pytest.approx(2 * 900 * (Z + ZP) ** 2 / 0.5**2, rel=1e-12)
    assert power_at(20_000, spread(spend, 1.0, 0.5), fixed(0.05)) == pytest.approx(
        NormalIndPower().power(1 / 30, 10_000, 0.05, ratio=1), rel=1e-12
    )
    assert power_at(20_000, spread(spend, 1.0, 0.8), fixed(0.05)) == pytest.approx(
        NormalIndPower().power(1 / 30, 16_000, 0.05, ratio=0.25), rel=1e-12
    )
    se = math.sqrt(2 * 900 / 10_000)
    assert smallest_effect(spend, 0.5, 20_000, fixed(0.05), 0.8) == pytest.approx((Z + ZP) * se, rel=1e-12)
    assert smallest_effect(spend, 0.5, 20_000, fixed(0.05), 0.8, upwards=False) == pytest.approx(-(Z + ZP) * se, rel=1e-12)
    # Covariates that take 60 % leave 40 % of the units to ask for.
    assert per_arm(Outcome(baseline=12.5, variance=900.0, remaining=0.4), 0.5) == pytest.approx(0.4 * per_arm(spend, 0.5), rel=1e-12)


@pytest.mark.parametrize("planned", [500.0, 5000.0, 200_000.0])
def test_any_look_is_half_the_confidence_sequence_plus_power(planned: float) -> None:
    spend, effect, alpha = Outcome(baseline=12.5, variance=900.0), 1.0, 0.05
    units = required_units(spread(spend, effect, 0.5), any_look(alpha, planned), 0.8)
    assert units is not None
    se = math.sqrt(2 * 900 / (units / 2))
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)
    kap = units * rho**2 + 1
    half = se * math.sqrt(units) * math.sqrt(2 * kap / (units * rho) ** 2 * math.log(math.sqrt(kap) / alpha))
    assert effect == pytest.approx(half + ZP * se, rel=1e-9)
    one_sided = required_units(spread(spend, effect, 0.5), any_look(alpha, planned, one_sided=True), 0.8)
    assert one_sided is not None and one_sided < units
    best = required_units(spread(spend, effect, 0.5), any_look(alpha, None), 0.8)
    assert best is not None and best <= units * (1 + 1e-9)


def test_non_inferiority_by_hand() -> None:
    for lower, ratio in ((False, 0.98), (True, 1.02)):
        assert margin_ratio(120.0, 0.02, lower_is_better=lower) == pytest.approx(ratio)
        outcome = Outcome(baseline=120.0, variance=6400.0)
        found = spread(outcome, 0.0, 0.5, ratio)
        signal = abs(120 * (1 - ratio))
        units = required_units(found._replace(signal=abs(found.signal)), fixed(0.05, one_sided=True), 0.9)
        assert units == pytest.approx(2 * 6400 * (1 + ratio**2) * (norm.ppf(0.95) + norm.ppf(0.9)) ** 2 / signal**2, rel=1e-9)
        margin = smallest_margin(outcome, 0.5, units, fixed(0.05, one_sided=True), 0.9, lower_is_better=lower)
        assert margin == pytest.approx(0.02, rel=1e-9)
    # A metric below 0 gets worse the other way.
    assert margin_ratio(-5.0, 0.1, lower_is_better=False) == pytest.approx(1.1)
    # An arm that is truly beyond the margin is never shown to keep it.
    assert required_units(spread(Outcome(baseline=100.0, variance=1.0), -5.0, 0.5, 0.98), fixed(0.05, one_sided=True), 0.8) is None


@settings(max_examples=60, deadline=None)
@given(
    baseline=st.floats(0.001, 0.95),
    lift=st.floats(0.01, 0.6),
    share=st.floats(0.05, 0.95),
    power=st.floats(0.3, 0.99),
    planned=st.sampled_from([None, 100.0, 5000.0, 1e6]),
    sequential=st.booleans(),
)
def test_units_effect_and_power_agree(
    baseline: float, lift: float, share: float, power: float, planned: float | None, sequential: bool
) -> None:
    outcome, effect = Outcome(baseline=baseline), lift * (1 - baseline)
    criterion = any_look(0.05, planned) if sequential else fixed(0.05)
    found = spread(outcome, effect, share)
    units = required_units(found, criterion, power)
    assert units is not None
    assert smallest_effect(outcome, share, units, criterion, power) == pytest.approx(effect, rel=1e-6)
    assert power_at(units, found, criterion) >= power - 1e-9
    assert power_at(units * 2, found, criterion) > power_at(units, found, criterion)


def test_impossible_effects() -> None:
    with pytest.raises(ValueError, match=r"it would be 1\.1"):
        spread(Outcome(baseline=0.9), 0.2, 0.5)
    assert smallest_effect(Outcome(baseline=0.5), 0.5, 4, fixed(0.05), 0.8) is None
    assert required_units(spread(LIKES, 0.0, 0.5), fixed(0.05), 0.8) is None
    assert power_at(0, spread(LIKES, 0.01, 0.5), fixed(0.05)) == 0


def test_crossing_as_published() -> None:
    """Jennison & Turnbull 2000, tables 2.1, 2.2 (Pocock), 2.3, 2.4 (O'Brien-Fleming): constants, and factors of the sample size."""
    five = [0.2, 0.4, 0.6, 0.8, 1.0]
    pocock, obrien = [2.413] * 5, [2.040 / math.sqrt(t) for t in five]
    for criticals, factor in ((pocock, 1.228), (obrien, 1.028)):
        assert sum(crossing(five, criticals, 0.0)) == pytest.approx(0.05, abs=1e-4)
        assert (drift_for(five, criticals, 0.8) / (Z + ZP)) ** 2 == pytest.approx(factor, abs=2e-3)
    assert effective_critical([1.0], [Z], 0.8) == pytest.approx(Z, abs=1e-4)
    one = crossing([1.0], [Z], 2.8)
    assert one == pytest.approx([norm.sf(Z - 2.8) + norm.cdf(-Z - 2.8)], rel=1e-12)
    assert crossing([0.5, 1.0], [2.0, 9.0], 3.0, one_sided=True)[0] == pytest.approx(norm.sf(2 - 3 * math.sqrt(0.5)), rel=1e-12)
    with pytest.raises(ValueError, match="rise"):
        crossing([0.5, 0.5], [2, 2], 0.0)


def test_crossing_as_simulated() -> None:
    rng = np.random.default_rng(11)
    fractions, criticals, drift = [0.1, 0.3, 0.35, 0.7, 1.0], [3.0, 2.6, 2.5, 2.3, 2.1], 2.5
    steps = np.diff([0.0, *fractions])
    paths = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), (200_000, 5)), axis=1) / np.sqrt(fractions)
    for one_sided in (False, True):
        out = (paths if one_sided else np.abs(paths)) > criticals
        first = np.where(out.any(axis=1), out.argmax(axis=1), 5)
        seen = np.bincount(first, minlength=6)[:5] / len(paths)
        np.testing.assert_allclose(crossing(fractions, criticals, drift, one_sided=one_sided), seen, atol=4 * 0.5 / math.sqrt(len(paths)))


def test_power_is_real_for_proportions_read_once_and_daily() -> None:
    rng, runs, looks = np.random.default_rng(7), 3000, 15
    found = spread(Outcome(baseline=0.2), 0.05, 0.5)
    once, always = required_units(found, fixed(0.05), 0.8), required_units(found, any_look(0.05, 2000), 0.8)
    assert once is not None and always is not None
    n = math.ceil(once / 2)
    seen = 0
    for x_a, x_b in zip(rng.binomial(n, 0.2, runs), rng.binomial(n, 0.25, runs), strict=True):
        contrast = proportion_contrast(Moments(n=n, mean=x_a / n, m2=0.0), Moments(n=n, mean=x_b / n, m2=0.0))
        assert contrast is not None
        seen += two_sided_p(contrast.statistic()) <= 0.05
    error = math.sqrt(0.8 * 0.2 / runs)
    assert seen / runs == pytest.approx(0.8, abs=3.5 * error)
    step = math.ceil(always / 2 / looks)
    a, b = (np.cumsum(rng.binomial(step, p, (runs, looks)), axis=1) / (step * np.arange(1, looks + 1)) for p in (0.2, 0.25))
    n_each = step * np.arange(1, looks + 1)
    pooled = (a + b) / 2
    z = np.abs(b - a) / np.sqrt(pooled * (1 - pooled) * 2 / n_each)
    criticals = [confidence_sequence.two_sided_critical(int(2 * k), 0.05, 2000) for k in n_each]
    out = z > criticals
    assert out[:, -1].mean() == pytest.approx(0.8, abs=3.5 * error)
    scale = found.null / found.true
    expected = crossing(
        [k / n_each[-1] for k in n_each], [scale * c for c in criticals], found.signal * math.sqrt(2 * n_each[-1]) / found.true
    )
    assert out.any(axis=1).mean() == pytest.approx(sum(expected), abs=4 * error)


def test_power_is_real_with_a_covariate() -> None:
    """Skewed spending that was foretold by what was spent before."""
    rng, runs, n = np.random.default_rng(8), 1200, 400

    def arm(lift: float) -> Joint:
        x = rng.gamma(2, 5, n)
        y = x + rng.exponential(6, n) + lift
        rows = np.stack([y, x])
        products = np.cov(rows) * (n - 1)
        return Joint(n=n, means=tuple(rows.mean(axis=1)), products=tuple(map(tuple, products)), covariates=("x",), ratios=(False,))

    variance, left = 50 + 36, 36 / 86
    outcome = Outcome(baseline=16.0, variance=variance, remaining=left)
    effect = smallest_effect(outcome, 0.5, 2 * n, fixed(0.05), 0.8)
    assert effect is not None
    seen, shares = 0, []
    for _ in range(runs):
        control, treated = arm(0.0), arm(effect)
        shares.append(explained(control))
        adjusted = adjusted_contrast([(control, treated)])
        assert adjusted is not None
        seen += two_sided_p(adjusted.contrast.statistic(), adjusted.contrast.df) <= 0.05
    assert seen / runs == pytest.approx(0.8, abs=3.5 * math.sqrt(0.16 / runs))
    assert np.mean(shares) == pytest.approx(1 - left, abs=0.01)


def test_explained_is_the_adjusted_r_squared() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 3))
    y = x @ [1.0, -0.5, 0.0] + rng.normal(size=60)
    rows = np.column_stack([y, x]).T
    products = tuple(map(tuple, np.cov(rows) * 59))
    joint = Joint(n=60, means=tuple(rows.mean(axis=1)), products=products, covariates=("a", "b", "c"), ratios=(False,) * 3)
    assert explained(joint) == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().rsquared_adj, rel=1e-9)
    flat = Joint(n=60, means=(1.0, 1.0), products=((0.0, 0.0), (0.0, 2.0)), covariates=("a",), ratios=(False,))
    assert explained(flat) == 0
    assert explained(Joint(n=0, means=(0.0, 0.0), products=((0.0, 0.0), (0.0, 0.0)), covariates=("a",), ratios=(False,))) == 0
