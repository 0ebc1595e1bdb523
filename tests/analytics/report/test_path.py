"""The report day by day, the effect by day of life, and totals of parts put together."""

from datetime import date, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import METRICS, NOW, START, experiment, facts, moments, proportion, quantile

from analytics.checks import sample_ratio
from analytics.facts import Age, Cohort, Moments, Slice, WeightPeriod
from analytics.report.build import build_report, rebuild
from analytics.report.merging import as_joint, merged, merged_arms
from analytics.report.page import to_html
from analytics.report.text import to_text

DAY = date(2026, 11, 20)
FIELDS = ("n", "mean", "m2", "denominator_mean", "denominator_m2", "comoment")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e3)), max_size=8), max_size=6))
def test_merging_parts_equals_one_pass(parts):
    """Against numpy on all rows at once."""
    together = merged(moments([y for y, _ in p], [d for _, d in p]) for p in parts if p)
    rows = np.array([row for p in parts for row in p]).reshape(-1, 2)
    assert together.n == len(rows)
    if len(rows):
        apart = rows - rows.mean(axis=0)
        scale = 1 + np.abs(rows).max(axis=0)
        assert together.mean == pytest.approx(rows[:, 0].mean(), abs=1e-9 * scale[0])
        assert together.denominator_mean == pytest.approx(rows[:, 1].mean(), abs=1e-9 * scale[1])
        products = apart.T @ apart
        assert together.m2 == pytest.approx(products[0, 0], rel=1e-9, abs=1e-9 * scale[0] ** 2)
        assert together.denominator_m2 == pytest.approx(products[1, 1], rel=1e-9, abs=1e-9 * scale[1] ** 2)
        assert together.comoment == pytest.approx(products[0, 1], rel=1e-9, abs=1e-9 * scale[0] * scale[1])


def test_merging_far_from_zero_cancels_nothing():
    rng = np.random.default_rng(1)
    y = 1e9 + rng.normal(size=4000)
    together = merged(moments(part) for part in np.split(y, 40))
    assert together.m2 / 3999 == pytest.approx(y.var(ddof=1), rel=1e-7)


def test_merging_nothing():
    assert merged([]).n == 0 and merged_arms([]) == {}
    one = moments([1.0, 2.0])
    assert merged([Moments(n=0, mean=0.0, m2=0.0), one]) == one


def test_as_joint_says_the_same():
    ratio = moments([1.0, 2.0, 4.0], [2.0, 2.0, 3.0])
    joint = as_joint(ratio, ratio=True)
    assert joint.means == (ratio.mean, ratio.denominator_mean) and joint.products[0][1] == joint.products[1][0] == ratio.comoment
    assert as_joint(ratio, ratio=False).products == ((ratio.m2,),)


def cohorts(likes: list[tuple[int, int]], units: int = 200) -> list[Cohort]:
    return [
        Cohort(
            day=DAY + timedelta(days=i),
            units=[{"base": units, "vivid": units}],
            primary={"base": proportion(a, units), "vivid": proportion(b, units)},
        )
        for i, (a, b) in enumerate(likes)
    ]


def built(days: list[Cohort], *, primary: str = "like_rate", periods: list[WeightPeriod] | None = None, **changes: object):
    whole = merged_arms(c.primary for c in days)
    units = {arm: sum(u.get(arm, 0) for c in days for u in c.units) for arm in ("base", "vivid")}
    more = {"periods": periods} if periods else {}
    made = facts({primary: whole}, units, cohorts=days, **more, **changes)
    return build_report("x", experiment(primary=primary), METRICS, made, NOW)


