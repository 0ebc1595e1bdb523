"""A report of an experiment whose weights ramped while its metric rose: no effect, and none is told."""

from datetime import timedelta

import numpy as np
import pytest
from report_cases import METRICS, NOW, START, experiment, facts

from analytics.facts import ExperimentFacts, Joint, Moments, WeightPeriod, WithFlagged
from analytics.report.build import build_report

LEVELS = ((0.10, 0.95), (0.20, 0.80), (0.40, 0.50))


def likes(x: int, n: int) -> Joint:
    return Joint(n=n, means=(x / n,), products=((x * (1 - x / n),),))


def ramped(lift: float = 0.0) -> ExperimentFacts:
    """2000 units a period; the control's weight falls from 95% to 50% while the rate rises from 10% to 40%."""
    parts, periods = [], []
    for k, (rate, share) in enumerate(LEVELS):
        units = {"base": round(2000 * share), "vivid": 2000 - round(2000 * share)}
        rates = {"base": rate, "vivid": rate * (1 + lift)}
        parts.append({arm: likes(round(n * rates[arm]), n) for arm, n in units.items()})
        periods.append(WeightPeriod(started_at=START + timedelta(hours=k), weights={"base": share, "vivid": 1 - share}, units=units))
    totals = {arm: (sum(part[arm].n * part[arm].means[0] for part in parts), sum(part[arm].n for part in parts)) for arm in parts[0]}
    together = {arm: Moments(n=n, mean=x / n, m2=x * (1 - x / n)) for arm, (x, n) in totals.items()}
    units = {arm: n for arm, (_, n) in totals.items()}
    with_flagged = WithFlagged(periods=periods, clean_periods=periods, primary=dict(together))
    return facts(
        {"like_rate": together}, units, periods=periods, by_period={"like_rate": parts}, with_flagged=with_flagged, flagged_events=3
    )


def test_no_effect_is_told_as_none():
    report = build_report("ramp", experiment(planned_units=20_000), METRICS, ramped(), NOW)
    (comparison,) = report.metrics[0].comparisons
    assert comparison.difference.value == pytest.approx(0, abs=1e-12) and comparison.p_value == pytest.approx(1)
    means = {arm.arm: arm.mean for arm in report.metrics[0].arms}
    assert means["vivid"] > 1.3 * means["base"]
    assert "within 3 periods of constant weights" in comparison.method
    assert report.decision.action == "keep_running" and report.checks.flagged.warnings == []


def test_an_effect_within_the_periods_is_found():
    report = build_report("ramp", experiment(), METRICS, ramped(0.3), NOW)
    (comparison,) = report.metrics[0].comparisons
    # The share of all units in each period weighs its rate: (.1 + .2 + .4)/3, 30% up.
    assert comparison.relative.value == pytest.approx(0.3, abs=0.005)
    assert comparison.difference.value == pytest.approx(0.3 * 0.7 / 3, abs=0.001)
    assert report.decision.action == "ship"
    reason = report.decision.reason
    assert "+30.0% (within 3 periods of constant weights; " in reason and " over all), at any look" in reason
    se2 = sum(
        (1 / 3) ** 2 * part["base"].means[0] * (1 - part["base"].means[0]) / (part["base"].n - 1)
        + (1 / 3) ** 2 * part["vivid"].means[0] * (1 - part["vivid"].means[0]) / (part["vivid"].n - 1)
        for part in ramped(0.3).by_period["like_rate"]
    )
    assert comparison.difference.se == pytest.approx(np.sqrt(se2), rel=1e-9)
