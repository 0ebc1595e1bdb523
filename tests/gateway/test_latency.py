"""The gap between arms against scipy's Welch interval, over a window, and as Prometheus metrics."""

import numpy as np
import pytest
from scipy import stats

from analytics.experiment import Experiment
from gateway.assignment import allocate
from gateway.latency import Latencies
from gateway.ledger import Life
from gateway.metrics import Metrics


def filled(**arms):
    latencies = Latencies(window=400)
    for arm, values in arms.items():
        for value in values:
            latencies.add("colours", arm, float(value))
    return latencies


def test_gaps_are_welchs_over_the_last_of_each_arm():
    rng = np.random.default_rng(1)
    base, vivid = rng.normal(400, 60, 900), rng.normal(430, 90, 250)
    (gap,) = filled(base=base, vivid=vivid).gaps("colours", ["base", "vivid"], "base")
    expected = stats.ttest_ind(vivid, base[-400:], equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert gap.arm == "vivid" and gap.ms == pytest.approx(vivid.mean() - base[-400:].mean())
    assert (gap.low, gap.high) == pytest.approx((low, high))


def test_an_aa_gap_is_covered_95_times_in_100():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        (gap,) = filled(base=rng.exponential(300, 270), vivid=rng.exponential(300, 30)).gaps("colours", ["base", "vivid"], "base")
        covered += gap.low <= 0 <= gap.high
    assert 0.91 <= covered / 300 <= 0.99


def test_nothing_is_told_of_what_is_not_known():
    assert filled().gaps("colours", ["base", "vivid"], "base") == []
    assert filled(base=[1, 2], vivid=[3]).gaps("colours", ["base", "vivid"], "base") == []
    latencies = filled(base=[1, 2], vivid=[3, 5])
    assert len(latencies.gaps("colours", ["base", "vivid"], "base")) == 1
    latencies.keep(["other"])
    assert latencies.gaps("colours", ["base", "vivid"], "base") == []


def test_metrics_of_running_experiments():
    declared = Experiment(route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate")
    life = Life(name="colours", declared=declared, allocation=allocate("", declared.arms), state="running")
    metrics, running = Metrics(), [life]
    filled(base=[100, 110, 120], vivid=[200, 210, 220]).show(metrics, lambda: running)
    metrics.arm("colours", "vivid", "failed")
    text = metrics.text().decode()
    assert 'salon_latency_gap_ms{arm="vivid",experiment="colours"} 100.0' in text
    low, high = (
        float(text.split(f'salon_latency_gap_{side}_ms{{arm="vivid",experiment="colours"}} ')[1].split()[0]) for side in ("low", "high")
    )
    assert low < 100 < high and 'salon_arm_generations_total{arm="vivid",experiment="colours",status="failed"} 1.0' in text
    running.clear()
    assert "salon_latency_gap_ms{" not in metrics.text().decode()
