"""Adaptive propensities: states per period against unit rows written out, and coverage where pooled means are misled."""

import math

import numpy as np
import pytest

from analytics.inference import adaptive, adaptive_bound
from analytics.inference.adaptive import AllocationPeriod, ArmState

ARMS = ("a", "b", "c")


def _rows(seed, sizes=(40, 25, 60)):
    """Units of three periods with changing propensities and predictions: (period, arm, outcome) and what was fixed before."""
    rng = np.random.default_rng(seed)
    rows, fixed = [], []
    for index, size in enumerate(sizes):
        e = rng.dirichlet([3, 3, 3]) * 0.7 + 0.1
        fixed.append((e, rng.random(3)))
        arms = rng.choice(3, size, p=e)
        rows += [(index, int(k), float(y)) for k, y in zip(arms, rng.random(size) ** 2, strict=True)]
    return rows, fixed


def _periods(rows, fixed):
    return [
        AllocationPeriod(
            units=sum(i == index for i, _, _ in rows),
            arms={
                name: ArmState(
                    n=len(y := [v for i, k, v in rows if (i, k) == (index, arm)]),
                    s1=sum(y),
                    s2=sum(v * v for v in y),
                    propensity=float(e[arm]),
                    prediction=float(m[arm]),
                )
                for arm, name in enumerate(ARMS)
            },
        )
        for index, (e, m) in enumerate(fixed)
    ]


def _scores(rows, fixed, arm):
    return np.array([fixed[i][1][arm] + (k == arm) * (y - fixed[i][1][arm]) / fixed[i][0][arm] for i, k, y in rows])


@pytest.mark.parametrize("seed", [0, 1])
def test_states_say_what_rows_say(seed):
    rows, fixed = _rows(seed)
    periods = _periods(rows, fixed)
    a, b = _scores(rows, fixed, 0), _scores(rows, fixed, 1)
    found = adaptive.mean(periods, "b")
    assert (found.value, found.variance, found.units) == pytest.approx((b.mean(), b.var(), len(rows)), rel=1e-10)
    found = adaptive.difference(periods, "a", "b")
    assert (found.value, found.se) == pytest.approx(((b - a).mean(), (b - a).std() / math.sqrt(len(rows))), rel=1e-10)
    # Hadad's weights, row by row.
    h = np.array([math.sqrt(fixed[i][0][1]) for i, _, _ in rows])
    value = (h * b).sum() / h.sum()
    assert adaptive.fixed_horizon_mean(periods, "b") == pytest.approx((value, (h**2 * (b - value) ** 2).sum() / h.sum() ** 2), rel=1e-10)


def test_sequence_as_the_notes_write_it():
    rows, fixed = _rows(3)
    d = _scores(rows, fixed, 2) - _scores(rows, fixed, 0)
    t, s2, alpha = len(d), d.var(), 0.05
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 5000)
    half = math.sqrt(2 * (t * s2 * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * s2 * rho**2 + 1) / alpha))
    found = adaptive.difference(_periods(rows, fixed), "a", "c").interval(alpha, 5000)
    assert found == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-9)


def test_guaranteed_bound_row_by_row():
    """Notes 2.6 EB-DR with bets fixed per period, written out over rows."""
    rows, fixed = _rows(5)
    alpha, planned = 0.05, 200
    seen_xi, seen_square, total, bets = [], [], 0.0, 0.0
    for period in range(3):
        e, m = fixed[period][0][1], fixed[period][1][1]
        mt = min(m, e)
        centre = min(0.5, (0.25 + sum(seen_xi)) / (1 + len(seen_xi)))
        vh = (0.05 + sum(seen_square)) / (1 + len(seen_square))
        horizon = max(planned, len(seen_xi) * math.log(1 + len(seen_xi)))
        bet = min(0.5, math.sqrt(2 * math.log(1 / alpha) / (vh * horizon)))
        xi = [(mt + (k == 1) * (y - mt) / e) / 2 for i, k, y in rows if i == period]
        square = [(v - centre) ** 2 for v in xi]
        assert min(xi) - centre >= -1
        total += bet * sum(xi) - (-math.log(1 - bet) - bet) * sum(square)
        bets += bet * len(xi)
        seen_xi, seen_square = seen_xi + xi, seen_square + square
    lower = max(0.0, 2 * (total - math.log(1 / alpha)) / bets)
    assert adaptive_bound.mean_bounds(_periods(rows, fixed), "b", alpha, planned)[0] == pytest.approx(lower, rel=1e-9) and lower > 0


def test_bounds_of_a_difference_mirror():
    rows, fixed = _rows(8, (4000, 6000))
    periods = _periods(rows, fixed)
    low, high = adaptive_bound.difference_bounds(periods, "a", "b", 0.05, 10_000)
    assert -1 < low < 0 < high < 1
    assert adaptive_bound.difference_bounds(periods, "b", "a", 0.05, 10_000) == pytest.approx((-high, -low))
    flipped = _periods([(i, k, 1 - y) for i, k, y in rows], [(e, 1 - m) for e, m in fixed])
    assert adaptive_bound.difference_bounds(flipped, "a", "b", 0.05, 10_000) == pytest.approx((-high, -low))
    # 10,000 units bring it near the truth, E y = 1/3 in every arm, at any look.
    bounds = adaptive_bound.mean_bounds(periods, "a", 0.05, 10_000)
    assert bounds[0] < 1 / 3 < bounds[1] and bounds[1] - bounds[0] < 0.12


