"""Means per unit: Welch's t (stats of each arm apart, no pooled variance)."""

from analytics.facts import Moments
from analytics.inference.contrast import LinearContrast, welch_contrast


def mean_contrast(control: Moments, treated: Moments) -> LinearContrast | None:
    """Welch's difference of means. None when n < 2 in an arm or neither arm varies."""
    return welch_contrast(
        control=control.mean,
        control_variance=mean_variance(control),
        control_n=control.n,
        treated=treated.mean,
        treated_variance=mean_variance(treated),
        treated_n=treated.n,
        units=control.n + treated.n,
    )


def mean_variance(moments: Moments) -> float:
    """Variance per unit with n - 1; 0 for fewer than 2 units."""
    return max(0.0, moments.m2) / (moments.n - 1) if moments.n > 1 else 0.0
