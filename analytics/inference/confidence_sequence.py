"""Asymptotic confidence sequences: valid however often and whenever one looks.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv 2103.06476v7, eq. 9 (two-sided), 134 (one-sided), 155 and 161 (where it is tightest).
Critical values are in standard errors, so they take the place of a z or t quantile.
"""

import math
from collections.abc import Iterable

from analytics.inference.contrast import Interval

# JSON has no infinity and doubles end near 1e308: larger evidence is shown as this much.
LARGEST_E = 1e300


def mixture_scale(alpha: float) -> float:
    """c(alpha) = 2 ln(1/alpha) + ln(1 + 2 ln(1/alpha)): a mixture of precision v/c is tightest at the intrinsic time v (to
    first order; eq. 155, and Howard, Ramdas, McAuliffe & Sekhon 2021, arXiv 1810.08240, § 3.5)."""
    log = -2 * math.log(alpha)
    return log + math.log1p(log)


def tightness(alpha: float, planned_units: float) -> float:
    """rho squared: makes the sequence tightest at `planned_units` (both arms), to be fixed before the data."""
    return mixture_scale(alpha) / planned_units


def two_sided_critical(units: int, alpha: float, planned_units: float) -> float:
    """How many standard errors the interval reaches to each side, with `units` in both arms together; infinite at 0 units."""
    weight = units * tightness(alpha, planned_units)
    if not weight > 0:
        return math.inf
    return math.sqrt(2 * (1 + 1 / weight) * (math.log1p(weight) / 2 - math.log(alpha)))


def e_value(statistic: float, units: int, alpha: float, planned_units: float) -> float:
    """Evidence against "no change"; >= 1/alpha exactly when the two-sided interval excludes 0. At most `LARGEST_E`."""
    weight = units * tightness(alpha, planned_units)
    if not weight > 0:
        return 1.0
    log = statistic * statistic / (2 * (1 + 1 / weight)) - math.log1p(weight) / 2
    return math.exp(log) if log < math.log(LARGEST_E) else LARGEST_E


def one_sided_critical(units: int, alpha: float, planned_units: float) -> float:
    """How many standard errors a one-sided bound lies from the estimate, 0 < `alpha` < 1/2; infinite at 0 units."""
    weight = units * tightness(2 * alpha, planned_units)
    if not weight > 0:
        return math.inf
    # ln(1 + sqrt(1 + weight)/(2 alpha)), where the fraction may overflow.
    log = math.log1p(weight) / 2 - math.log(2 * alpha)
    return math.sqrt(2 * (1 + 1 / weight) * (log + math.log1p(math.exp(-log))))


def one_sided_p(statistic: float, units: int, alpha: float, planned_units: float) -> float:
    """Always-valid p of "not above 0"; <= alpha exactly when the lower bound exceeds 0."""
    weight = units * tightness(2 * alpha, planned_units)
    if not (statistic > 0 and weight > 0):
        return 1.0
    exponent = statistic * statistic / (2 * (1 + 1 / weight))
    if exponent == 0:
        return 1.0
    # sqrt(1 + weight)/(2 (e^x - 1)), in the form that neither overflows nor cancels.
    log = math.log1p(weight) / 2 - math.log(2) - exponent - math.log(-math.expm1(-exponent))
    return math.exp(min(0.0, log))


def intersect(looks: Iterable[Interval]) -> Interval | None:
    """What all looks of one sequence agree on; as valid as each of them. None where they contradict each other, which one
    constant effect does with probability < alpha: report drift. An end that is None does not bound."""
    lows, highs = [-math.inf], [math.inf]
    for low, high in looks:
        lows.append(-math.inf if low is None else low)
        highs.append(math.inf if high is None else high)
    low, high = max(lows), min(highs)
    if low > high:
        return None
    return (low if low > -math.inf else None, high if high < math.inf else None)
