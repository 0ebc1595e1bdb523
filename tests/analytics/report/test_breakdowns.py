"""Breakdowns: slices compared, corrected, their sample ratios, and whether the effect differs between them."""

import math

import msgspec
import numpy as np
import pytest
import statsmodels.stats.multitest
from report_cases import METRICS, NOW, START, experiment, facts, proportion, quantile
from scipy import stats

from analytics.facts import Slice, WeightPeriod
from analytics.report.breakdowns import MOST_SLICES, OTHERS, SMALLEST_SLICE
from analytics.report.build import build_report, rebuild


def slices(counts: dict[str, tuple[int, int, int, int]]) -> list[Slice]:
    """value: (likes of base, units of base, likes of vivid, units of vivid)."""
    return [
        Slice(value=value, units=[{"base": n, "vivid": k}], primary={"base": proportion(x, n), "vivid": proportion(y, k)})
        for value, (x, n, y, k) in counts.items()
    ]


def report(**breakdowns: list[Slice]):
    first = next(iter(breakdowns.values()))
    units = {arm: sum(s.units[0][arm] for s in first) for arm in ("base", "vivid")}
    likes = {arm: round(sum(s.primary[arm].n * s.primary[arm].mean for s in first)) for arm in units}
    rows = {"like_rate": {arm: proportion(likes[arm], units[arm]) for arm in units}}
    given = experiment(breakdowns=tuple(breakdowns))
    return build_report("x", given, METRICS, facts(rows, units, breakdowns=breakdowns), NOW)


MIXED = {"phone": (200, 2000, 300, 2000), "desktop": (400, 2000, 390, 2000), "tablet": (90, 900, 100, 900)}


def test_slices_are_compared_as_one_family_and_shown_largest_first():
    (breakdown,) = report(device=slices(MIXED)).breakdowns
    assert breakdown.dimension == "device"
    assert [s.value for s in breakdown.slices] == ["desktop", "phone", "tablet"]
    raw = [s.comparisons[0].p_value for s in breakdown.slices]
    holm = statsmodels.stats.multitest.multipletests(raw, method="holm")[1]
    assert [s.comparisons[0].adjusted_p_value for s in breakdown.slices] == pytest.approx(list(holm))
    for one in breakdown.slices:
        (comparison,) = one.comparisons
        low, high = comparison.difference.ci
        assert (comparison.adjusted_p_value <= 0.05) == (low > 0 or high < 0)
        assert comparison.relative.value == pytest.approx(one.arms[1].mean / one.arms[0].mean - 1)
    assert breakdown.slices[1].units == {"base": 2000, "vivid": 2000}


def test_heterogeneity_is_cochrans_q_adjusted_over_dimensions():
    made = report(device=slices(MIXED), country=slices({"DE": (300, 2400, 345, 2400), "FR": (390, 2500, 445, 2500)}))
    device, country = made.breakdowns
    (found,) = device.heterogeneity
    lifts = np.array([s.comparisons[0].relative.value for s in device.slices])
    weights = np.array([s.comparisons[0].relative.se for s in device.slices]) ** -2.0
    q = float((weights * (lifts - (weights * lifts).sum() / weights.sum()) ** 2).sum())
    assert found.q == pytest.approx(q) and found.df == 2
    assert found.p_value == pytest.approx(stats.chi2.sf(q, 2)) and found.i2 == pytest.approx((q - 2) / q)
    both = [found.p_value, country.heterogeneity[0].p_value]
    adjusted = statsmodels.stats.multitest.multipletests(both, method="holm")[1]
    assert [found.adjusted_p_value, country.heterogeneity[0].adjusted_p_value] == pytest.approx(list(adjusted))
    assert "differs by device" in " ".join(device.warnings) and country.warnings == []
    assert any("differs by device" in risk for risk in made.decision.risks)


def test_a_slice_that_loses_is_named_though_the_whole_wins():
    made = report(device=slices({"phone": (1000, 10000, 1600, 10000), "desktop": (800, 4000, 600, 4000)}))
    assert made.decision.arm == "vivid"
    assert any("'vivid' is established worse where device is 'desktop'" in warning for warning in made.breakdowns[0].warnings)


def test_the_sample_ratio_of_a_slice():
    made = report(device=slices({"phone": (200, 2000, 320, 3200), "desktop": (320, 3200, 200, 2000)}))
    assert made.checks.srm.ok
    assert [s.srm.ok for s in made.breakdowns[0].slices] == [False, False]
    assert any("sample ratio is broken where device is 'phone'" in w for w in made.breakdowns[0].warnings)


def test_the_alarm_of_a_slice_counts_the_slices():
    """2000 / 2290 has an e-value between 1000 and 20,000: an alarm alone, none among twenty slices."""
    lone = {"0": (200, 2000, 229, 2290)}
    many = lone | {str(i): (100, 1000, 100, 1000) for i in range(1, 20)}
    alone, among = (report(cohort=slices(c)).breakdowns[0] for c in (lone, many))
    e = alone.slices[0].srm.e_value
    assert 1000 < e < 20_000 and not alone.slices[0].srm.ok and alone.warnings
    assert among.slices[0].srm.e_value == pytest.approx(e) and among.slices[0].srm.ok and not among.warnings


