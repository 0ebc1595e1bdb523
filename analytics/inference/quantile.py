"""Quantiles of events clustered by unit (Deng, Knoblich & Lu 2018, arXiv 1803.06336, §4)."""

import math

from analytics.facts import QuantileFacts
from analytics.inference.contrast import LinearContrast, welch_contrast
from analytics.inference.tails import two_sided_critical

LEVEL = 0.05


def quantile_contrast(control: QuantileFacts, treated: QuantileFacts) -> LinearContrast | None:
    """Difference of two quantiles. None where an arm is too small for its level (see `quantile_variance`)."""
    a, b = quantile_variance(control), quantile_variance(treated)
    if a is None or b is None:
        return None
    return welch_contrast(
        control=control.value,
        control_variance=a,
        control_n=control.events,
        treated=treated.value,
        treated_variance=b,
        treated_n=treated.events,
        units=control.units + treated.units,
    )


def quantile_half_width(level: float, events: int) -> float:
    """h: how far in level the two outer quantiles lie from `level`, z_.975 sqrt(level (1 - level)/events)."""
    return two_sided_critical(LEVEL) * math.sqrt(level * (1 - level) / events)


def quantile_variance(facts: QuantileFacts) -> float | None:
    """Variance per event of the sample quantile. None when level ± h leaves (0, 1), the outer quantiles are equal,
    or fewer than 2 units: then the data cannot say how far the quantile could be off."""
    if facts.events < 2 or facts.units < 2 or facts.count_mean <= 0:
        return None
    h = quantile_half_width(facts.level, facts.events)
    if not h < min(facts.level, 1 - facts.level) or not facts.high > facts.low:
        return None
    sd = (facts.high - facts.low) / (2 * two_sided_critical(LEVEL))
    share = facts.below_mean / facts.count_mean
    spread = max(0.0, facts.below_m2 - 2 * share * facts.comoment + share * share * facts.count_m2) / (facts.units - 1)
    # Divided twice, and multiplied, for a square could over- or underflow.
    clustered = spread / facts.units / facts.count_mean / facts.count_mean
    independent = facts.level * (1 - facts.level) / facts.events
    variance = (facts.events - 1) * sd * sd * clustered / independent
    return variance if math.isfinite(variance) else None
