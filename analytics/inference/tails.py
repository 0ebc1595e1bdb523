"""Tails and quantiles of the normal, Student's t and chi-square, exact far out (never 1 - cdf)."""

import math

from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

FRACTION_TERMS = 60


def two_sided_p(statistic: float, df: float | None = None) -> float:
    """P(|T_df| >= |statistic|); the normal when `df` is None."""
    tail = -abs(statistic)
    return min(1.0, 2.0 * float(ndtr(tail) if df is None else stdtr(df, tail)))


def upper_p(statistic: float, df: float | None = None) -> float:
    """P(T_df >= statistic); the normal when `df` is None."""
    return float(ndtr(-statistic) if df is None else stdtr(df, -statistic))


def two_sided_critical(alpha: float, df: float | None = None) -> float:
    """The c with P(|T_df| > c) = `alpha`."""
    return -float(ndtri(alpha / 2) if df is None else stdtrit(df, alpha / 2))


def normal_statistic(p_value: float) -> float:
    """The |z| whose two-sided p is `p_value`; infinite at 0."""
    return -float(ndtri(p_value / 2)) if p_value > 0 else math.inf


def chi_square_p(statistic: float, df: int) -> float:
    """P(X >= statistic) for chi-square with `df` >= 1 degrees of freedom."""
    return float(chdtrc(df, statistic))


def chi_square_log10_p(statistic: float, df: int) -> float:
    """log10 of `chi_square_p`, also where that is below what a double holds: Legendre's continued fraction of the upper
    incomplete gamma function (Abramowitz & Stegun 6.5.31). Raises ValueError for an infinite statistic."""
    if not math.isfinite(statistic):
        raise ValueError(f"the chi-square statistic is {statistic}; it must be finite")
    p = chi_square_p(statistic, df)
    if p > 1e-280:
        return math.log10(p)
    a, x = df / 2, statistic / 2
    fraction = x - a + 2 * FRACTION_TERMS + 1
    for i in range(FRACTION_TERMS, 0, -1):
        fraction = x - a + 2 * i - 1 - i * (i - a) / fraction
    return (-x + a * math.log(x) - math.lgamma(a) - math.log(fraction)) / math.log(10)
