"""Switchbacks: against the delta method of blocks, statsmodels' HAC, brute force over assignments, and known truths."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.facts import Moments
from analytics.inference import randomisation
from analytics.inference.newey_west import newey_west_se
from analytics.inference.randomisation import randomisation_test
from analytics.inference.ratio import ratio_contrast
from analytics.inference.switchback import Blocks, carry_over, effect, expected_rates


def blocks(treated, y, d, *, numbers=None, propensity=0.5, expected=None) -> Blocks:
    n = len(y)
    return Blocks(
        numbers=np.arange(n) if numbers is None else np.array(numbers),
        treated=np.array(treated, dtype=bool),
        propensities=np.full(n, propensity) if np.isscalar(propensity) else np.array(propensity, dtype=float),
        numerators=np.array(y, dtype=float),
        denominators=np.array(d, dtype=float),
        expected=np.zeros(n) if expected is None else np.array(expected, dtype=float),
    )


def drawn(seed: int, n: int, effect_size: float = 0.0) -> Blocks:
    rng = np.random.default_rng(seed)
    treated = rng.random(n) < 0.5
    treated[:4] = [True, False, True, False]
    d = rng.poisson(60, n) + 1
    return blocks(treated, rng.binomial(d, 0.2 + effect_size * treated), d)


def moments(y: np.ndarray, d: np.ndarray) -> Moments:
    return Moments(
        n=len(y),
        mean=y.mean(),
        m2=((y - y.mean()) ** 2).sum(),
        denominator_mean=d.mean(),
        denominator_m2=((d - d.mean()) ** 2).sum(),
        comoment=((y - y.mean()) * (d - d.mean())).sum(),
    )


def test_with_one_propensity_it_is_the_delta_method_of_blocks() -> None:
    given_blocks = drawn(1, 40, 0.05)
    found, t = effect(given_blocks), given_blocks.treated
    y, d = given_blocks.numerators, given_blocks.denominators
    other = ratio_contrast(moments(y[~t], d[~t]), moments(y[t], d[t]))
    assert found is not None and other is not None
    for name in ("control", "difference", "control_variance", "difference_variance", "df", "covariance", "relative_se"):
        assert getattr(found.contrast, name) == pytest.approx(getattr(other, name), rel=1e-9), name
    assert found.contrast.units == 40 and found.variance_reduction == pytest.approx(0)


def test_unequal_propensities_by_hand() -> None:
    # Treated 1/4 and 3/4 with weights 4 and 4/3: (4*2 + 4/3*9)/(4*10 + 4/3*10) = 20/(160/3) = 0.375
    given_blocks = blocks([1, 1, 0, 0], [2, 9, 1, 3], [10, 10, 10, 10], propensity=[0.25, 0.75, 0.25, 0.75])
    found = effect(given_blocks)
    assert found is not None
    # control: (4*1 + 4/3*3)/(160/3) = 8/(160/3) = 0.15; scores 4(1 - 1.5)/(160/3) = -0.0375 and 0.0375
    assert found.contrast.control == pytest.approx(0.15) and found.contrast.difference == pytest.approx(0.225)
    assert found.contrast.control_variance == pytest.approx(2 * 2 * 0.0375**2)
    assert found.scores.tolist() == pytest.approx([-0.13125, 0.13125, 0.0375, -0.0375])


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_newey_west_is_that_of_statsmodels(lag: int) -> None:
    given_blocks = drawn(2, 60, 0.03)
    t, d = given_blocks.treated.astype(float), given_blocks.denominators
    fit = sm.WLS(given_blocks.numerators / d, sm.add_constant(t), weights=d).fit(
        cov_type="HAC", cov_kwds={"maxlags": lag, "use_correction": False}
    )
    found = effect(given_blocks)
    assert found is not None and found.contrast.difference == pytest.approx(fit.params[1], rel=1e-9)
    assert newey_west_se(found.scores, given_blocks.numbers, lag) == pytest.approx(fit.bse[1], rel=1e-9)


def test_times_without_a_block_add_nothing_to_newey_west() -> None:
    scores, numbers = np.array([1.0, 2.0, -1.0, -2.0]), np.array([0, 1, 4, 9])
    # Lag 3: (0, 1) one apart, (1, 4) three apart: 10 + 2 (3/4) 2 + 2 (1/4) (-2)
    assert newey_west_se(scores, numbers, 3) == pytest.approx((10 + 3 - 1) ** 0.5)
    assert newey_west_se(np.array([1.0, -1.0]), np.array([0, 1]), 1) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="lag = -1"):
        newey_west_se(scores, numbers, -1)


def brute(given_blocks: Blocks, share: float) -> float:
    y, d, n = given_blocks.adjusted, given_blocks.denominators, len(given_blocks.numbers)

    def statistic(drawn: tuple[int, ...]) -> float | None:
        sums = [[0.0, 0.0], [0.0, 0.0]]
        for one, top, below in zip(drawn, y, d, strict=True):
            sums[one][0], sums[one][1] = sums[one][0] + top, sums[one][1] + below
        return abs(sums[1][0] / sums[1][1] - sums[0][0] / sums[0][1]) if sums[0][1] and sums[1][1] else None

    seen = statistic(tuple(int(t) for t in given_blocks.treated))
    assert seen is not None
    as_large = total = 0.0
    for assignment in itertools.product((0, 1), repeat=n):
        found, chance = statistic(assignment), share ** sum(assignment) * (1 - share) ** (n - sum(assignment))
        if found is not None:
            total += chance
            as_large += chance * (found >= seen - 1e-12)
    return as_large / total


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_every_assignment_is_looked_at(share: float) -> None:
    one = drawn(5, 9, 0.12)
    weighed = blocks(
        one.treated,
        one.numerators,
        one.denominators,
        propensity=np.where(one.treated, share, 1 - share),
        expected=np.linspace(-0.02, 0.02, 9),
    )
    found = randomisation_test(weighed, np.full(9, share))
    assert found is not None and found.exact and found.assignments == 2**9 - 2
    assert found.p_value == pytest.approx(brute(weighed, share), rel=1e-9)


def test_draws_come_near_the_exact_p_and_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomisation, "ENUMERATED_BLOCKS", 10)
    one = drawn(6, 11, 0.06)
    found, again = (randomisation_test(one, np.full(11, 0.5)) for _ in range(2))
    assert found == again and found is not None and not found.exact and found.assignments <= 10_001
    exact = brute(one, 0.5)
    assert found.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_a_season_is_foretold_and_no_later_block_is_looked_at() -> None:
    hours = np.arange(240)
    d = np.full(240, 100.0)
    y = 10 + 5 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(3).normal(0, 1, 240)
    slots = (hours % 24).tolist()
    found = expected_rates(hours.tolist(), slots, y.tolist(), d.tolist())
    assert np.corrcoef(found[72:], (y / d)[72:])[0, 1] > 0.9
    # What is foretold of a block departs from the mean of all; its own outcome and later ones, the mean kept, change nothing.
    changed = y.copy()
    changed[100:] = changed[100:][::-1]
    again = expected_rates(hours.tolist(), slots, changed.tolist(), d.tolist())
    assert found[:101] == pytest.approx(again[:101], abs=1e-12) and found[101:] != pytest.approx(again[101:])


def test_foretelling_moves_no_difference_in_the_mean_and_takes_out_variance() -> None:
    rng = np.random.default_rng(8)
    hours, d = np.arange(192), np.full(192, 200.0)
    y = 200 * (0.1 + 0.05 * np.sin(2 * np.pi * hours / 24)) + rng.normal(0, 2, 192)
    expected = expected_rates(hours.tolist(), (hours % 24).tolist(), y.tolist(), d.tolist())
    differences, reductions, covered = [], [], 0
    for _ in range(200):
        found = effect(blocks(rng.random(192) < 0.5, y, d, expected=expected))
        assert found is not None
        differences.append(found.contrast.difference)
        reductions.append(found.variance_reduction)
        covered += abs(found.contrast.statistic()) < 1.97
    assert abs(np.mean(differences)) < 4 * np.std(differences) / 200**0.5
    assert np.mean(reductions) > 0.5 and covered >= 178


def test_an_arm_that_acts_on_is_seen_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(4)
    treated = rng.random(300) < 0.5
    d, before = np.full(300, 500.0), np.concatenate([[False], treated[:-1]])
    lasting = carry_over(blocks(treated, 500 * (0.1 + 0.02 * treated + 0.02 * before) + rng.normal(0, 3, 300), d))
    assert lasting is not None and lasting.p_value < 1e-6
    assert lasting.after_same == pytest.approx(0.04, abs=0.005) and lasting.after_other == pytest.approx(0, abs=0.005)
    alone = carry_over(blocks(treated, 500 * (0.1 + 0.02 * treated) + rng.normal(0, 3, 300), d))
    assert alone is not None and alone.p_value > 0.01


def test_what_cannot_be_told_is_none() -> None:
    assert effect(blocks([1, 0, 0], [1, 2, 3], [9, 9, 9])) is None
    assert effect(blocks([1, 1, 0, 0], [2, 2, 2, 2], [4, 4, 4, 4])) is None
    assert effect(blocks([1, 1, 0, 0], [0, 1, 0, 0], [4, 4, 4, 0])) is None
    assert carry_over(blocks([1, 0, 1, 0], [1, 2, 3, 4], [9, 9, 9, 9])) is None
    assert randomisation_test(blocks([1, 0, 0], [1, 2, 3], [9, 9, 9]), np.full(3, 0.5)) is None
    assert expected_rates([0, 1], [0, 1], [0.0, 0.0], [0.0, 0.0]).tolist() == [0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(1, 100)), min_size=4, max_size=30),
    st.floats(0.1, 1000),
)
def test_scores_add_up_to_nothing_and_units_of_measure_do_not_matter(rows: list[tuple[bool, int, int]], scale: float) -> None:
    treated, y, d = zip(*rows, strict=True)
    found, scaled = effect(blocks(treated, y, d)), effect(blocks(treated, [scale * v for v in y], d))
    if found is None or scaled is None:
        assert found is None and scaled is None
        return
    assert found.scores[np.array(treated)].sum() == pytest.approx(0, abs=1e-9)
    assert scaled.contrast.statistic() == pytest.approx(found.contrast.statistic(), rel=1e-6, abs=1e-9)
