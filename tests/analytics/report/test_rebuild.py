"""A report made again from nothing but its own `sufficient_statistics` equals it, bit for bit: also through JSON, also if broken."""

from datetime import date, timedelta

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, NOW, START, experiment, facts, guardrails, moments, proportion, quantile

from analytics.experiment import Metric
from analytics.facts import Age, Cohort, GalleryPicture, Joint, Slice, WeightPeriod, WithFlagged
from analytics.report.build import build_report, rebuild
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text

ARMS = ("base", "vivid", "soft")
ALL_METRICS = METRICS | {"revenue": Metric(kind="mean", event="pay", covariate_days=7.0, covariates=("likes",), bounds=(0.0, 100.0))}


def joint(rng: np.random.Generator, n: int, shift: float) -> Joint:
    x = rng.gamma(2.0, 3.0, (n, 2))
    rows = np.column_stack([x @ [0.7, 0.2] + rng.normal(0, 1, n) + shift, x])
    apart = rows - rows.mean(axis=0)
    products = tuple(tuple(map(float, row)) for row in apart.T @ apart)
    return Joint(n=n, means=tuple(map(float, rows.mean(axis=0))), products=products, covariates=("itself", "likes"), ratios=(False, False))


def drawn(seed: int) -> Report:
    """An experiment with two or three arms, from a handful of units to thousands, with everything that facts can say."""
    rng = np.random.default_rng(seed)
    arms = ARMS[: int(rng.integers(2, 4))]
    n = int(rng.choice([1, 2, 7, 60, 900]))
    rate = float(rng.choice([0.0, 0.003, 0.2, 1.0]))
    units = {arm: n + int(rng.integers(0, 3)) for arm in arms}

    def primary(scale: float = 1.0):
        sizes = {arm: max(1, int(units[arm] * scale)) for arm in arms}
        return {arm: proportion(int(rng.binomial(k, min(1.0, rate * (1 + 0.3 * i)))), k) for i, (arm, k) in enumerate(sizes.items())}

    halves = [{arm: k // 2 for arm, k in units.items()}, {arm: k - k // 2 for arm, k in units.items()}]
    weights = {arm: 1 / len(arms) for arm in arms}
    moved = seed % 3 == 0
    periods = [WeightPeriod(started_at=START, weights=weights, units=units)]
    if moved:
        tilted = dict.fromkeys(arms, 0.5 / (len(arms) - 1)) | {arms[0]: 0.5}
        periods = [
            WeightPeriod(started_at=START, weights=weights, units=halves[0]),
            WeightPeriod(started_at=START + timedelta(hours=9), weights=tilted, units=halves[1]),
        ]
    joints = {arm: joint(rng, units[arm] + 4, 0.3 * i) for i, arm in enumerate(arms)}
    rows = {
        "like_rate": primary(),
        "revenue": {arm: moments(rng.gamma(2, 3, units[arm])) for arm in arms},
        "likes_per_view": {arm: moments(rng.poisson(1, k).astype(float), rng.poisson(3, k).astype(float)) for arm, k in units.items()},
        "latency_p95_ms": {arm: quantile(rng.gamma(8, 50, 3 * k), np.repeat(np.arange(k), 3), 0.95) for arm, k in units.items()},
        "failure_rate": {arm: moments(rng.binomial(2, 0.05, k).astype(float), [2.0] * k) for arm, k in units.items()},
    }
    per_day = [[{}, u] if moved and i else [u, *([{}] if moved else [])] for i, u in enumerate(halves)]
    made = facts(
        rows,
        units,
        periods=periods,
        joint={"revenue": joints},
        by_period={"likes_per_view": []},
        by_stratum={"revenue": {"a": joints, "b": joints}} if seed % 4 == 1 else {},
        breakdowns={
            "device": [Slice(value=v, units=[halves[0], *([halves[1]] if moved else [])], primary=primary(0.5)) for v in ("", "tv")]
        },
        cohorts=[Cohort(day=date(2026, 11, 20 + i), units=u, primary=primary(0.5)) for i, u in enumerate(per_day)],
        ages=[Age(day=i, primary=primary(0.8**i)) for i in range(4)],
        pre_period={arm: moments(rng.poisson(1, k + 2).astype(float)) for arm, k in units.items()},
        excluded={"units": dict.fromkeys(arms, 2)},
        training_units=dict.fromkeys(arms, 1),
        caps={"revenue": 40.0},
        sql={"revenue": "SELECT 1"},
        flagged_events=5,
        with_flagged=WithFlagged(periods=periods, clean_periods=periods, primary=primary()),
        latency={arm: moments(rng.gamma(8, 50, k)) for arm, k in units.items()},
    )
    given = experiment(
        arms=weights,
        secondary=("revenue", "likes_per_view"),
        guardrails=guardrails(),
        lift=("delta", "fieller", "log_delta")[seed % 3],
        correction=("holm", "benjamini_hochberg", "none")[seed // 3 % 3],
        looks=4 if seed % 2 else None,
        breakdowns=("device",),
    )
    return build_report("vivid-colours", given, ALL_METRICS, made, NOW)


@pytest.mark.parametrize("seed", range(24))
def test_rebuilt_bit_for_bit(seed):
    report = drawn(seed)
    encoded = msgspec.json.encode(report)
    assert b"NaN" not in encoded and b"Infinity" not in encoded
    stored = msgspec.json.decode(encoded, type=Report)
    assert msgspec.json.encode(rebuild(stored)) == encoded
    assert rebuild(stored) == stored == report
    page, text = to_html(report, [GalleryPicture(prompt="p", seed=1, arm="base", png=b"x")]), to_text(report)
    assert to_html(stored, [GalleryPicture(prompt="p", seed=1, arm="base", png=b"x")]) == page and to_text(stored) == text
    assert max(map(len, text.splitlines())) <= 100


def test_another_number_is_another_report():
    """The comparison above would notice: one unit more who likes it changes the report."""
    report = drawn(4)
    given = report.sufficient_statistics
    rows = given.facts.metrics["like_rate"]
    changed = rows | {"vivid": msgspec.structs.replace(rows["vivid"], mean=rows["vivid"].mean * 0.5 + 0.01)}
    other = msgspec.structs.replace(given, facts=msgspec.structs.replace(given.facts, metrics=given.facts.metrics | {"like_rate": changed}))
    assert msgspec.json.encode(rebuild(msgspec.structs.replace(report, sufficient_statistics=other))) != msgspec.json.encode(report)
