"""A guaranteed interval of one mean of bounded values by betting, from rows in their order: tight from the first units on.

Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", arXiv 2010.09686, theorem 3: the hedged
capital process with predictable plug-in bets (eq. 26).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analytics.inference.bounded import on_unit_interval
from analytics.inference.roots import falling_root

# No bet risks more than this share of the capital at once.
LARGEST_STAKE = 0.5


def interval(values: ArrayLike, low: float, high: float, alpha: float) -> tuple[float, float] | None:
    """Every mean of `values` in [`low`, `high`] against which no stake ever grew 1/alpha-fold: the running intersection over all
    looks, which holds with probability >= 1 - alpha. All of [low, high] without values.

    None where no mean is left: then the mean did not stay what it was. Raises ValueError for values outside the bounds.
    """
    x = on_unit_interval(values, low, high)
    if not x.size:
        return (low, high)
    bets = _bets(x, alpha)
    threshold = math.log(2 / alpha)
    # The capital that bets on a larger mean falls with m, the one that bets on a smaller rises: one root each.
    lower = falling_root(lambda m: most_log_capital(x, bets, m) - threshold, 0.0, 1.0)
    upper = 1 - falling_root(lambda m: most_log_capital(1 - x, bets, m) - threshold, 0.0, 1.0)
    scale = high - low
    return (low + scale * lower, low + scale * upper) if lower <= upper else None


def most_log_capital(x: NDArray[np.float64], bets: NDArray[np.float64], m: float) -> float:
    """The most that ln K+ ever was, betting that the mean of `x` in [0, 1] is above `m`; each bet was fixed before its value."""
    stakes = np.minimum(bets, LARGEST_STAKE / m) if m > 0 else bets
    return float(np.cumsum(np.log1p(stakes * (x - m))).max())


def _bets(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """lambda_t = sqrt(2 ln(2/alpha) / (t ln(1 + t) s2_{t-1})), with mean and variance as of before each value."""
    t = np.arange(1, x.size + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (t * np.log1p(t) * before)))
