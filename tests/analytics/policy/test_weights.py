"""A bandit's next weights: floors, caps, directions, seasons, arms that are new, and when it does not move."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from analytics.designs import Bandit
from analytics.inference.adaptive import AllocationPeriod, ArmState
from analytics.policy.weights import Belief, beliefs, next_weights, weights_of


def _period(propensities, counts, likes, predictions=None):
    """A stretch in which `likes[arm]` of `counts[arm]` units liked (outcomes 0 and 1)."""
    said = predictions or {}
    arms = {
        arm: ArmState(n=counts[arm], s1=likes[arm], s2=likes[arm], propensity=e, prediction=said.get(arm, 0.0))
        for arm, e in propensities.items()
    }
    return AllocationPeriod(units=sum(counts.values()), arms=arms)


HALF = {"base": 0.5, "vivid": 0.5}
CLEAR = _period(HALF, {"base": 1000, "vivid": 1000}, {"base": 100, "vivid": 160})


def _next(periods, current=HALF, bandit=None, *, up=True, minimum_units=100):
    return next_weights(periods, current, bandit or Bandit(), up=up, minimum_units=minimum_units)


def test_weights_follow_the_probability_to_be_best_above_the_floor():
    """P(best) by hand: scores Y/e of 2,000 units, a variance of theirs, and one unit's worth of pooled variance."""
    se2 = {arm: (likes / 2000 / 0.25 - (likes / 2000 / 0.5) ** 2) / 2000 for arm, likes in {"base": 100, "vivid": 160}.items()}
    pooled = 0.13 * 0.87
    prior = 1e4 * pooled
    z, v = {}, {}
    for arm, value in {"base": 0.1, "vivid": 0.16}.items():
        likely = se2[arm] + pooled / 1000**2
        precision = 1 / prior + 1 / likely
        z[arm], v[arm] = (0.13 / prior + value / likely) / precision, 1 / precision
    best = float(ndtr((z["vivid"] - z["base"]) / math.sqrt(v["base"] + v["vivid"])))
    assert _next([CLEAR]) == pytest.approx({"base": 0.05 + 0.9 * (1 - best), "vivid": 0.05 + 0.9 * best}, abs=1e-9)


def test_lower_is_better_turns_the_weights_round():
    assert _next([CLEAR], up=False) == pytest.approx({"base": _next([CLEAR])["vivid"], "vivid": _next([CLEAR])["base"]})


def test_two_arms_of_top_two_share_alike():
    assert _next([CLEAR], {"base": 0.7, "vivid": 0.3}, Bandit(policy="top_two")) == pytest.approx(HALF)


def test_too_few_units_or_a_move_too_small_changes_nothing():
    assert _next([CLEAR], minimum_units=1001) is None
    assert _next([]) is None
    moved = _next([CLEAR])
    assert _next([CLEAR], {arm: round(w, 3) for arm, w in moved.items()}) is None


def test_a_season_is_not_taken_for_merit():
    """Both arms do alike in each stretch; the second is better for all, and vivid had most of its units there."""
    stretches = [
        _period(HALF, {"base": 5000, "vivid": 5000}, {"base": 500, "vivid": 500}),
        _period(
            {"base": 0.1, "vivid": 0.9},
            {"base": 1000, "vivid": 9000},
            {"base": 300, "vivid": 2700},
            predictions={"base": 0.1, "vivid": 0.1},
        ),
    ]
    known = beliefs(stretches, ["base", "vivid"], up=True, minimum_units=100)
    assert known["base"].value == pytest.approx(0.2, abs=1e-6) == known["vivid"].value
    assert known["vivid"].best == pytest.approx(0.5, abs=1e-6)


def test_only_stretches_in_which_every_active_arm_could_be_got_count():
    """A new arm starts the count again; an arm of weight 0 stays there, whatever it did."""
    three = {"base": 0.45, "vivid": 0.45, "new": 0.1}
    young = _period(three, {"base": 90, "vivid": 90, "new": 20}, {"base": 9, "vivid": 9, "new": 2})
    assert _next([CLEAR, young], three) is None
    old = _period(three, {"base": 900, "vivid": 900, "new": 200}, {"base": 90, "vivid": 90, "new": 190})
    assert _next([CLEAR, old], three)["new"] == pytest.approx(0.05 + 0.85, abs=1e-6)
    retired = _next([CLEAR, old], {"base": 0.5, "vivid": 0.5, "new": 0.0})
    assert retired["new"] == 0.0 and math.fsum(retired.values()) == 1.0


def test_all_feedback_on_one_arm_is_evidence_and_no_certainty():
    bandit = Bandit(floor=0.05)
    seen = _period(HALF, {"base": 200, "vivid": 200}, {"base": 0, "vivid": 3})
    known = beliefs([seen], ["base", "vivid"], up=True, minimum_units=100)
    assert 0.9 < known["vivid"].best < 1 and known["base"].error > 0
    assert _next([seen], bandit=bandit)["base"] > 0.05
    assert _next([_period(HALF, {"base": 200, "vivid": 200}, {"base": 0, "vivid": 0})]) is None
    assert _next([_period(HALF, {"base": 200, "vivid": 200}, {"base": 0, "vivid": 200})])["vivid"] == pytest.approx(0.95)


def _known(chances):
    return {arm: Belief(value=0.0, error=1.0, best=chance, second=chance) for arm, chance in chances.items()}


def test_a_cap_gives_its_surplus_to_the_others_in_proportion():
    weights = weights_of(_known({"a": 0.8, "b": 0.15, "c": 0.05}), Bandit(floor=0.01, caps={"a": 0.5}))
    b, c = 0.01 + 0.97 * 0.15, 0.01 + 0.97 * 0.05
    assert weights == pytest.approx({"a": 0.5, "b": 0.5 * b / (b + c), "c": 0.5 * c / (b + c)})


def test_caps_that_leave_no_room_bend_alike():
    assert weights_of(_known({"a": 0.9, "b": 0.1}), Bandit(caps={"a": 0.3, "b": 0.2})) == pytest.approx({"a": 0.6, "b": 0.4})


def test_floors_that_take_all_make_it_uniform():
    assert weights_of(_known({"a": 0.9, "b": 0.1, "c": 0.0}), Bandit(floor=0.4)) == pytest.approx(dict.fromkeys("abc", 1 / 3))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-9, 1), min_size=2, max_size=8),
    st.floats(0.001, 0.5),
    st.lists(st.floats(0.05, 0.99), max_size=3),
)
def test_weights_sum_to_one_keep_the_floor_and_the_caps(chances, floor, caps):
    total = sum(chances)
    known = _known({f"arm{i}": chance / total for i, chance in enumerate(chances)})
    bandit = Bandit(floor=floor, caps={f"arm{i}": max(cap, floor) for i, cap in enumerate(caps[: len(chances)])})
    weights = weights_of(known, bandit)
    assert abs(math.fsum(weights.values()) - 1) <= 2**-52
    assert min(weights.values()) >= min(floor, 1 / len(chances)) - 1e-12
    if math.fsum(bandit.caps.get(arm, 1.0) for arm in known) >= 1:
        assert all(weights[arm] <= cap + 1e-12 for arm, cap in bandit.caps.items())
