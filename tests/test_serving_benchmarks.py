"""The measure of the gap between arms: it finds a planted gap through the noise of arrivals, and none where there is none."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
ROUNDS, MANY = 10, 400


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "serving"))
    import traffic

    return traffic


def latencies(arm: np.ndarray, gap: float, draw: np.random.Generator) -> np.ndarray:
    """Arrivals that differ by far more than the arms do, in a machine whose speed drifts from round to round."""
    arrivals = draw.gamma(2.0, 0.1, MANY)[None, :]
    mood = np.repeat(draw.normal(0, 0.03, (ROUNDS, MANY // 20)), 20, axis=1)
    return (0.2 + arrivals + mood + draw.normal(0, 0.005, arm.shape)) * (1 + gap * arm)


@pytest.mark.parametrize("planted", [0.0, 0.05])
def test_a_planted_gap_lies_in_nearly_every_interval(traffic: ModuleType, planted: float) -> None:
    held = []
    for seed in range(10):
        arm = traffic.rare_in_one_round(MANY, ROUNDS, seed)
        assert (arm.sum(axis=0) == 1).all() and 0.05 < arm[0].mean() < 0.15
        gap, half = traffic.paired_gap(latencies(arm, planted, np.random.default_rng(100 + seed)), arm)
        held.append(abs(gap - planted) <= half)
        # a plain difference of means: 1.96 × (0.14 s of 0.4 s) / sqrt(400 images of the rare arm) = 3.4 %
        assert half < 0.02
    assert sum(held) >= 8


def test_with_one_arm_there_is_no_gap(traffic: ModuleType) -> None:
    gap, half = traffic.welch_gap([traffic.Seen(0, 0.0, 1.0), traffic.Seen(0, 1.0, 2.0)], 0)
    assert np.isnan(gap) and np.isnan(half)