def test_season_and_allocation_that_move_together():
    """No effect at all, but b gets its units when rates are high (notes 4.1): the pooled comparison is wrong nearly always by the
    end; the sequence from AIPW states at most alpha of the runs over 20 looks, the guaranteed one never."""
    rng = np.random.default_rng(11)
    wrong = np.zeros(3)
    runs = 300
    for _ in range(runs):
        periods, ever = [], np.zeros(3, dtype=bool)
        totals = {"a": [0, 0], "b": [0, 0]}
        for step in range(20):
            rate = 0.3 * (1 + 0.5 * math.sin(step / 2))
            share = 0.9 if rate > 0.3 else 0.1
            n_b = int(rng.binomial(300, share))
            counts = {"a": (300 - n_b, 1 - share), "b": (n_b, share)}
            believed = {arm: (x / n if n else 0.0) for arm, (x, n) in totals.items()}
            arms = {}
            for arm, (n, e) in counts.items():
                x = int(rng.binomial(n, rate))
                arms[arm] = ArmState(n=n, s1=x, s2=x, propensity=e, prediction=believed[arm])
                totals[arm] = [totals[arm][0] + x, totals[arm][1] + n]
            periods.append(AllocationPeriod(units=300, arms=arms))
            (x_a, n_a), (x_b, n_b) = totals["a"], totals["b"]
            p_a, p_b = x_a / n_a, x_b / n_b
            low, high = adaptive.difference(periods, "a", "b").interval(0.05, 5000)
            guaranteed = adaptive_bound.difference_bounds(periods, "a", "b", 0.05, 6000)
            ever |= [
                abs(p_b - p_a) > 1.96 * math.sqrt(p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b),
                not low <= 0 <= high,
                not guaranteed[0] <= 0 <= guaranteed[1],
            ]
        wrong += ever
    assert wrong[0] / runs > 0.9
    assert wrong[1] / runs <= 0.05
    assert wrong[2] == 0


def test_estimates_are_unbiased_under_thompson():
    """Two arms, .3 against .5, weights follow what was seen (floor 10 %): the mean AIPW difference over 800 runs is .2 within
    3.5 Monte Carlo errors."""
    rng = np.random.default_rng(12)
    found = []
    for _ in range(800):
        periods, totals = [], {"a": [1.0, 2.0], "b": [1.0, 2.0]}
        for _ in range(8):
            share = {arm: x / n for arm, (x, n) in totals.items()}
            e_b = 0.1 + 0.8 * (share["b"] > share["a"] + rng.normal(0, 0.1))
            n_b = int(rng.binomial(60, e_b))
            arms = {}
            for arm, n, e, rate in (("a", 60 - n_b, 1 - e_b, 0.3), ("b", n_b, e_b, 0.5)):
                x = int(rng.binomial(n, rate))
                arms[arm] = ArmState(n=n, s1=x, s2=x, propensity=e, prediction=share[arm])
                totals[arm] = [totals[arm][0] + x, totals[arm][1] + n]
            periods.append(AllocationPeriod(units=60, arms=arms))
        found.append(adaptive.difference(periods, "a", "b").value)
    assert np.mean(found) == pytest.approx(0.2, abs=3.5 * np.std(found) / math.sqrt(800))


def test_what_cannot_be_told():
    rows, fixed = _rows(0)
    periods = _periods(rows, fixed)
    assert adaptive.mean([], "a") is None and adaptive.difference([], "a", "b") is None
    assert adaptive.mean(periods, "unknown") is None and adaptive.fixed_horizon_mean(periods, "unknown") is None
    never = ArmState(n=0, s1=0, s2=0, propensity=0.0)
    unreachable = AllocationPeriod(units=5, arms={"a": ArmState(n=5, s1=1, s2=1, propensity=1.0), "b": never})
    assert adaptive.difference([*periods, unreachable], "a", "b") is None
    assert adaptive_bound.mean_bounds([*periods, unreachable], "b", 0.05, 100) == (0.0, 1.0)
    assert adaptive_bound.difference_bounds([], "a", "b", 0.05, 100) == (-1.0, 1.0)
    empty = AllocationPeriod(units=0, arms={})
    assert adaptive.mean([empty, *periods], "a") == adaptive.mean(periods, "a")
    zeros = AllocationPeriod(units=4, arms={"a": ArmState(n=2, s1=0, s2=0, propensity=0.5), "b": ArmState(n=2, s1=0, s2=0, propensity=0.5)})
    assert adaptive.difference([zeros], "a", "b").interval(0.05, 5000) == (None, None)
    scaled = AllocationPeriod(units=4, arms={"a": ArmState(n=2, s1=30, s2=500, propensity=0.5)})
    with pytest.raises(ValueError, match="arm 'a': 2 outcomes"):
        adaptive_bound.mean_bounds([scaled], "a", 0.05, 100)
