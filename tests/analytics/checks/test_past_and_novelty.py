"""What units did before exposure, and whether an effect lasts: against scipy, by simulation, and where nothing can be told."""

import numpy as np
import pytest
from report_cases import facts, moments, proportion
from scipy import stats

from analytics.checks import novelty_check, pre_period
from analytics.facts import Age

ARMS = ["base", "vivid"]
UNITS = {"base": 2000, "vivid": 2000}


def test_pre_period_is_welchs_t_of_scipy():
    rng = np.random.default_rng(3)
    base, vivid = rng.gamma(1, 3, 900), rng.gamma(1, 3.3, 1100)
    past = pre_period(facts({}, UNITS, pre_period={"base": moments(base), "vivid": moments(vivid)}), ARMS, "base")
    assert past.p_values["vivid"] == pytest.approx(stats.ttest_ind(vivid, base, equal_var=False).pvalue, rel=1e-9)
    assert past.means == {"base": pytest.approx(base.mean()), "vivid": pytest.approx(vivid.mean())} and past.ok and past.days == 14


def test_pre_period_fails_under_one_in_a_thousand_over_all_arms():
    given = {"base": proportion(200, 2000), "vivid": proportion(280, 2000), "warm": proportion(205, 2000)}
    past = pre_period(facts({}, {**UNITS, "warm": 2000}, pre_period=given), [*ARMS, "warm"], "base")
    alone = pre_period(facts({}, UNITS, pre_period=given), ARMS, "base")
    assert past.p_values["vivid"] == pytest.approx(2 * alone.p_values["vivid"]) and past.p_values["warm"] == pytest.approx(1.0, abs=0.7)
    assert not past.ok and len(past.problems) == 1 and "'vivid' and 'base' differed already in the 14 days" in past.problems[0]


@pytest.mark.parametrize("given", [{}, {"base": proportion(0, 50), "vivid": proportion(0, 50)}, {"vivid": proportion(3, 9)}])
def test_no_past_is_no_difference(given):
    past = pre_period(facts({}, UNITS, pre_period=given), ARMS, "base")
    assert past.ok and past.p_values == {} == past.differences


def test_the_past_of_a_ratio_is_compared_by_the_delta_method():
    rng = np.random.default_rng(8)
    views = rng.poisson(5, 800) + 1.0
    past = pre_period(
        facts({}, UNITS, pre_period={"base": moments(views * 2, views), "vivid": moments(views * 2 + 1, views)}), ARMS, "base"
    )
    assert past.means["base"] == pytest.approx(2.0) and past.p_values["vivid"] < 1e-20 and not past.ok


def lives(rng: np.random.Generator, n: int, rates: list[float]) -> list[np.ndarray]:
    """Likes per day of the same people, who differ: days of one person go together."""
    person = rng.gamma(2, 0.5, n)
    return [rng.poisson(person * rate).astype(float) for rate in rates]


def ages(rng: np.random.Generator, base: list[float], vivid: list[float], n: int = 2000) -> list[Age]:
    pairs = zip(lives(rng, n, base), lives(rng, n, vivid), strict=True)
    return [Age(day=day, primary={"base": moments(b), "vivid": moments(v)}) for day, (b, v) in enumerate(pairs)]


def test_novelty_that_fades_is_found_and_one_that_lasts_is_not():
    """People do less each day in both arms; a lift of 30% throughout is no novelty, one that is gone on the second day is."""
    fall = [2.0, 1.5, 1.2, 1.0]
    rng = np.random.default_rng(2)
    lasting = novelty_check(facts({}, UNITS, ages=ages(rng, fall, [1.3 * r for r in fall])), ARMS, "base")
    assert lasting.ok and lasting.arms["vivid"].first_day_lift == pytest.approx(0.3, abs=0.1)
    fading = novelty_check(facts({}, UNITS, ages=ages(rng, fall, [1.5 * fall[0], *fall[1:]])), ARMS, "base")
    assert not fading.ok and fading.arms["vivid"].later_days == 3 and "'vivid' changes with time" in fading.problems[0]


def test_novelty_is_rarely_told_where_there_is_none():
    """300 constant lifts at a nominal 1%: conservative, whatever the days have in common."""
    rng = np.random.default_rng(7)
    fall = [1.0, 0.8, 0.7]
    found = [novelty_check(facts({}, UNITS, ages=ages(rng, fall, [1.1 * r for r in fall], 300)), ARMS, "base") for _ in range(300)]
    assert sum(not f.ok for f in found) <= 3


def test_days_that_say_nothing_are_left_out():
    few = Age(day=0, primary={"base": proportion(5, 20), "vivid": proportion(6, 20)})
    silent = Age(day=0, primary={"base": proportion(0, 500), "vivid": proportion(9, 500)})
    rare = Age(day=0, primary={"base": proportion(2, 500), "vivid": proportion(9, 500)})
    sound = Age(day=1, primary={"base": proportion(100, 500), "vivid": proportion(90, 500)})
    for first in (few, silent, rare):
        assert novelty_check(facts({}, UNITS, ages=[first, sound]), ARMS, "base").arms == {}
    assert novelty_check(facts({}, UNITS), ARMS, "base").ok
