"""A confidence sequence for proportions that is guaranteed: at every look and every sample size, without asymptotics.

Robbins' beta-binomial mixture, centred at each p that it tests (Howard, Ramdas, McAuliffe & Sekhon 2021, arXiv 1810.08240,
§ 3 and prop. 7; Lindon & Malek 2022, arXiv 2011.03567): an e-process against p, whatever p is.
"""

import math
from collections.abc import Callable

from scipy.special import betaln

from analytics.inference.confidence_sequence import mixture_scale
from analytics.inference.contrast import Interval

# The level that the mixture is tuned for, whatever the level of the interval: so intervals of one sequence are nested.
TUNED_ALPHA = 0.05
# A heavier prior than 1e8 units would drown the counts in rounding.
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1e8


def log_e(p: float, x: float, n: int, planned_units: float) -> float:
    """ln of the evidence against "the proportion is `p`", 0 < p < 1, from `x` of `n` units; convex in p, at most 0 at x/n.

    `planned_units` of this arm: where the sequence is tightest, to be fixed before the data.
    """
    weight = min(max(planned_units / mixture_scale(TUNED_ALPHA) - 1, LEAST_WEIGHT), MOST_WEIGHT)
    a, b = weight * p, weight * (1 - p)
    return float(betaln(a + x, b + (n - x)) - betaln(a, b)) - x * math.log(p) - (n - x) * math.log1p(-p)


def interval(x: float, n: int, alpha: float, planned_units: float) -> tuple[float, float]:
    """All p that `x` of `n` units have not yet spoken against at level `alpha`: covers the true proportion at every look
    with probability >= 1 - alpha. [0, 1] while there is no unit.

    Raises ValueError for counts that cannot be (x below 0 or above n).
    """
    if not 0 <= x <= n:
        raise ValueError(f"x = {x} of n = {n} units cannot be: give 0 <= x <= n")
    if n == 0:
        return (0.0, 1.0)
    threshold, estimate = -math.log(alpha), x / n

    def outside(p: float) -> bool:
        return log_e(p, x, n, planned_units) > threshold

    return (_edge(outside, estimate, 0.0) if x else 0.0, _edge(outside, estimate, 1.0) if x < n else 1.0)


def difference_interval(x_a: float, n_a: int, x_b: float, n_b: int, alpha: float, planned_units: float) -> Interval:
    """Treated (b) minus control (a), from counts or from sums of values in [0, 1] (no such value makes more evidence than a 0/1
    of its mean: the bets are convex in it). Each arm's interval at `alpha`/2, so both hold together with probability >= 1 - alpha
    at every look. `planned_units` are those of both arms."""
    low_a, high_a = interval(x_a, n_a, alpha / 2, planned_units / 2)
    low_b, high_b = interval(x_b, n_b, alpha / 2, planned_units / 2)
    return (low_b - high_a, high_b - low_a)


def _edge(outside: Callable[[float], bool], inside: float, beyond: float) -> float:
    """Where `outside` begins on the way from a point inside to the bound of [0, 1] at that side; errs to the outer side."""
    while abs(inside - beyond) > 1e-15 * inside:
        middle = (inside + beyond) / 2
        # Below 1e-30 nothing is told from 0.
        if middle in (inside, beyond) or middle < 1e-30:
            break
        inside, beyond = (inside, middle) if outside(middle) else (middle, beyond)
    return beyond
