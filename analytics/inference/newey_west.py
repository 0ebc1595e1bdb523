"""Standard errors of a sum over time whose terms are related to those shortly before them (Newey & West 1987)."""

import math

import numpy as np
from numpy.typing import NDArray


def newey_west_se(scores: NDArray[np.float64], numbers: NDArray[np.int64], lag: int) -> float:
    """Of the sum of centred `scores` [n], at the strictly rising times `numbers` [n]: Bartlett weights 1 - l/(lag + 1), no factor
    for small samples; terms further apart than `lag` are taken to be unrelated, times without a term to add nothing.

    variance = sum_l (2 - [l = 0]) (1 - l/(lag + 1)) sum_t s_t s_(t-l); with `lag` = 0 it is White's (HC0). It is the error of
    least squares on an indicator (weighted by denominators) when the scores are those of `switchback.effect`. Raises ValueError for
    a negative lag.
    """
    if lag < 0:
        raise ValueError(f"lag = {lag}; give 0 or more blocks")
    variance = float(scores @ scores)
    for step in range(1, lag + 1):
        # Where the term `step` earlier stands, if there is one.
        place = np.searchsorted(numbers, numbers - step)
        there = numbers[np.minimum(place, len(numbers) - 1)] == numbers - step
        variance += 2 * (1 - step / (lag + 1)) * float(scores[there] @ scores[place[there]])
    return math.sqrt(max(0.0, variance))
