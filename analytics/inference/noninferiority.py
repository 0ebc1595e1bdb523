"""Is an arm worse than the control by more than a margin? One-sided, always valid, for guardrails."""

from typing import Literal

from analytics.inference.confidence_sequence import one_sided_critical
from analytics.inference.contrast import Contrast
from analytics.inference.tails import two_sided_critical


def worse_than_margin(contrast: Contrast, margin: float, better: Literal["up", "down"], alpha: float, planned_units: float) -> bool | None:
    """True: established worse by more than `margin` (relative to the control); False: established not; None: not known yet.

    Each side's error stays below `alpha` over all looks. Never sharper than the two-sided t interval at `alpha`, so the
    answer cannot contradict the interval shown.
    """
    critical = max(one_sided_critical(contrast.units, alpha, planned_units), two_sided_critical(alpha, contrast.df))
    statistic = contrast.statistic(margin_ratio(contrast.control, margin, better))
    worse = statistic if better == "down" else -statistic
    return True if worse > critical else False if worse < -critical else None


def margin_remark(control: float, margin: float) -> str:
    """What a relative margin comes to where the control's mean is 0 or below; else empty."""
    if control > 0:
        return ""
    if control == 0:
        return f"a margin of {margin:.0%} of a control of 0 allows nothing: any loss that is established breaks it"
    return f"the margin is {margin:.0%} of the control's absolute mean, which is below 0"


def margin_ratio(control: float, margin: float, better: Literal["up", "down"]) -> float:
    """The ratio treated/control that lies just at the margin; a control below 0 gets worse in the other direction."""
    upwards = (better == "down") == (control >= 0)
    return 1 + margin if upwards else max(0.0, 1 - margin)
