"""What bets of several sizes, side by side, make of values in [0, 1]: evidence against a mean, and the interval of those that are left.

Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", arXiv 2010.09686, § B.5 (diversified and grid
Kelly): the capital of bets fixed beforehand is an e-process for each mean, and so is their average. The sizes here halve from
one to the next, so that one of them is near the best for any effect and any number of values; none needs to be tuned.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analytics.inference.roots import falling_root

# The share of the capital that is lost when the worst comes: from bold to careful.
STAKES = 0.9 * 2.0 ** -np.arange(10)
# A double holds no larger power of e.
LARGEST_LOG_E = 690.0
Floats = NDArray[np.float64]


def e_value(values: Sequence[float], counts: Sequence[int], mean: float) -> float:
    """max(K+, K-)/2: the evidence against the mean of the values being `mean`, 0 < mean < 1. It needs no order, and no sample size.

    `values` in [0, 1], and how often each came. 1/2 without any. Raises ValueError for values outside, or a mean that is not inside.
    """
    if not 0 < mean < 1:
        raise ValueError(f"mean = {mean}: give one between 0 and 1")
    x, n = _checked(values, counts)
    most = max(log_capital(x, n, mean), log_capital(1 - x, n, 1 - mean))
    return math.exp(min(most - math.log(2), LARGEST_LOG_E))


def interval(values: Sequence[float], counts: Sequence[int], alpha: float) -> tuple[float, float]:
    """Every mean whose evidence is below 1/`alpha`: the true one is among them at every look with probability >= 1 - alpha.

    It has the mean of the values in it: at that, no bet has gained. [0, 1] without values. Raises ValueError for values outside [0, 1].
    """
    x, n = _checked(values, counts)
    threshold = math.log(2 / alpha)
    # The capital that bets on more falls with the mean that it is held against, the other rises: one root each.
    lower = falling_root(lambda m: log_capital(x, n, m) - threshold, 0.0, 1.0)
    upper = 1 - falling_root(lambda m: log_capital(1 - x, n, m) - threshold, 0.0, 1.0)
    return (lower, upper)


def log_capital(x: Floats, counts: Floats, m: float) -> float:
    """ln K+: the average over `STAKES` b of prod(1 + b (x/m - 1)), which bets that the mean is above `m`."""
    if m <= 0 and bool((counts[x > 0] > 0).any()):
        return math.inf
    gains = x / m - 1 if m > 0 else np.full(len(x), -1.0)
    logs = np.log1p(STAKES[:, None] * gains[None, :]) @ counts
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))


def _checked(values: Sequence[float], counts: Sequence[int]) -> tuple[Floats, Floats]:
    x, n = np.asarray(values, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    outside = ~((x >= 0) & (x <= 1))
    if outside.any():
        place = int(np.argmax(outside))
        raise ValueError(f"values[{place}] = {x[place]} is not in [0, 1], where the bets hold")
    return x, n
