"""A bandit's scores from sums, against the scores of every unit written out; with several propensities in one stretch, and ratios."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.facts_of_designs import Draw
from analytics.inference import adaptive, adaptive_bound
from analytics.inference.adaptive_periods import allocation_periods
from analytics.inference.adaptive_scores import arm_estimate, contrast, fixed_horizon, used
from analytics.inference.adaptive_table import Stretch, Table
from analytics.moments import Joint

ARMS = ("a", "b", "c")


def joint(rows):
    rows = np.atleast_2d(np.asarray(rows, float).T).T
    mean = rows.mean(axis=0)
    apart = rows - mean
    products = tuple(tuple(map(float, row)) for row in apart.T @ apart)
    return Joint(n=len(rows), means=tuple(map(float, mean)), products=products, ratio=rows.shape[1] > 1)


class Drawn:
    """Units of some stretches: (stretch, arm, propensity, numbers), some drawn with the weights before."""

    def __init__(self, seed, weights=((0.4, 0.3, 0.3), (0.2, 0.5, 0.3), (0.1, 0.3, 0.6)), outcome=None, units=200, strays=8):
        rng = np.random.default_rng(seed)
        outcome = outcome or (lambda rng, s, k: rng.normal(5 + k, 2) + 3 * s)
        self.weights, self.rows = weights, []
        for s, now in enumerate(weights):
            for e, n in ((now, units), (weights[max(0, s - 1)], strays if s else 0)):
                for k in rng.choice(3, n, p=e):
                    self.rows.append((s, int(k), e[k], np.atleast_1d(np.asarray(outcome(rng, s, k), float))))

    def stretches(self):
        found = []
        for s, weights in enumerate(self.weights):
            draws = {}
            for k, arm in enumerate(ARMS):
                chances = sorted({e for i, j, e, _ in self.rows if (i, j) == (s, k)})
                draws[arm] = [Draw(propensity=e, joint=joint([x for i, j, f, x in self.rows if (i, j, f) == (s, k, e)])) for e in chances]
            found.append(Stretch(weights=dict(zip(ARMS, weights, strict=True)), draws=draws))
        return found

    def scores(self):
        """[units, arms, numbers]; predictions as the docs say them."""
        found = []
        for s, k, e, x in self.rows:
            row = []
            for arm in range(3):
                own = [y for i, j, _, y in self.rows if i < s and j == arm]
                anyone = [y for i, _, _, y in self.rows if i < s] or [y for i, _, _, y in self.rows if i == s]
                m = np.mean(own or anyone, axis=0)
                row.append(m + (k == arm) * (x - m) / e)
            found.append(row)
        return np.array(found)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mean_is_what_unit_rows_say(seed):
    drawn = Drawn(seed)
    table, g = Table(drawn.stretches(), ARMS), drawn.scores()[:, :, 0]
    d, t = g[:, 1] - g[:, 0], len(drawn.rows)
    found = contrast(table, "a", "b")
    assert (found.control, found.difference) == pytest.approx((g[:, 0].mean(), d.mean()), rel=1e-10)
    assert (found.control_variance, found.difference_variance) == pytest.approx((g[:, 0].var() / t, d.var() / t), rel=1e-10)
    assert found.covariance == pytest.approx(np.cov(g[:, 0], d, bias=True)[0, 1] / t, rel=1e-10)
    pooled = np.array([x[0] for _, k, _, x in drawn.rows if k < 2]).var()
    assert found.units == round(t * d.var() / (9 * pooled))
    own = arm_estimate(table, "b")
    assert (own.value, own.se, own.reached) == pytest.approx((g[:, 1].mean(), g[:, 1].std() / math.sqrt(t), t), rel=1e-10)
    inverse = np.array([1 / e for _, k, e, _ in drawn.rows if k == 1])
    y = np.array([x[0] for _, k, _, x in drawn.rows if k == 1])
    assert own.deviation == pytest.approx(math.sqrt((inverse * (y - own.value) ** 2).sum() / inverse.sum()), rel=1e-9)
    assert own.effective_units == pytest.approx(inverse.sum() ** 2 / (inverse**2).sum())
    assert own.smallest_propensity == pytest.approx(1 / inverse.max())


def test_a_ratio_is_what_linearised_rows_say():
    def outcome(rng, s, k):
        views = 1 + rng.poisson(3 + s)
        return rng.binomial(views, 0.2 + 0.1 * k), views

    drawn = Drawn(4, outcome=outcome, units=250)
    g = drawn.scores()
    a, b = (g[:, k, 0].mean() / g[:, k, 1].mean() for k in (0, 2))
    lines = [(g[:, k, 0] - ratio * g[:, k, 1]) / g[:, k, 1].mean() for k, ratio in ((0, a), (2, b))]
    found = contrast(Table(drawn.stretches(), ARMS, ratio=True), "a", "c")
    assert (found.control, found.difference) == pytest.approx((a, b - a), rel=1e-10)
    assert found.difference_variance == pytest.approx((lines[1] - lines[0]).var() / len(g), rel=1e-9)
    assert found.covariance == pytest.approx(np.cov(lines[0], lines[1] - lines[0], bias=True)[0, 1] / len(g), rel=1e-8)


def test_periods_with_units_drawn_differently_are_what_rows_say():
    """ArmState.differently, Hadad's weights and the guaranteed bound: the sums of the notes stay exact."""
    drawn = Drawn(2, outcome=lambda rng, s, k: rng.random() < 0.2 + 0.1 * k)
    periods, g = allocation_periods(drawn.stretches(), ARMS), drawn.scores()[:, :, 0]
    assert all(period.arms["b"].differently for period in periods[1:])
    found = adaptive.mean(periods, "b")
    assert (found.value, found.variance, found.units) == pytest.approx((g[:, 1].mean(), g[:, 1].var(), len(g)), rel=1e-10)
    found = adaptive.difference(periods, "a", "b")
    assert (found.value, found.variance) == pytest.approx(((g[:, 1] - g[:, 0]).mean(), (g[:, 1] - g[:, 0]).var()), rel=1e-10)
    table = Table(drawn.stretches(), ARMS)
    inverse = 1 / table.propensity[[s for s, _, _, _ in drawn.rows]]
    for mine, scores, arms in (
        (fixed_horizon(table, "b"), g[:, 1], [0, 1, 2]),
        (fixed_horizon(table, "b", "a"), g[:, 1] - g[:, 0], [0, 1]),
    ):
        h = inverse[:, arms].sum(axis=1) ** -0.5
        value = (h * scores).sum() / h.sum()
        assert (mine.value, mine.se) == pytest.approx((value, math.sqrt((h**2 * (scores - value) ** 2).sum()) / h.sum()), rel=1e-9)
    strict = allocation_periods(drawn.stretches(), ARMS, strict=True)
    assert strict[0].arms["a"].prediction == 0 and strict[1].arms["a"].prediction > 0
    low, high = adaptive_bound.difference_bounds(strict, "a", "b", 0.05, 600)
    assert -1 <= low < 0.1 < high <= 1
    flipped = Drawn(2, outcome=lambda rng, s, k: rng.random() < 0.2 + 0.1 * k)
    flipped.rows = [(s, k, e, 1 - x) for s, k, e, x in flipped.rows]
    mirrored = [
        adaptive.AllocationPeriod(units=p.units, arms={arm: adaptive_bound._mirror(state) for arm, state in p.arms.items()}) for p in strict
    ]
    for arm in ARMS:
        for state, other in zip(mirrored, allocation_periods(flipped.stretches(), ARMS, strict=True), strict=True):
            m = other.arms[arm].prediction
            assert state.arms[arm].residuals(m) == pytest.approx(other.arms[arm].residuals(m), rel=1e-9)