def test_ramps_are_no_mismatch_of_a_slice():
    one = Slice(
        value="phone",
        units=[{"base": 9000, "vivid": 1000}, {"base": 1000, "vivid": 1000}],
        primary={"base": proportion(900, 10000), "vivid": proportion(200, 2000)},
    )
    periods = [
        WeightPeriod(started_at=START, weights={"base": 0.9, "vivid": 0.1}, units={"base": 9000, "vivid": 1000}),
        WeightPeriod(started_at=START, weights={"base": 0.5, "vivid": 0.5}, units={"base": 1000, "vivid": 1000}),
    ]
    rows = {"like_rate": dict(one.primary)}
    made = build_report(
        "x", experiment(), METRICS, facts(rows, {"base": 10000, "vivid": 2000}, periods=periods, breakdowns={"d": [one]}), NOW
    )
    assert made.breakdowns[0].slices[0].srm.ok and made.breakdowns[0].slices[0].srm.expected == {"base": 10000.0, "vivid": 2000.0}


def test_very_many_slices_end_in_the_others():
    counts = {str(i): (10 + i, 100 + i, 10, 100) for i in range(MOST_SLICES + 5)}
    (breakdown,) = report(country=slices(counts)).breakdowns
    assert len(breakdown.slices) == MOST_SLICES
    last = breakdown.slices[-1]
    assert last.value == OTHERS and last.units == {"base": sum(100 + i for i in range(6)), "vivid": 600}
    assert last.arms[0].mean == pytest.approx(sum(10 + i for i in range(6)) / sum(100 + i for i in range(6)))


def test_broken_slices_are_answered():
    """No unit at all, an arm without units, one unit, no likes at all, no value: nothing breaks and nothing is claimed."""
    counts = {"": (0, 0, 0, 0), "a": (0, 5, 0, 0), "b": (1, 1, 0, 1), "c": (0, 500, 0, 500), "d": (50, 500, 60, 500)}
    made = report(device=slices(counts))
    (breakdown,) = made.breakdowns
    assert [s.value for s in breakdown.slices] == ["c", "d", "a", "b"]
    assert breakdown.heterogeneity == [] and breakdown.warnings == []
    encoded = msgspec.json.encode(made)
    assert b"NaN" not in encoded and msgspec.json.encode(rebuild(msgspec.json.decode(encoded, type=type(made)))) == encoded


def test_too_small_slices_tell_nothing_of_heterogeneity():
    n = SMALLEST_SLICE - 1
    (breakdown,) = report(device=slices({"a": (20, n, 1, n), "b": (1, n, 20, n), "c": (100, 1000, 100, 1000)})).breakdowns
    assert breakdown.heterogeneity == []


def test_a_slice_without_a_value_is_named():
    (breakdown,) = report(device=slices({"": (10, 100, 10, 100), "phone": (5, 50, 5, 50)})).breakdowns
    assert [s.value for s in breakdown.slices] == ["(not given)", "phone"]


def test_a_quantile_as_primary_metric():
    rng = np.random.default_rng(4)
    unit = np.repeat(np.arange(600), 3)

    def arm(shift: float):
        return quantile(rng.gamma(8, 50, 1800) + shift, unit, 0.5)

    made = [
        Slice(value=v, units=[{"base": 600, "vivid": 600}], primary={"base": arm(0), "vivid": arm(s)}) for v, s in (("a", 0), ("b", 80))
    ]
    given = experiment(primary="latency_p95_ms")
    rows = {"latency_p95_ms": {"base": arm(0), "vivid": arm(40)}}
    (breakdown,) = build_report("x", given, METRICS, facts(rows, {"base": 1200, "vivid": 1200}, breakdowns={"d": made}), NOW).breakdowns
    assert breakdown.slices[1].comparisons[0].relative.value > 0.1 and breakdown.heterogeneity[0].df == 1
    assert math.isfinite(breakdown.heterogeneity[0].q)


def test_several_arms():
    made = {"a": (50, 500), "b": (60, 500), "c": (90, 500)}
    one = [
        Slice(
            value=v, units=[{arm: n for arm, (_, n) in made.items()}], primary={arm: proportion(x + k, n) for arm, (x, n) in made.items()}
        )
        for k, v in enumerate(("x", "y"))
    ]
    given = experiment(arms={"a": 0.4, "b": 0.3, "c": 0.3}, control="a")
    rows = {"like_rate": {arm: proportion(2 * x, 2 * n) for arm, (x, n) in made.items()}}
    (breakdown,) = build_report("x", given, METRICS, facts(rows, dict.fromkeys(made, 1000), breakdowns={"d": one}), NOW).breakdowns
    assert [h.arm for h in breakdown.heterogeneity] == ["b", "c"]
    assert all(len(s.comparisons) == 2 for s in breakdown.slices)
