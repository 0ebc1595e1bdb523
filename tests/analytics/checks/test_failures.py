"""Failed requests per arm: against scipy's Fisher, and against units that fail in clusters."""

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, NOW, experiment, facts, moments, proportion
from scipy import stats

from analytics.checks import failures
from analytics.report.build import build_report, rebuild
from analytics.report.text import to_text


def with_failures(counts, units=1000, requests=2, per_unit=None):
    """`counts[arm]` of `units` x `requests` generations failed."""
    base = facts({"like_rate": {arm: proportion(units // 5, units) for arm in counts}}, dict.fromkeys(counts, units))
    arms = [msgspec.structs.replace(arm, failures=counts[arm.arm], generations=units * requests) for arm in base.arms]
    metrics = {**base.metrics, **({"failure_rate": per_unit} if per_unit else {})}
    return msgspec.structs.replace(base, arms=arms, metrics=metrics)


def test_the_p_value_is_fishers_over_all_arms():
    check = failures(with_failures({"base": 4, "vivid": 21, "warm": 6}), ["base", "vivid", "warm"], "base")
    expected = stats.fisher_exact([[4, 1996], [21, 1979]]).pvalue
    assert check.p_values["vivid"] == pytest.approx(2 * expected) and check.shares == {"base": 0.002, "vivid": 0.0105, "warm": 0.003}
    assert check.ok and check.p_values["warm"] > 0.9


def test_an_arm_that_fails_more_is_a_risk_and_a_line_of_the_report():
    report = build_report("x", experiment(), METRICS, with_failures({"base": 2, "vivid": 60}), NOW)
    told = "'vivid' fails more often than 'base': 60 of 2,000 requests against 2 of 2,000 requests"
    assert not report.checks.failures.ok and any(told in risk for risk in report.decision.risks)
    assert told in " ".join(to_text(report).split()) and rebuild(report) == report
    fewer = build_report("x", experiment(), METRICS, with_failures({"base": 60, "vivid": 2}), NOW)
    assert any("'base' fails more often than 'vivid'" in risk for risk in fewer.decision.risks)
    fine = build_report("x", experiment(), METRICS, with_failures({"base": 0, "vivid": 0}), NOW)
    assert fine.checks.failures.ok and "base 0.0%, vivid 0.0% of requests" in " ".join(to_text(fine).split())


def test_one_unlucky_person_is_not_an_arm_that_fails():
    """40 failures of one unit among 1000: Fisher alone would say p < 1e-10."""
    d = np.full(1000, 2.0)
    unlucky, failed = d.copy(), np.zeros(1000)
    unlucky[0], failed[0] = 40, 40
    per_unit = {"base": moments(np.zeros(1000), d), "vivid": moments(failed, unlucky)}
    found = with_failures({"base": 0, "vivid": 40}, per_unit=per_unit)
    assert stats.fisher_exact([[0, 2000], [40, 1960]]).pvalue < 1e-10
    assert failures(found, ["base", "vivid"], "base").ok
    spread = np.zeros(1000)
    spread[:40] = 1
    per_unit["vivid"] = moments(spread, d)
    assert not failures(with_failures({"base": 0, "vivid": 40}, per_unit=per_unit), ["base", "vivid"], "base").ok


def test_few_failures_alarm_hardly_ever():
    """3000 healthy experiments, 1 % failures, some people with ten requests: under 0.001 in at most a few."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(3000):
        arms = {}
        for arm in ("base", "vivid"):
            d = rng.choice([1.0, 10.0], 80, p=[0.8, 0.2])
            arms[arm] = (moments(y := rng.binomial(d.astype(int), 0.01).astype(float), d), int(y.sum()), int(d.sum()))
        found = facts({"failure_rate": {arm: made[0] for arm, made in arms.items()}}, {"base": 80, "vivid": 80})
        counted = [msgspec.structs.replace(arm, failures=arms[arm.arm][1], generations=arms[arm.arm][2]) for arm in found.arms]
        alarms += not failures(msgspec.structs.replace(found, arms=counted), ["base", "vivid"], "base").ok
    assert alarms <= 8


def test_nothing_is_told_where_nothing_was_asked_for():
    none = with_failures({"base": 0, "vivid": 0}, requests=0)
    assert failures(none, ["base", "vivid"], "base").shares == {}
