"""Ratios of two per-unit totals by the delta method (Deng, Knoblich & Lu 2018, arXiv 1803.06336, §2)."""

import math

from analytics.facts import Moments
from analytics.inference.contrast import LinearContrast, welch_contrast

# Below this share of its own terms the variance is rounding noise: the numerator is a constant times the denominator.
ROUNDING = 1e-12


def ratio_contrast(control: Moments, treated: Moments) -> LinearContrast | None:
    """Welch's difference of ratios sum(y)/sum(d). None when an arm has n < 2 or no denominator, or nothing varies."""
    a, b = ratio_value(control), ratio_value(treated)
    if a is None or b is None:
        return None
    return welch_contrast(
        control=a,
        control_variance=ratio_variance(control),
        control_n=control.n,
        treated=b,
        treated_variance=ratio_variance(treated),
        treated_n=treated.n,
        units=control.n + treated.n,
    )


def ratio_value(moments: Moments) -> float | None:
    """sum(y)/sum(d); None when the denominator is 0 or there are no units."""
    if moments.n == 0 or moments.denominator_mean == 0 or not math.isfinite(moments.denominator_mean):
        return None
    return moments.mean / moments.denominator_mean


def ratio_variance(moments: Moments) -> float:
    """Variance per unit of the linearised ratio, (y - R d)/mean(d), with n - 1; 0 where it cannot be told."""
    value = ratio_value(moments)
    if value is None or moments.n < 2:
        return 0.0
    terms = moments.m2 + value * value * moments.denominator_m2
    total = terms - 2 * value * moments.comoment
    if not (total > ROUNDING * terms and total < math.inf):
        return 0.0
    # Divided twice, for a square could over- or underflow.
    return total / (moments.n - 1) / moments.denominator_mean / moments.denominator_mean