def test_even_weights_that_never_move_are_a_plain_comparison():
    """Then the sequence goes on the units of both arms, the value is near the difference of means, and so is its error."""
    drawn = Drawn(3, weights=((1 / 3, 1 / 3, 1 / 3),) * 4, outcome=lambda rng, s, k: rng.normal(50, 2), units=3000, strays=0)
    found = contrast(Table(drawn.stretches(), ARMS), "a", "b")
    a, b = (np.array([x[0] for _, k, _, x in drawn.rows if k == arm]) for arm in (0, 1))
    plain = math.sqrt(a.var() / len(a) + b.var() / len(b))
    assert found.difference == pytest.approx(b.mean() - a.mean(), abs=plain / 5)
    assert math.sqrt(found.difference_variance) == pytest.approx(plain, rel=0.03)
    assert found.units == pytest.approx(len(a) + len(b), rel=0.03)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e9, 1e9))
def test_a_unit_of_measurement_changes_nothing(scale, shift):
    """Values times a factor, plus a constant as large as 1e9: the same statistic, to what 16 digits hold; and the same clock."""
    plain = contrast(Table(Drawn(5, units=60).stretches(), ARMS), "a", "b")
    moved = Drawn(5, units=60)
    moved.rows = [(s, k, e, x * scale + shift) for s, k, e, x in moved.rows]
    found = contrast(Table(moved.stretches(), ARMS), "a", "b")
    digits = 1e-6 + 1e-13 * abs(shift) / scale
    assert found.statistic() == pytest.approx(plain.statistic(), rel=digits, abs=digits)
    assert found.units == pytest.approx(plain.units, abs=1 + plain.units * digits)


def test_an_arm_without_hits_is_not_certain():
    """60 units that all did nothing beside 600 of which a tenth hit: its own variance is 0; that of both stands in."""

    def outcome(rng, s, k):
        return k == 0 and rng.random() < 0.1

    drawn = Drawn(6, weights=((0.6, 0.06, 0.34),) * 3, outcome=outcome, units=300, strays=0)
    table = Table(drawn.stretches(), ARMS)
    bold, careful = contrast(table, "a", "b"), contrast(table, "a", "b", hits=True)
    assert careful.difference == bold.difference
    assert abs(careful.statistic()) < 0.6 * abs(bold.statistic())


def test_only_stretches_in_which_both_could_be_got():
    weights = ((0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.6, 0.0, 0.4))
    drawn = Drawn(7, weights=weights, strays=0)
    table = Table(drawn.stretches(), ARMS)
    assert used(table, "a", "b").tolist() == [True, True, False] and used(table, "a", "c").tolist() == [False, True, True]
    assert used(table, "a", "b", until=1).tolist() == [True, False, False]
    g = drawn.scores()[:, :, 0][200:]
    # What came before still foretells: "a" by its first 200 units' mean, "c" by that of everybody.
    assert contrast(table, "a", "c").difference == pytest.approx((g[:, 2] - g[:, 0]).mean(), rel=1e-9)
    assert arm_estimate(table, "c").reached == 400
    assert contrast(Table([], ARMS), "a", "b") is None and arm_estimate(Table([], ARMS), "a") is None
    constant = Drawn(8, outcome=lambda rng, s, k: 1.0)
    assert contrast(Table(constant.stretches(), ARMS), "a", "b") is None
