"""The difference of two proportions by Newcombe's hybrid of two Wilson intervals (Newcombe 1998, method 10, no continuity correction)."""

import math

from analytics.inference.proportion import ProportionContrast


def wilson_interval(successes: int, n: int, critical: float) -> tuple[float, float]:
    """Wilson's (1927) score interval of one proportion, `critical` standard errors wide; exactly 0 or 1 where all units agree."""
    square = critical * critical
    share = successes / n
    centre = share + square / (2 * n)
    half = critical * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if successes == 0 else (centre - half) / (1 + square / n)
    high = 1.0 if successes == n else (centre + half) / (1 + square / n)
    return (low, high)


def newcombe_interval(contrast: ProportionContrast, critical: float) -> tuple[float, float]:
    """Of treated - control: each end moves one arm to the far, the other to the near end of its Wilson interval."""
    a, b = contrast.control, contrast.treated
    low_a, high_a = wilson_interval(contrast.x_a, contrast.n_a, critical)
    low_b, high_b = wilson_interval(contrast.x_b, contrast.n_b, critical)
    return (b - a - math.hypot(b - low_b, high_a - a), b - a + math.hypot(high_b - b, a - low_a))
