"""Logged propensities against the draw: balance, its standard error against simulation, effective units, false alarms."""

import msgspec
import numpy as np
import pytest
from report_cases import START, facts

from analytics.checks import exposure, propensities
from analytics.facts import WeightPeriod


def arm(name: str, inverse: np.ndarray, like):
    mean = float(inverse.mean())
    return msgspec.structs.replace(
        like,
        arm=name,
        units=len(inverse),
        mean_inverse_propensity=mean,
        inverse_propensity_m2=float(((inverse - mean) ** 2).sum()),
    )


def drawn(seed: int, n: int = 4000):
    """A bandit: every unit has its own propensity of arm b, between 5% and 60%."""
    rng = np.random.default_rng(seed)
    e = rng.uniform(0.05, 0.6, n)
    b = rng.random(n) < e
    given = facts({}, {"a": int((~b).sum()), "b": int(b.sum())})
    arms = [arm("a", 1 / (1 - e[~b]), given.arms[0]), arm("b", 1 / e[b], given.arms[1])]
    period = WeightPeriod(started_at=START, weights={"a": 0.7, "b": 0.3}, units={"a": int((~b).sum()), "b": int(b.sum())})
    return msgspec.structs.replace(given, arms=arms, periods=[period])


def test_balance_and_its_standard_error_under_changing_propensities():
    """400 true logs: the balance has mean 1 and the stated standard error; 3 of those are left in at most a few."""
    found = [propensities(drawn(seed)) for seed in range(400)]
    values, errors = np.array([f.balance["b"] for f in found]), np.array([f.se["b"] for f in found])
    assert values.mean() == pytest.approx(1, abs=4 * values.std() / 20)
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert sum(not f.ok for f in found) <= 6


def test_effective_units_are_kishs():
    given = facts({}, {"a": 3, "b": 2})
    arms = [arm("a", np.array([1.0, 2.0, 3.0]), given.arms[0]), given.arms[1]]
    found = propensities(msgspec.structs.replace(given, arms=arms))
    assert found.effective_units["a"] == pytest.approx(36 / 14)
    assert found.effective_units["b"] == pytest.approx(2)


def test_a_log_of_one_over_k_is_found():
    """weave-os/router PR #566: 1/n is logged where the draw was 30 to 70."""
    rng = np.random.default_rng(1)
    b = int(rng.binomial(4000, 0.3))
    given = facts({}, {"a": 4000 - b, "b": b}, weights={"a": 0.5, "b": 0.5})
    found = propensities(given)
    assert not found.ok and len(found.problems) == 2 and "arm 'b' do not fit its units" in found.problems[1]
    assert exposure(given).problems == found.problems


def test_units_that_saw_several_arms_are_no_lie_of_the_log():
    """1% of the units moved: they are missing from every arm's sum, which is then 0.99 with a standard error of 0.0022."""
    given = facts({}, {"a": 99_000, "b": 99_000}, multiple_exposure=2_000)
    period = WeightPeriod(started_at=START, weights={"a": 0.5, "b": 0.5}, units={"a": 100_000, "b": 100_000})
    assert propensities(msgspec.structs.replace(given, periods=[period])).ok


def test_nothing_logged_and_nobody_there():
    given = facts({}, {"a": 10, "b": 0})
    silent = [msgspec.structs.replace(a, mean_inverse_propensity=None) for a in given.arms]
    assert propensities(msgspec.structs.replace(given, arms=silent)) == propensities(facts({}, {"a": 0, "b": 0}))
    certain = facts({}, {"a": 10, "b": 0}, weights={"a": 1.0, "b": 0.0})
    assert propensities(certain).ok and propensities(certain).balance == {"a": 1.0}
