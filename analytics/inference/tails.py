"""Tails and quantiles of the normal, Student's t and chi-square, exact far out (never 1 - cdf)."""

import math

from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit


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