def test_the_path_ends_where_the_report_stands():
    report = built(cohorts([(20, 30), (25, 32), (22, 40)]))
    comparison = report.metrics[0].comparisons[0]
    assert [p.day for p in report.path] == [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)]
    last = report.path[-1]
    assert last.lift["vivid"] == pytest.approx(comparison.relative.value, rel=1e-12)
    assert last.always_valid_ci["vivid"] == pytest.approx(comparison.always_valid.relative_ci, rel=1e-9)
    assert last.units == {"base": 600, "vivid": 600} and last.expected == {"base": 600.0, "vivid": 600.0}
    assert last.srm_e_value == pytest.approx(report.checks.srm.e_value)
    first = report.path[0]
    assert first.lift["vivid"] == pytest.approx(0.5) and first.units == {"base": 200, "vivid": 200}


def test_a_day_alone_is_the_report_of_that_day():
    """The path's first two days equal a report on those days only."""
    whole, early = built(cohorts([(20, 30), (25, 32), (22, 40)])), built(cohorts([(20, 30), (25, 32)]))
    assert whole.path[1] == early.path[1]


def test_days_out_of_order_are_put_in_order():
    days = cohorts([(20, 30), (25, 32)])
    assert built(days[::-1]).path == built(days).path


def ramp() -> tuple[list[Cohort], list[WeightPeriod]]:
    """No effect at all, but likes halve when the weights move from 90/10 to 10/90."""
    days = []
    for i in range(6):
        late = i >= 3
        base, vivid, rate = (100, 900, 0.1) if late else (900, 100, 0.2)
        counts = {"base": base, "vivid": vivid}
        days.append(
            Cohort(
                day=DAY + timedelta(days=i),
                units=[{}, counts] if late else [counts, {}],
                primary={arm: proportion(round(rate * n), n) for arm, n in counts.items()},
            )
        )
    weights = ({"base": 0.9, "vivid": 0.1}, {"base": 0.1, "vivid": 0.9})
    sums = ({"base": 2700, "vivid": 300}, {"base": 300, "vivid": 2700})
    return days, [WeightPeriod(started_at=START, weights=w, units=u) for w, u in zip(weights, sums, strict=True)]


def test_a_ramp_with_a_trend_shows_no_effect_on_the_path():
    """Pooled, vivid would stand at 0.11 against 0.19; within weights there is nothing."""
    days, periods = ramp()
    report = built(days, periods=periods)
    assert [p.lift["vivid"] for p in report.path] == pytest.approx([0.0] * 6, abs=1e-12)
    assert all(p.always_valid_ci["vivid"][0] <= 0 <= p.always_valid_ci["vivid"][1] for p in report.path)
    assert max(p.srm_e_value for p in report.path) < 1
    assert report.path[-1].expected == pytest.approx({"base": 3000.0, "vivid": 3000.0})


def test_the_sample_ratio_of_the_path_is_that_of_the_units_so_far():
    days = cohorts([(20, 30)] * 3)
    for i, day in enumerate(days):
        day.units[0]["vivid"] = 200 - 30 * i
    report = built(days)
    period = WeightPeriod(started_at=START, weights={"base": 0.5, "vivid": 0.5}, units={"base": 400, "vivid": 370})
    assert report.path[1].srm_e_value == pytest.approx(sample_ratio([period], ["base", "vivid"]).e_value)


def test_ratios_and_means_have_a_path():
    rng = np.random.default_rng(3)
    days = [
        Cohort(
            day=DAY + timedelta(days=i),
            units=[{"base": 50, "vivid": 50}],
            primary={arm: moments(rng.poisson(2, 50), rng.poisson(5, 50) + 1) for arm in ("base", "vivid")},
        )
        for i in range(3)
    ]
    report = built(days, primary="likes_per_view")
    assert report.path[-1].lift["vivid"] == pytest.approx(report.metrics[0].comparisons[0].relative.value, rel=1e-9)


def test_days_that_cannot_be_compared_are_answered():
    """An arm that has no unit yet, nobody who likes, one unit."""
    empty = Cohort(day=DAY, units=[{"base": 5}], primary={"base": proportion(0, 5)})
    nothing = Cohort(
        day=DAY + timedelta(days=1), units=[{"base": 5, "vivid": 1}], primary={"base": proportion(0, 5), "vivid": proportion(0, 1)}
    )
    report = built([empty, nothing])
    assert [p.lift["vivid"] for p in report.path] == [None, None]
    assert [p.always_valid_ci["vivid"] for p in report.path] == [(None, None)] * 2
    assert report.path[0].units == {"base": 5, "vivid": 0}


