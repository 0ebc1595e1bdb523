"""Units left out or lost, arm by arm: against a likelihood by grid, by simulation over many looks, under ramps."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import START, facts
from scipy.special import gammaln

from analytics.checks import even_loss, holes, left_out
from analytics.facts import WeightPeriod

ARMS = ["a", "b"]


def periods(*rows: tuple[dict[str, float], int]) -> list[WeightPeriod]:
    return [WeightPeriod(started_at=START, weights=w, units={arm: round(n * w[arm]) for arm in w}) for w, n in rows]


HALVES = periods(({"a": 0.5, "b": 0.5}, 10_000))


def test_constant_weights_are_the_average_of_two_dirichlet_multinomials():
    def beta(x: float, y: float) -> float:
        return float(gammaln(x) + gammaln(y) - gammaln(x + y))

    loss = even_loss({"a": 70, "b": 30}, HALVES, ARMS)
    parts = [math.exp(beta(k / 2 + 70, k / 2 + 30) - beta(k / 2, k / 2) + 100 * math.log(2)) for k in (10, 1000)]
    assert loss.e_value == pytest.approx(sum(parts) / 2, rel=1e-9)
    assert loss.expected == {"a": pytest.approx(50), "b": pytest.approx(50)} and loss.total == 100


def test_a_rule_that_hits_one_arm_is_found_and_a_fair_one_is_not():
    assert even_loss({"a": 510, "b": 490}, HALVES, ARMS).ok
    assert not even_loss({"a": 30, "b": 0}, HALVES, ARMS).ok
    assert not even_loss({"a": 2300, "b": 1900}, HALVES, ARMS).ok
    thirds = periods(({"a": 0.8, "b": 0.1, "c": 0.1}, 5000))
    assert even_loss({"a": 800, "b": 105, "c": 95}, thirds, ["a", "b", "c"]).ok
    assert not even_loss({"a": 800, "b": 150, "c": 50}, thirds, ["a", "b", "c"]).ok


def test_after_a_ramp_any_mixture_of_the_weights_is_fair():
    """The rule may strike in one stretch alone: 90/10 and 50/50 are both fair, and so is what lies between; 30/70 is not."""
    ramp = periods(({"a": 0.9, "b": 0.1}, 4000), ({"a": 0.5, "b": 0.5}, 4000))
    for lost in ((900, 100), (500, 500), (700, 300)):
        assert even_loss(dict(zip(ARMS, lost, strict=True)), ramp, ARMS).ok
    broken = even_loss({"a": 300, "b": 700}, ramp, ARMS)
    assert not broken.ok and broken.expected["a"] == pytest.approx(500, abs=1)
    mixed = even_loss({"a": 700, "b": 300}, ramp, ARMS)
    assert mixed.expected["a"] == pytest.approx(700, abs=1)


def test_a_stretch_in_which_everybody_was_lost_is_fair_too():
    first = periods(({"a": 0.9, "b": 0.1}, 0), ({"a": 0.5, "b": 0.5}, 4000))
    assert even_loss({"a": 900, "b": 100}, first, ARMS).ok
    everybody = even_loss({"a": 300, "b": 100}, periods(({"a": 0.5, "b": 0.5}, 0)), ARMS)
    assert not everybody.ok and everybody.expected["a"] == pytest.approx(200)


def test_at_most_one_of_a_thousand_fair_rules_ever_alarms():
    rng = np.random.default_rng(5)
    counts = np.cumsum(rng.binomial(40, 0.5, (1000, 25)), axis=1)
    total = 40 * np.arange(1, 26)
    worst = np.argmax(np.abs(counts - total / 2) / np.sqrt(total), axis=1)
    alarms = sum(not even_loss({"a": int(counts[i, w]), "b": int(total[w] - counts[i, w])}, HALVES, ARMS).ok for i, w in enumerate(worst))
    assert alarms <= 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**6)), max_size=4),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
)
def test_never_crashes_never_nan(rows, a, b):
    loss = even_loss({"a": a, "b": b}, periods(*(({"a": w, "b": 1 - w}, n) for w, n in rows)), ARMS)
    assert math.isfinite(loss.e_value) and loss.e_value >= 0
    assert all(math.isfinite(value) and value >= 0 for value in loss.expected.values())


def with_holes(base: int, vivid: int):
    given = facts({}, {"base": 5000, "vivid": 5000})
    lost = {"base": base, "vivid": vivid}
    arms = [msgspec.structs.replace(arm, exposed_without_generation=lost[arm.arm]) for arm in given.arms]
    return msgspec.structs.replace(given, arms=arms)


def test_holes_of_one_arm_and_many_holes():
    names = ["base", "vivid"]
    assert holes(with_holes(0, 0), names).ok and holes(with_holes(12, 15), names).ok
    leaking = holes(with_holes(2, 60), names)
    assert not leaking.ok and "'vivid' 60 of 31 expected" in leaking.problems[0]
    many = holes(with_holes(200, 210), names)
    assert not many.ok and many.share == pytest.approx(0.041) and "410 of 10000 exposed units (4.1%)" in many.problems[0]


def test_who_is_left_out_is_counted_by_rule_and_by_training():
    names = ["base", "vivid"]
    rules = {"units": {"base": 40, "vivid": 44}, "events_per_hour_above": {"base": 5, "vivid": 90}}
    found = left_out(facts({}, {"base": 5000, "vivid": 5000}, excluded=rules, training_units={"base": 300, "vivid": 280}), names)
    assert found.excluded["units"].ok and not found.excluded["events_per_hour_above"].ok
    assert found.training is not None and found.training.ok and found.total == 84 + 95 + 580
    (problem,) = found.problems
    assert "'events_per_hour_above' leaves out more of one arm" in problem and "'vivid' 90" in problem
    nobody = left_out(facts({}, {"base": 5, "vivid": 5}), names)
    assert nobody.ok and nobody.total == 0 and nobody.training is None
