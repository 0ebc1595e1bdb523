"""A guaranteed interval of the mean of bounded values: at every look, every sample size and for any distribution.

Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", arXiv 1810.08240,
theorem 4 (empirical Bernstein) with the gamma-exponential mixture of prop. 9.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainc, gammaln

from analytics.inference.bounded import on_unit_interval
from analytics.inference.confidence_sequence import mixture_scale
from analytics.inference.contrast import Interval
from analytics.inference.roots import falling_root

# The sequence is tightest where the variance of values put on [0, 1] is this: between that of a rare event and that of a coin.
VARIANCE_GUESS = 0.05


def bound(values: ArrayLike, low: float, high: float, alpha: float, planned_units: float) -> tuple[float, float]:
    """Interval of the mean of `values` in [`low`, `high`], in the order in which they came, that holds at every look with
    probability >= 1 - alpha; tightest near `planned_units` (of this arm), fixed beforehand. All of [low, high] without values.

    The mean may change from one value to the next as long as it is their average that is meant.
    Raises ValueError for values outside the bounds (`bounded.on_unit_interval`).
    """
    x = on_unit_interval(values, low, high)
    if not x.size:
        return (low, high)
    before = np.concatenate([[0.5], np.cumsum(x)[:-1] / np.arange(1, x.size)])
    variance = float(np.sum((x - before) ** 2))
    half = crossing(variance, alpha / 2, VARIANCE_GUESS * planned_units) / x.size
    mean, scale = float(np.mean(x)), high - low
    return (low + scale * max(0.0, mean - half), low + scale * min(1.0, mean + half))


def difference_bound(control: ArrayLike, treated: ArrayLike, low: float, high: float, alpha: float, planned_units: float) -> Interval:
    """Interval of the treated mean minus the control's, each arm at `alpha`/2: both hold together at every look with
    probability >= 1 - alpha. `planned_units` are those of both arms."""
    a = bound(control, low, high, alpha / 2, planned_units / 2)
    b = bound(treated, low, high, alpha / 2, planned_units / 2)
    return (b[0] - a[1], b[1] - a[0])


def crossing(variance: float, alpha: float, tightest_at: float) -> float:
    """u(V): a sum whose increments are at most 1 below, with `variance` V so far, ever falls by more than u(V) with
    probability <= `alpha` (one side). `tightest_at`: the V at which u is best."""
    # `alpha` is one side's; the mixture is tuned for both sides together.
    r = tightest_at / mixture_scale(min(0.5, 2 * alpha))
    shape = variance + r
    constant = r * math.log(r) - float(gammaln(r)) - _log_lower(r, r) + float(gammaln(shape)) + variance + math.log(alpha)

    def evidence(u: float) -> float:
        return constant + _log_lower(shape, shape + u) - shape * math.log(shape + u) + u

    reach = 1.0 + math.sqrt(shape)
    while evidence(reach) < 0:
        reach *= 2
    return falling_root(lambda u: -evidence(u), 0.0, reach)


def _log_lower(shape: float, x: float) -> float:
    """ln of the regularised lower incomplete gamma function, x >= shape: never far from 0."""
    return math.log(float(gammainc(shape, x)))