def test_a_quantile_has_units_and_ratio_but_no_lift():
    rng = np.random.default_rng(4)
    rows = {"latency_p95_ms": {arm: quantile(rng.gamma(8, 50, 900), np.arange(900), 0.95) for arm in ("base", "vivid")}}
    days = [Cohort(day=DAY, units=[{"base": 900, "vivid": 900}], primary={})]
    report = build_report("x", experiment(primary="latency_p95_ms"), METRICS, facts(rows, {"base": 900, "vivid": 900}, cohorts=days), NOW)
    (point,) = report.path
    assert point.lift == {"vivid": None} and point.units == {"base": 900, "vivid": 900} and point.srm_e_value < 1


def test_novelty_is_the_effect_by_day_of_life():
    rates = [(100, 180), (90, 120), (80, 82)]
    ages = [
        Age(day=i, primary={"base": proportion(a, 1000 - 100 * i), "vivid": proportion(b, 1000 - 100 * i)})
        for i, (a, b) in enumerate(rates)
    ]
    ages.append(Age(day=3, primary={"base": proportion(3, 30)}))
    report = built(cohorts([(100, 150)]), ages=ages)
    assert [p.day for p in report.novelty] == [0, 1, 2]
    assert [p.lift["vivid"] for p in report.novelty] == pytest.approx([0.8, 1 / 3, 0.025])
    assert report.novelty[0].ci["vivid"][0] > 0 > report.novelty[2].ci["vivid"][0]
    assert report.novelty[1].units == {"base": 900, "vivid": 900}


def test_novelty_intervals_are_corrected_over_the_days():
    def intervals(days: int):
        same = [Age(day=i, primary={"base": proportion(100, 1000), "vivid": proportion(100, 1000)}) for i in range(days)]
        low, high = built(cohorts([(100, 150)]), ages=same).novelty[0].ci["vivid"]
        return high - low

    assert intervals(5) > intervals(1)


def test_counts_that_need_an_exact_test_have_no_interval_yet():
    """3 and 5 of 20 expect 4 a cell; 6 and 10 of 40 expect 8: from then on the point is the report's."""
    few, more = built(cohorts([(3, 5)], units=20)), built(cohorts([(3, 5), (3, 5)], units=20))
    assert few.path[0].lift["vivid"] == pytest.approx(2 / 3) and few.path[0].always_valid_ci["vivid"] == (None, None)
    assert more.path[0] == few.path[0]
    assert more.path[1].always_valid_ci["vivid"] == pytest.approx(more.metrics[0].comparisons[0].always_valid.relative_ci, rel=1e-9)
    ages = [Age(day=0, primary={"base": proportion(3, 20), "vivid": proportion(5, 20)})]
    assert built(cohorts([(100, 150)]), ages=ages).novelty[0].ci["vivid"] == (None, None)


@pytest.mark.parametrize("value", [1e150, 1e-200, -1e150, 0.0, 1e-320])
def test_values_beyond_what_can_be_computed_are_answered(value):
    days = [
        Cohort(
            day=DAY + timedelta(days=i),
            units=[{"base": 40, "vivid": 40}],
            primary={"base": moments([value, 2 * value] * 20), "vivid": moments([value, 3 * value] * 20)},
        )
        for i in range(3)
    ]
    ages = [Age(day=0, primary=dict(days[0].primary))]
    report = built(
        days, primary="likes", ages=ages, breakdowns={"d": [Slice(value="x", units=days[0].units, primary=dict(days[0].primary))]}
    )
    encoded = msgspec.json.encode(report)
    assert msgspec.json.encode(rebuild(msgspec.json.decode(encoded, type=type(report)))) == encoded
    assert len(report.path) == 3 and "Day by day" in to_text(report) and "<svg" in to_html(report)
