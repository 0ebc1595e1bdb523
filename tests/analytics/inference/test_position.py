"""The position model against statsmodels' clustered Poisson regression, resampled units and known truths."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from position_cases import THETA, Grids, by_arm, counted, drawn

from analytics.facts_of_designs import Crossed
from analytics.inference.position import (
    Tally,
    balance,
    drift,
    inverse_rates,
    likely_rates,
    log_interval,
    p_of,
    position_fit,
    raw_rates,
    shuffled,
    tally,
    too_little,
)
from analytics.inference.trust import alike, trust_fit, trust_test


def test_fit_and_clustered_errors_are_those_of_statsmodels() -> None:
    grids = drawn(1, 400, np.outer([0.15, 0.2, 0.3], THETA))
    counts = by_arm(grids, 3)
    fit = position_fit(counts)
    design = np.hstack([np.eye(3)[grids.arm], np.eye(4)[grids.cell][:, 1:]])
    oracle = sm.GLM(grids.got.astype(float), design, family=sm.families.Poisson()).fit(
        cov_type="cluster", cov_kwds={"groups": grids.unit, "use_correction": False}, tol=1e-12
    )
    assert np.log(fit.attraction) == pytest.approx(oracle.params[:3], abs=1e-8)
    assert np.log(fit.examination[1:]) == pytest.approx(oracle.params[3:], abs=1e-8)
    weights = np.vstack([fit.attraction_weights, fit.examination_weights[1:]])
    assert counts.variance(weights) == pytest.approx(oracle.cov_params(), rel=1e-6, abs=1e-12)


def test_with_every_arm_alike_in_every_cell_examination_is_the_ratio_of_rates() -> None:
    shown, got = np.full((2, 4), 1000.0), np.array([[100.0, 70, 50, 90], [150, 110, 80, 120]])
    fit = position_fit(Tally(shown, got, np.zeros((16, 16))))
    assert fit.examination == pytest.approx(got.sum(axis=0) / got.sum(axis=0)[0])
    rates = likely_rates(fit).value
    assert rates == pytest.approx(got.sum(axis=1) / (shown @ fit.examination))
    assert inverse_rates(Tally(shown, got, np.zeros((16, 16))), fit).value == pytest.approx((got / fit.examination).sum(axis=1) / 4000)


@pytest.mark.parametrize("which", ["raw", "ips", "mle"])
def test_errors_of_the_rates_are_those_of_resampled_units(which: str) -> None:
    grids = drawn(2, 300, np.outer([0.2, 0.3], THETA), spread=1.0)
    n = 16
    per_unit = np.zeros((300, n))
    entry = grids.arm * 4 + grids.cell
    np.add.at(per_unit, (grids.unit, entry), 1)
    np.add.at(per_unit, (grids.unit, 8 + entry), grids.got)

    def rates(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = weight @ per_unit
        counts = Tally(total[:8].reshape(2, 4), total[8:].reshape(2, 4), per_unit.T @ per_unit)
        fit = position_fit(counts)
        found = {"raw": raw_rates(counts), "ips": inverse_rates(counts, fit), "mle": likely_rates(fit)}[which]
        return found.value, np.sqrt(np.diagonal(counts.variance(found.weights)))

    generator = np.random.default_rng(3)
    resampled = [rates(np.bincount(generator.integers(0, 300, 300), minlength=300).astype(float))[0] for _ in range(400)]
    assert rates(np.ones(300))[1] == pytest.approx(np.std(resampled, axis=0), rel=0.12)


def test_raw_rates_reverse_two_arms_that_stand_elsewhere_and_corrected_ones_do_not() -> None:
    placed = np.array([[0.85, 0.5, 0.15, 0.5], [0.15, 0.5, 0.85, 0.5]])
    grids = drawn(5, 3000, np.outer([0.2, 0.24], [1.0, 0.6, 0.3, 0.6]), placed=placed)
    counts = by_arm(grids, 2)
    fit = position_fit(counts)
    raw, ips, mle = raw_rates(counts).value, inverse_rates(counts, fit).value, likely_rates(fit).value
    assert raw[1] < raw[0]
    assert mle[1] > mle[0]
    assert mle == pytest.approx([0.2, 0.24], abs=0.02)
    assert ips == pytest.approx([0.2, 0.24], abs=0.02)


def test_trust_is_found_where_it_is_and_only_there() -> None:
    gamma, slope, floor = np.array([0.1, 0.3]), np.array([1.0, 0.6, 0.5, 0.8]), np.array([0.0, 0.06, 0.02, 0.05])
    counts = by_arm(drawn(7, 8000, np.outer(gamma, slope) + floor, spread=0.3), 2)
    fit = position_fit(counts)
    test, found = trust_test(counts, fit), trust_fit(counts, fit)
    assert test is not None and test[1] == 3 and (p_of(test) or 0) < 1e-6
    assert found is not None and found.df == 3
    assert np.abs(found.slope - slope)[1:] == pytest.approx(0, abs=3.5 * found.slope_se[1:].max())
    assert np.abs(found.floor - floor)[1:] == pytest.approx(0, abs=3.5 * found.floor_se[1:].max())
    # Two arms and alpha, beta per cell: the model is saturated and gives back the rates.
    assert np.outer(found.attraction, found.slope) + found.floor == pytest.approx(counts.rate, abs=1e-6)
    rates = np.where(counts.got > 0, counts.got, 1)
    expected = counts.shown * fit.mean
    assert found.likelihood_ratio == pytest.approx(2 * np.sum(counts.got * np.log(rates / expected) - (counts.got - expected)), rel=1e-6)


def test_trust_of_three_arms_is_a_maximum() -> None:
    gamma, slope, floor = np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.6, 0.5, 0.8]), np.array([0.0, 0.06, 0.02, 0.05])
    counts = by_arm(drawn(8, 4000, np.outer(gamma, slope) + floor, spread=0.0), 3)
    found = trust_fit(counts, position_fit(counts))
    assert found is not None
    chance = np.outer(found.attraction, found.slope) + found.floor

    def likelihood(moved: np.ndarray) -> float:
        return float(np.sum(counts.got * np.log(moved) - counts.shown * moved))

    best = likelihood(chance)
    for row in range(3):
        for size in (-1e-3, 1e-3):
            nudged = found.attraction + size * np.eye(3)[row]
            assert likelihood(np.outer(nudged, found.slope) + found.floor) < best
    assert found.slope == pytest.approx(slope, abs=0.15)


def test_position_based_counts_reject_trust_as_often_as_they_should() -> None:
    low = [
        p
        for seed in range(150)
        if (p := p_of(trust_test(counts := by_arm(drawn(100 + seed, 300, np.outer([0.2, 0.35], THETA)), 2), position_fit(counts))))
        is not None
        and p < 0.05
    ]
    assert len(low) <= 17  # 7.5 expected; 0.1 % beyond


def test_arms_that_are_alike_cannot_tell_trust() -> None:
    same = by_arm(drawn(3, 300, np.outer([0.2, 0.2], THETA)), 2)
    apart = by_arm(drawn(4, 300, np.outer([0.15, 0.35], THETA)), 2)
    assert (p_of(alike(same, position_fit(same))) or 0) > 0.01
    assert (p_of(alike(apart, position_fit(apart))) or 0) < 1e-6
    single = by_arm(drawn(4, 300, np.outer([0.2], THETA)), 1)
    assert (
        alike(single, position_fit(single)) is trust_test(single, position_fit(single)) is trust_fit(single, position_fit(single)) is None
    )


def test_drift_is_seen_and_a_growing_rate_is_none() -> None:
    def halves(seed: int, later: np.ndarray, level: float) -> Tally:
        first, second = drawn(seed, 800, np.outer([0.2], THETA)), drawn(seed + 1, 800, np.outer([0.2 * level], later))
        both = Grids(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
        return counted(both, np.repeat([0, 1], [len(first.unit), len(second.unit)]), 2, 4)

    moved = drift(halves(1, THETA[::-1].copy(), 1.0))
    assert moved is not None and moved[1] == 3 and (p_of(moved) or 0) < 1e-4
    assert (p_of(drift(halves(1, THETA, 1.8))) or 0) > 0.01
    assert drift(halves(1, THETA * 0.001, 1.0)) is None


def test_balance_sees_an_arm_that_stands_first_too_often() -> None:
    even = np.full((2, 4), 0.5)
    assert (p_of(balance(by_arm(drawn(6, 500, np.outer([0.2, 0.2], THETA), placed=even), 2))) or 0) > 0.01
    skew = even + np.array([[0.08, 0, -0.08, 0], [-0.08, 0, 0.08, 0]])
    assert (p_of(balance(by_arm(drawn(6, 500, np.outer([0.2, 0.2], THETA), placed=skew), 2))) or 0) < 1e-6
    grids = drawn(6, 500, np.outer([0.2, 0.2], THETA))
    whole = Grids(grids.unit, grids.unit % 2, grids.cell, grids.got)
    assert balance(by_arm(whole, 2)) is None, "a grid of one arm has it in each cell once"


def test_random_orders_have_the_chi_square_they_should() -> None:
    generator = np.random.default_rng(9)
    found = []
    for _ in range(400):
        counts = np.zeros((4, 4), dtype=np.int64)
        orders = generator.permuted(np.tile(np.arange(4), (200, 1)), axis=1)
        for cell in range(4):
            counts[:, cell] = np.bincount(orders[:, cell], minlength=4)
        found.append(shuffled(counts)[0])
    assert shuffled(counts)[1] == 9
    assert np.mean(found) == pytest.approx(9, abs=4 * np.sqrt(18 / 400))
    assert np.var(found) == pytest.approx(18, rel=0.35)


def test_too_little_says_why() -> None:
    counts = by_arm(drawn(1, 100, np.outer([0.2, 0.3], THETA)), 2)
    assert too_little(counts, 100) == ""
    assert too_little(counts, 12) == "12 units so far; at least 30 are needed"
    rare = Tally(counts.shown, np.array([[9.0, 40, 40, 3], [9, 40, 40, 5]]), counts.cross)
    assert too_little(rare, 100) == "cell 3 got 8 events so far; each needs at least 10"
    apart = Tally(np.array([[50.0, 50, 0, 0], [0, 0, 50, 50]]), np.array([[20.0, 20, 0, 0], [0, 0, 20, 20]]), counts.cross)
    assert "no arm stood both" in too_little(apart, 100)
    bridged = Tally(np.array([[50.0, 50, 0, 0], [0, 50, 50, 50]]), np.array([[20.0, 20, 0, 0], [0, 20, 20, 20]]), counts.cross)
    assert too_little(bridged, 100) == ""


def test_an_arm_without_events_has_rate_0_and_leaves_the_cells_alone() -> None:
    grids = drawn(2, 300, np.outer([0.2, 0.3], THETA))
    with_nothing = Grids(*(np.concatenate([a, b]) for a, b in zip(grids, drawn(3, 300, np.zeros((1, 4))), strict=True)))
    arm = np.concatenate([grids.arm, np.full(len(with_nothing.arm) - len(grids.arm), 2)])
    fit, alone = position_fit(counted(with_nothing, arm, 3, 4)), position_fit(by_arm(grids, 2))
    assert fit.examination == pytest.approx(alone.examination)
    assert fit.attraction == pytest.approx([*alone.attraction, 0.0])
    assert log_interval(0.0, None, 1.96) == (0.0, None)


def test_no_picture_counts_for_more_than_twenty_in_the_best_cell() -> None:
    shown, got = np.full((1, 3), 10_000.0), np.array([[1000.0, 2000, 20]])
    counts = Tally(shown, got, np.eye(6))
    fit = position_fit(counts)
    assert fit.examination == pytest.approx([1, 2, 0.02])
    rates = inverse_rates(counts, fit)
    assert rates.value == pytest.approx([(1000 + 2000 / 2 + 20 / 0.1) / 30_000])
    # The clipped cell's weight is a constant, not an estimate.
    assert rates.weights[0, 5] == pytest.approx(1 / 0.1 / 30_000)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.02, 0.4), min_size=1, max_size=4),
    st.lists(st.floats(0.2, 2.0), min_size=1, max_size=5),
    st.integers(0, 2**31),
)
def test_expected_counts_give_back_the_truth_wherever_the_arms_stood(gamma: list[float], theta: list[float], seed: int) -> None:
    cells, shown = np.array([1.0, *theta]), np.random.default_rng(seed).integers(1, 5000, (len(gamma), len(theta) + 1)).astype(float)
    size = 2 * shown.size
    fit = position_fit(Tally(shown, shown * np.outer(gamma, cells), np.eye(size)))
    assert fit.examination == pytest.approx(cells, rel=1e-6)
    assert fit.attraction == pytest.approx(gamma, rel=1e-6)


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="`totals` has 6 entries; 2 rows of 2 cells have 8"):
        tally(Crossed(totals=[0] * 6, products=[]), 2, 2)
