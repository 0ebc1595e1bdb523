"""Asymptotic confidence sequences: valid however often and whenever one looks.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv 2103.06476v7, eq. 9 (two-sided), 134 (one-sided), 155 and 161 (where it is tightest).
Critical values are in standard errors, so they take the place of a z or t quantile.
"""

import math

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
    """How many standard errors the interval reaches to each side, with `units` in both arms together."""
    weight = units * tightness(alpha, planned_units)
    return math.sqrt(2 * (weight + 1) / weight * (math.log1p(weight) / 2 - math.log(alpha)))


def e_value(statistic: float, units: int, alpha: float, planned_units: float) -> float:
    """Evidence against "no change"; >= 1/alpha exactly when the two-sided interval excludes 0. At most `LARGEST_E`."""
    weight = units * tightness(alpha, planned_units)
    log = weight * statistic * statistic / (2 * (weight + 1)) - math.log1p(weight) / 2
    return math.exp(log) if log < math.log(LARGEST_E) else LARGEST_E


def one_sided_critical(units: int, alpha: float, planned_units: float) -> float:
    """How many standard errors a one-sided bound lies from the estimate."""
    weight = units * tightness(2 * alpha, planned_units)
    return math.sqrt(2 * (weight + 1) / weight * math.log1p(math.sqrt(weight + 1) / (2 * alpha)))


def one_sided_p(statistic: float, units: int, alpha: float, planned_units: float) -> float:
    """Always-valid p of "not above 0"; <= alpha exactly when the lower bound exceeds 0."""
    if statistic <= 0:
        return 1.0
    weight = units * tightness(2 * alpha, planned_units)
    exponent = weight * statistic * statistic / (2 * (weight + 1))
    # sqrt(1 + weight)/(2 (e^x - 1)), in the form that neither overflows nor cancels.
    return min(1.0, math.sqrt(weight + 1) / 2 * math.exp(-exponent) / -math.expm1(-exponent)) if exponent > 0 else 1.0
