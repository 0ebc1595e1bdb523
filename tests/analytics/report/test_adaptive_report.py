"""The report of a bandit: no naive mean in it, sample ratio quiet, arms that come and go, thousands of stretches, bit for bit again."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, START, experiment, facts, guardrails, proportion

from analytics.checks import sample_ratio
from analytics.checks.sample_ratio import log_e_value, running_log_e
from analytics.designs import Bandit
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts, Moments, WithFlagged
from analytics.facts import WeightPeriod as Period
from analytics.facts_of_designs import AllocationStretch, Draw
from analytics.moments import Joint
from analytics.report.build import build_report, rebuild
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text

ARMS = ("base", "vivid", "soft")
SEVERAL = METRICS | {"score": Metric(kind="mean", event="score", bounds=(0.0, 10.0))}


def joint(*columns: np.ndarray) -> Joint:
    x = np.array(columns, float)
    mean = x.mean(axis=1)
    apart = x - mean[:, None]
    products = tuple(tuple(map(float, row)) for row in apart @ apart.T)
    return Joint(n=x.shape[1], means=tuple(map(float, mean)), products=products, ratio=len(x) > 1)


def drawn(
    seed: int,
    stretches: int = 12,
    units: int = 300,
    rates: Sequence[float] = (0.10, 0.13, 0.11),
    closed: dict[str, tuple[int, int]] | None = None,
    season: float = 0.5,
) -> tuple[ExperimentFacts, dict[str, list[int]]]:
    """Facts of a bandit whose weights go up with the season for "vivid"; `closed[arm]`: from, until which stretch it has weight 0.
    And per arm (hits, units) as a naive count has them."""
    rng = np.random.default_rng(seed)
    allocation, periods = [], []
    counts = {arm: [0, 0] for arm in ARMS}
    for s in range(stretches):
        swing = 1 + season * np.sin(s)
        raw = np.array([0.3, 0.15 + 0.5 * (swing > 1), 0.25])
        for arm, (since, until) in (closed or {}).items():
            if since <= s < until:
                raw[ARMS.index(arm)] = 0.0
        weights = dict(zip(ARMS, map(float, raw / raw.sum()), strict=True))
        n = rng.multinomial(units, list(weights.values()))
        draws: dict[str, dict[str, list[Draw]]] = {"like_rate": {}, "likes": {}, "likes_per_view": {}, "score": {}}
        for k, arm in enumerate(ARMS):
            if not n[k]:
                continue
            hit = (rng.random(n[k]) < rates[k] * swing).astype(float)
            likes, views = rng.poisson(0.4 + 0.1 * k, n[k]), 1 + rng.poisson(3, n[k])
            counts[arm] = [counts[arm][0] + int(hit.sum()), counts[arm][1] + int(n[k])]
            columns = {"like_rate": (hit,), "likes": (likes,), "likes_per_view": (likes, views), "score": (10 * rng.random(n[k]),)}
            for name, numbers in columns.items():
                draws[name][arm] = [Draw(propensity=weights[arm], joint=joint(*numbers))]
        at = START + timedelta(hours=s)
        allocation.append(AllocationStretch(started_at=at, weights=weights, draws=draws))
        periods.append(Period(started_at=at, weights=weights, units=dict(zip(ARMS, map(int, n), strict=True))))
    naive = {"like_rate": {arm: proportion(hits, n) for arm, (hits, n) in counts.items()}}
    made = facts(naive, {arm: n for arm, (_, n) in counts.items()}, periods=periods, allocation=allocation)
    quiet = [msgspec.structs.replace(arm, mean_inverse_propensity=None) for arm in made.arms]
    return msgspec.structs.replace(made, arms=quiet), counts


def given(**changes: object) -> Experiment:
    fields: dict[str, object] = {
        "arms": {"base": 0.4, "vivid": 0.3, "soft": 0.3},
        "design": "bandit",
        "bandit": Bandit(policy="top_two"),
        "secondary": ("likes", "likes_per_view", "score"),
        "guardrails": guardrails(),
        "looks": 4,
    }
    return experiment(**(fields | changes))


def report_of(made: ExperimentFacts, **changes: object) -> Report:
    return build_report("vivid-colours", given(**changes), SEVERAL, made, START + timedelta(hours=60))


@pytest.mark.parametrize("seed", range(4))
def test_rebuilt_bit_for_bit_and_shown(seed: int) -> None:
    made, _ = drawn(seed, stretches=(1, 3, 12, 60)[seed], units=(40, 300, 300, 60)[seed])
    flagged = WithFlagged(periods=made.periods, clean_periods=made.periods, primary=made.metrics["like_rate"], allocation=made.allocation)
    report = report_of(msgspec.structs.replace(made, with_flagged=flagged, flagged_events=3))
    encoded = msgspec.json.encode(report)
    assert b"NaN" not in encoded and b"Infinity" not in encoded
    stored = msgspec.json.decode(encoded, type=Report)
    assert msgspec.json.encode(rebuild(stored)) == encoded
    text = to_text(report)
    assert "Adaptive weights on like_rate (top-two, floor 5.0%)" in text and max(map(len, text.splitlines())) <= 100
    assert "Weights over time" in text and "Adaptive weights on like_rate" in to_html(report, [])
    # Flagged events that change nothing change nothing.
    assert report.checks.flagged.ok and report.checks.flagged.primary_with is not None
    assert report.checks.flagged.primary_with.arms == report.metrics[0].arms


def test_naive_means_are_nowhere() -> None:
    """The season favours "vivid" when rates are high: its naive mean is far above what all units would have done."""
    made, counts = drawn(5, stretches=40, units=500, rates=(0.10, 0.10, 0.10))
    naive = {arm: hits / n for arm, (hits, n) in counts.items()}
    assert naive["vivid"] > 1.1 * naive["base"]
    report = report_of(made)
    likes = report.metrics[0]
    own = {arm.arm: arm for arm in likes.arms}
    assert own["vivid"].mean == pytest.approx(0.10, rel=0.07) and own["base"].mean == pytest.approx(0.10, rel=0.07)
    comparison = next(c for c in likes.comparisons if c.arm == "vivid")
    assert comparison.always_valid is not None
    low, high = comparison.always_valid.difference_ci
    assert low is not None and high is not None and low < 0 < high
    said = msgspec.json.encode(msgspec.structs.replace(report, sufficient_statistics=None)).decode()  # type: ignore[arg-type]
    for mean in naive.values():
        assert repr(mean) not in said and f"{mean:.6f}"[:7] not in said
    assert report.breakdowns == [] and report.novelty == []
    assert not any("weights changed" in text.lower() for text in (*report.method_notes, *report.decision.risks))


def test_what_each_kind_gets() -> None:
    report = report_of(drawn(6)[0])
    by_name = {metric.metric: metric for metric in report.metrics}
    for name in ("like_rate", "likes", "likes_per_view", "score"):
        for comparison in by_name[name].comparisons:
            assert comparison.p_value is not None and "AIPW" in comparison.method and comparison.df is None
            assert comparison.group_sequential is None and comparison.exact is None and comparison.bayes is not None
            assert (comparison.guaranteed is not None) == (name in ("like_rate", "score"))
    for name in ("like_rate", "score"):
        for comparison in by_name[name].comparisons:
            assert comparison.guaranteed is not None and comparison.always_valid is not None
            outer, inner = comparison.guaranteed.difference_ci, comparison.always_valid.difference_ci
            assert outer[0] is not None and inner[0] is not None and outer[0] < inner[0]
    quantile = by_name["latency_p95_ms"]
    assert all(c.p_value is None and "no inference under adaptive weights" in c.method for c in quantile.comparisons)
    assert all(c.difference.value is None for c in quantile.comparisons) and all(arm.mean is None for arm in quantile.arms)


def test_a_winner_is_shipped_and_says_estimates() -> None:
    report = report_of(drawn(7, stretches=40, units=900, rates=(0.10, 0.16, 0.11))[0], guardrails={}, minimum_units=100)
    assert (report.decision.action, report.decision.arm) == ("ship", "vivid")
    shown = {arm.arm: arm.mean for arm in report.metrics[0].arms}
    assert f"({(shown['vivid'] or 0) * 100:.1f}% against {(shown['base'] or 0) * 100:.1f}%)" in report.decision.reason


def test_an_arm_that_comes_and_one_that_goes() -> None:
    """The arm "soft" comes after 6 stretches, "vivid" goes after 9: each is compared over the stretches in which it could be got."""
    made, _ = drawn(8, stretches=12, closed={"soft": (0, 6), "vivid": (9, 12)})
    report = report_of(made)
    vivid, soft = report.metrics[0].comparisons
    assert vivid.method.startswith("within the 9 stretches") and soft.method.startswith("within the 6 stretches")
    assert f"({900:,} units of others left out)" in vivid.method and "within the" in report.decision.reason
    assert report.adaptive is not None and len(report.adaptive.left_out) == 2
    # What the others did meanwhile has no say in the comparison, but for foretelling.
    later = [
        msgspec.structs.replace(one, draws={name: {a: d for a, d in arms.items() if a != "soft"} for name, arms in one.draws.items()})
        if one.weights["vivid"] == 0
        else one
        for one in made.allocation
    ]
    same = report_of(msgspec.structs.replace(made, allocation=later)).metrics[0].comparisons[0]
    assert (same.difference.value, same.difference.se) == pytest.approx((vivid.difference.value, vivid.difference.se), rel=1e-12)
    # A retired arm of few units is not waited for; one that never was there has no numbers.
    made, _ = drawn(9, stretches=12, closed={"soft": (0, 12), "vivid": (1, 12)}, units=200)
    report = report_of(made, guardrails={}, minimum_units=500)
    assert "Arm 'soft'" not in report.decision.reason and "Arm 'vivid'" not in report.decision.reason
    assert report.metrics[0].comparisons[1].p_value is None and report.metrics[0].arms[2].mean is None


def test_nothing_yet() -> None:
    made, _ = drawn(10, stretches=1, units=9)
    for few in (made, msgspec.structs.replace(made, allocation=[], periods=[], metrics={}, started_at=None)):
        report = report_of(few)
        assert report.decision.action == "keep_running"
        assert all(c.p_value is None and c.difference.value is None for metric in report.metrics for c in metric.comparisons)
        assert "Adaptive weights" in to_text(report)
    nobody = msgspec.structs.replace(made, allocation=[])
    assert isinstance(nobody.metrics["like_rate"]["base"], Moments)
    assert report_of(nobody).metrics[0].arms[0].mean is None


@pytest.mark.parametrize(("value", "chance"), [(1e150, 0.3), (1e-160, 0.3), (1.0, 1e-200), (-1e150, 5e-324), (0.0, 0.3)])
def test_numbers_at_the_ends_of_doubles_end_in_words(value: float, chance: float) -> None:
    made, _ = drawn(16, stretches=3)
    far = [
        msgspec.structs.replace(
            one,
            draws={
                name: {
                    arm: [
                        Draw(
                            propensity=chance if arm == "soft" else d.propensity,
                            joint=joint(*(value * np.arange(d.joint.n) for _ in d.joint.means)),
                        )
                        for d in draws
                    ]
                    for arm, draws in arms.items()
                }
                for name, arms in one.draws.items()
            },
        )
        for one in made.allocation
    ]
    with np.errstate(all="raise"):
        report = report_of(
            msgspec.structs.replace(made, allocation=far), primary="likes", secondary=("like_rate", "likes_per_view", "score")
        )
    encoded = msgspec.json.encode(report.metrics) + msgspec.json.encode(report.adaptive) + msgspec.json.encode(report.path)
    # `msgspec` writes numbers that are none as null; so nothing but what may be null is.
    assert msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(report), type=Report)) == msgspec.json.encode(report)
    assert b"Infinity" not in encoded and max(map(len, to_text(report).splitlines())) <= 100


def test_the_path_ends_where_the_report_stands() -> None:
    report = report_of(drawn(11, stretches=60, units=120)[0])
    assert [point.day.day for point in report.path] == [20, 21, 22]
    last, likes = report.path[-1], report.metrics[0]
    assert last.units == report.checks.srm.units and last.expected == pytest.approx(report.checks.srm.expected)
    assert last.srm_e_value == pytest.approx(report.checks.srm.e_value)
    for comparison in likes.comparisons:
        assert last.lift[comparison.arm] == comparison.relative.value
        assert comparison.always_valid is not None and last.always_valid_ci[comparison.arm] == comparison.always_valid.relative_ci


def test_a_low_propensity_is_a_risk() -> None:
    made, _ = drawn(12)
    rare = [
        msgspec.structs.replace(
            one, draws={n: arms | {"soft": [msgspec.structs.replace(arms["soft"][0], propensity=0.01)]} for n, arms in one.draws.items()}
        )
        for one in made.allocation
    ]
    risks = report_of(msgspec.structs.replace(made, allocation=rare)).decision.risks
    assert any("'soft' was drawn with a propensity of 1.0%" in risk for risk in risks)


def test_the_sample_ratio_is_quiet_under_a_bandit_and_loud_under_a_wrong_split() -> None:
    rng = np.random.default_rng(13)

    def periods(bias: float) -> list[Period]:
        found = []
        for s in range(300):
            weights = 0.05 + 0.85 * rng.dirichlet([1, 1, 1])
            shares = weights * [1.0, 1.0 + bias, 1.0]
            n = rng.multinomial(200, shares / shares.sum())
            named = [dict(zip(ARMS, map(kind, row), strict=True)) for kind, row in ((float, weights), (int, n))]
            found.append(Period(started_at=START + timedelta(hours=s), weights=named[0], units=named[1]))
        return found

    alarms = [sample_ratio(periods(0.0), ARMS) for _ in range(20)]
    assert max(one.e_value for one in alarms) < 100 and min(one.p_value or 1.0 for one in alarms) > 1e-3
    # A restart that forgets weights, or an arm that is given 6 % more than is logged: no stretch could tell by itself.
    wrong = periods(0.06)
    assert not sample_ratio(wrong, ARMS).ok
    afresh = sum(log_e_value(list(one.weights.values()), list(one.units.values())) for one in wrong)
    assert math.exp(min(afresh, 690)) < 1000


def test_constant_weights_are_one_period_however_they_are_cut() -> None:
    rng = np.random.default_rng(15)
    weights = [0.5, 0.3, 0.2]
    parts = [rng.multinomial(n, [0.56, 0.28, 0.16]) for n in (50, 700, 1, 2000)]
    afresh = sum(log_e_value(weights, list(part)) for part in parts)
    whole = log_e_value(weights, list(sum(parts)))
    found = running_log_e([(weights, list(part)) for part in parts])[-1]
    assert found == pytest.approx(math.log((math.exp(afresh) + math.exp(whole)) / 2), rel=1e-9)
    assert running_log_e([(weights, list(sum(parts)))]) == pytest.approx([whole])
    assert running_log_e([]) == []


def test_hundreds_of_stretches_cost_little() -> None:
    made, _ = drawn(14, stretches=720, units=60)
    began = time.process_time()
    report = report_of(made)
    spent = time.process_time() - began
    assert spent < 2, f"{spent:.2f} s for 720 stretches"
    assert report.adaptive is not None and len(report.adaptive.weights) == 31 and report.adaptive.stretches == 720
    assert len(msgspec.json.encode(report)) < 3_000_000
