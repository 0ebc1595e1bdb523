"""Rank intervals: by hand, and how often any of them misses."""

import numpy as np

from analytics.inference.ranks import Rank, ranks


def test_by_hand() -> None:
    far = ranks([3.0, 0.0, -3.0], np.eye(3) * 0.01, [1e6] * 3, 0.05)
    assert far == [Rank(1, 1, 1), Rank(2, 2, 2), Rank(3, 3, 3)]
    near = ranks([0.0, 0.01, -3.0], np.eye(3) * 0.01, [1e6] * 3, 0.05)
    assert near == [Rank(2, 1, 2), Rank(1, 1, 2), Rank(3, 3, 3)]


def test_an_arm_without_an_error_is_told_apart_from_none() -> None:
    found = ranks([3.0, 0.0, -3.0], np.eye(3) * 0.01, [1e6, None, 1e6], 0.05)
    assert found == [Rank(1, 1, 2), Rank(2, 1, 3), Rank(3, 2, 3)]


def test_equal_values_share_the_better_rank() -> None:
    assert [rank.rank for rank in ranks([1.0, 1.0, 0.0], np.eye(3), [50.0] * 3, 0.05)] == [1, 1, 3]


def test_any_true_rank_outside_its_interval_is_rare() -> None:
    """4,000 draws, two arms alike and two apart: at most 5 % + 3 errors with any miss; an arm alike with another may have either rank."""
    chance, truth, missed = np.random.default_rng(2), np.array([0.0, 0.0, 0.8, 2.0]), 0
    allowed = [(3, 4), (3, 4), (2, 2), (1, 1)]
    for values in truth + chance.normal(0, 0.3, (4000, 4)):
        found = ranks(values.tolist(), np.eye(4) * 0.09, [1e6] * 4, 0.05)
        missed += any(not (rank.low <= low and high <= rank.high) for rank, (low, high) in zip(found, allowed, strict=True))
    assert 0 < missed / 4000 <= 0.05 + 3 * 0.0035
