"""Which interval is shown: the declared one, unless it would contradict the test; then the one that inverts the very test.

Delta method, log-delta and Fieller for lifts, Newcombe for differences of proportions: at the edge of significance the first,
second and last may say "no change" is possible where the test rejects it, or the reverse.
"""

import math
from typing import Literal

import msgspec

from analytics.inference.contrast import UNBOUNDED, Contrast, Interval
from analytics.inference.exact import ExactContrast
from analytics.inference.newcombe import newcombe_interval
from analytics.inference.proportion import ProportionContrast

LiftMethod = Literal["delta", "fieller", "log_delta"]
TINY = 1e-300
# Above this share of the control's mean, critical x its standard error makes the lift too skewed for the delta method (g of
# Fieller's interval is its square): measured in benchmarks/statistics, 15 conversions an arm at one look, or 100 buyers at any look.
TOO_NOISY = 0.5
NAMES = {"delta": "delta method", "fieller": "Fieller's interval", "log_delta": "log-delta method"}


class Critical(msgspec.Struct, frozen=True, kw_only=True):
    """How many standard errors an interval reaches: that of the test (and of the difference), and those of the lift by the
    delta method and on the log scale, whose degrees of freedom may be others."""

    test: float
    lift: float
    log: float


class Shown(msgspec.Struct, frozen=True):
    """An interval and how it was made, in words."""

    interval: Interval
    method: str


def difference_shown(contrast: Contrast, critical: Critical) -> Shown:
    """Newcombe's interval of two proportions, Mee's where it would contradict the test; for means difference ± critical x se."""
    if isinstance(contrast, ExactContrast):
        inverted = _kept_to_test(finite(contrast.difference_interval(critical.test)), contrast, critical.test)
        return Shown(inverted, "difference by Mee's score interval, moved to agree with it")
    if not isinstance(contrast, ProportionContrast):
        return Shown(finite(contrast.difference_interval(critical.test)), "")
    interval = newcombe_interval(contrast, critical.test)
    if _agrees(interval, contrast, critical.test):
        return Shown(interval, "difference by Newcombe's interval")
    inverted = _kept_to_test(finite(contrast.difference_interval(critical.test)), contrast, critical.test)
    return Shown(inverted, "difference by Mee's score interval (Newcombe's would contradict the test)")


def lift_shown(contrast: Contrast, critical: Critical, method: LiftMethod) -> Shown:
    """The interval of (treated - control)/|control|; (None, None) where there is no lift or it is unbounded."""
    if not contrast.control:
        return Shown(UNBOUNDED, "no lift: the control's mean is 0")
    exact = isinstance(contrast, ExactContrast)
    inverting = "Koopman's score interval" if exact or isinstance(contrast, ProportionContrast) else NAMES["fieller"]
    interval = None if exact else _declared(contrast, critical, method)
    if interval is not None and _agrees(interval, contrast, critical.test):
        return Shown(interval, NAMES[method])
    inverted = _as_lift(contrast, contrast.ratio_interval(critical.test))
    if inverted == UNBOUNDED or not _agrees(inverted, contrast, critical.test):
        return Shown(UNBOUNDED, "lift unbounded: the control's mean is not told from 0")
    if exact:
        return Shown(inverted, f"{inverting}, moved to agree with the exact test")
    why = f" (the {NAMES[method]} {_why_not(contrast, critical, interval)})" if method != "fieller" else ""
    return Shown(inverted, inverting + why)


def _why_not(contrast: Contrast, critical: Critical, interval: Interval | None) -> str:
    if interval is not None:
        return "would contradict the test"
    return "needs a control mean that is less noisy" if _too_noisy(contrast, critical.lift) else "cannot be told"


def _too_noisy(contrast: Contrast, critical: float) -> bool:
    return critical * math.sqrt(max(0.0, contrast.control_variance)) > TOO_NOISY * abs(contrast.control)


def finite(interval: Interval) -> Interval:
    """The interval, or (None, None) unless both ends are finite."""
    low, high = interval
    return interval if low is not None and high is not None and math.isfinite(low) and math.isfinite(high) else UNBOUNDED


def _declared(contrast: Contrast, critical: Critical, method: LiftMethod) -> Interval | None:
    """None where the method says nothing: no spread, or a logarithm of a mean that is not above 0."""
    if method == "fieller":
        return None
    if method == "log_delta":
        log = contrast.log_ratio
        if log is None or not 0 < log.se < math.inf or log.se * critical.log > 700:
            return None
        ratio = 1 + contrast.difference / contrast.control
        return _or_none((ratio * math.exp(-critical.log * log.se) - 1, ratio * math.exp(critical.log * log.se) - 1))
    se = contrast.relative_se
    if se is None or not 0 < se < math.inf or _too_noisy(contrast, critical.lift):
        return None
    lift = contrast.difference / abs(contrast.control)
    return _or_none((lift - critical.lift * se, lift + critical.lift * se))


def _or_none(interval: Interval) -> Interval | None:
    return None if finite(interval) == UNBOUNDED else interval


def _agrees(interval: Interval, contrast: Contrast, critical: float) -> bool:
    """Does the interval exclude 0 exactly when the test rejects?"""
    low, high = interval
    if low is None or high is None:
        return False
    return (low > 0 or high < 0) == (abs(contrast.statistic()) > critical)


def _kept_to_test(interval: Interval, contrast: Contrast, critical: float) -> Interval:
    """Rounding (5 units against a hundred million) does not turn the test's answer around: the end next to 0 stays on its side."""
    low, high = interval
    if low is None or high is None or _agrees(interval, contrast, critical):
        return interval
    if abs(contrast.statistic()) <= critical:
        return (min(low, 0.0), max(high, 0.0))
    return (max(low, TINY), max(high, TINY)) if contrast.difference > 0 else (min(low, -TINY), min(high, -TINY))


def _as_lift(contrast: Contrast, ratio: Interval) -> Interval:
    """An interval of treated/control as one of (treated - control)/|control|."""
    low, high = ratio
    if low is None or high is None:
        return UNBOUNDED
    return finite((low - 1, high - 1) if contrast.control > 0 else (1 - high, 1 - low))
